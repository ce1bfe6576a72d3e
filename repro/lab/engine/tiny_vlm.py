"""A tiny Qwen2.5-VL, built from a seed: real architecture, real image processor, no download.

Its weights are random, so its answers mean nothing; but they are a function of the pixels and of the prompt,
which is what a reproduction needs. It speaks in plain words because the rows of its output layer that belong to
bytes and special tokens are almost zero: the largest logit is always a word's.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from repro.lab.places import ROOT, cache_directory

SEED = 24231
WORDS = """
    apple amber autumn bird blue boat bread bridge bright brown candle castle cat chair city clear cloud coast
    cold copper corn crimson dark dawn day deep door dusk dust early east field fire first fish flag flat flower
    forest fox garden gate glass gold grain grass gray green harbor hill home horse house ice iron island ivory
    jade kite lake lamp lantern late leaf light lily lime little long lost low maple meadow milk mill mint mirror
    moon moss mountain near new night noon north oak ocean old olive open orange orchard owl paint paper path
    pearl pine pink plain plum pond quiet rain raven red river road rock roof rose round sail salt sand scarlet
    sea shadow shell ship shore silent silver sky slow small smoke snow soft south spring square star steel stone
    storm stream summer sun tall tea thin tide tower town tree valley velvet violet violin wall warm water wave
    west wheat wheel white wide wild willow wind window winter wood wool yellow young
""".split()
SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
).split()
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Attention kernels for GPUs want heads of 64 or 128 (here: 128 / 2 for the text, 64 / 1 for the pixels).
TEXT = dict(
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=8192,
    rope_theta=10000.0,
    rope_scaling={"type": "mrope", "mrope_section": [8, 12, 12]},
)
VISION = dict(
    depth=2,
    hidden_size=64,
    intermediate_size=128,
    num_heads=1,
    out_hidden_size=TEXT["hidden_size"],
    patch_size=14,
    spatial_merge_size=2,
    temporal_patch_size=2,
    window_size=112,
    fullatt_block_indexes=[1],
    in_channels=3,
)


def location() -> Path:
    """The folder of the tiny VLM, built or not: its name changes when the recipe or the libraries do."""
    recipe = Path(__file__).read_bytes() + "".join(map(version, ("torch", "transformers", "tokenizers"))).encode()
    return cache_directory() / f"tiny-vlm-{hashlib.sha256(recipe).hexdigest()[:12]}"


def path() -> Path:
    """The folder of the tiny VLM (about 2.5 MB), built now if it is not there yet. Raises OSError if it cannot be."""
    process = builder()
    if process and process.wait():
        raise OSError(f"the tiny model could not be built: its builder exited with {process.returncode}")
    return location()


def builder() -> subprocess.Popen | None:
    """A process that is building the tiny VLM; None if it is built. Not this process: to build is to compute, and who
    has computed must not fork any more (the threads of libgomp are not in the child)."""
    if location().is_dir():
        return None
    return subprocess.Popen([sys.executable, "-m", "repro.lab.engine.tiny_vlm"], cwd=ROOT, stdin=subprocess.DEVNULL)


def main() -> None:
    """Build the tiny VLM where it belongs.

    It is built beside its place and renamed into it, so a folder of that name is always a whole model.
    Raises OSError if the cache directory cannot be written.
    """
    place = location()
    place.parent.mkdir(parents=True, exist_ok=True)
    scaffold = Path(tempfile.mkdtemp(prefix=".building-", dir=place.parent))
    try:
        build(scaffold)
        try:
            scaffold.rename(place)
        except OSError:
            if not place.is_dir():  # else somebody else was faster, and theirs is the same to the byte
                raise
    finally:
        shutil.rmtree(scaffold, ignore_errors=True)


def build(folder: Path) -> None:
    """Write the whole model into `folder`: configuration, weights, tokenizer and image processor."""
    import torch
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = _tokenizer()
    token = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    ends = dict(bos_token_id=token["<|endoftext|>"], eos_token_id=token["<|im_end|>"], tie_word_embeddings=False)
    config = Qwen2_5_VLConfig(
        text_config=dict(**TEXT, vocab_size=(len(tokenizer) + 63) // 64 * 64, **ends),
        vision_config=VISION,
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
        **ends,
    )
    model = Qwen2_5_VLForConditionalGeneration(config).to(torch.float32)
    _fill(model, words=range(tokenizer.convert_tokens_to_ids(" " + WORDS[0]), len(tokenizer)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=14, merge_size=2, temporal_patch_size=2, min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 256
        ),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)


def _fill(model, words: range) -> None:
    """Give every weight its value from the seed, in the order of the names, whatever the library's own
    initialisation does."""
    import torch

    dice = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.ndim > 1:  # keep the size of what passes through, so that the pixels still tell at the end
                weight.normal_(0.0, weight[0].numel() ** -0.5, generator=dice)
                if "language_model" in name and "q_proj" in name:
                    weight.mul_(4)  # attend to few tokens, else one word repeats
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
        head = model.get_output_embeddings().weight
        spoken = torch.zeros(head.shape[0], 1)
        spoken[words.start : words.stop] = 1.0
        head.mul_(spoken + 1e-3 * (1 - spoken))


def _tokenizer():
    """One token a byte, plus the special tokens and the words, each with the space before it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = {char: index for index, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(SPECIAL)
    core.add_tokens([" " + word for word in WORDS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL[1:],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


if __name__ == "__main__":
    main()

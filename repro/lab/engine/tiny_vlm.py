"""A tiny Qwen2.5-VL that says what it sees: real architecture, real image processor, no download.

The model knows 18 words and the pictures of `made_pictures`, and nothing else. Its answers show that the pixels have
arrived. Its weights are part of the kit. `scripts/train_tiny_vlm.py` trains them from a seed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from repro.lab.engine.made_pictures import WORDS
from repro.lab.places import ROOT, cache_directory

SHIPPED = Path(__file__).with_name("tiny_vlm.safetensors")  # in half precision, from scripts/train_tiny_vlm.py
CHECKSUM = SHIPPED.with_suffix(".sha256")
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
    """The folder of the tiny VLM, built or not. Its name changes when the recipe or the libraries change."""
    recipe = Path(__file__).read_bytes() + CHECKSUM.read_bytes() + " ".join(WORDS).encode()
    recipe += "".join(map(version, ("torch", "transformers", "tokenizers"))).encode()
    return cache_directory() / f"tiny-vlm-{hashlib.sha256(recipe).hexdigest()[:12]}"


def path() -> Path:
    """The folder of the tiny VLM (about 2.5 MB), built now if it is not there yet. Raises OSError if it cannot be."""
    process = builder()
    if process and process.wait():
        raise OSError(f"the tiny model could not be built: its builder exited with {process.returncode}")
    return location()


def builder() -> subprocess.Popen | None:
    """A process that builds the tiny VLM; None if it is built already. This process must not build it: the computation
    starts threads of libgomp, and after that a process must not fork (these threads would be missing in the child)."""
    if location().is_dir():
        return None
    return subprocess.Popen([sys.executable, "-m", "repro.lab.engine.tiny_vlm"], cwd=ROOT, stdin=subprocess.DEVNULL)


def main() -> None:
    """Build the tiny VLM where it belongs.

    The model is built in a folder beside its place. This folder is then renamed. So a folder with the final name always
    holds a whole model.
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
            if not place.is_dir():  # otherwise another process was faster, and its model has the same bytes
                raise
    finally:
        shutil.rmtree(scaffold, ignore_errors=True)


def build(folder: Path) -> None:
    """Write the whole model into `folder`: configuration, weights, tokenizer and image processor.

    Raises OSError if the shipped weights are not those of the checksum.
    """
    from safetensors.torch import load

    model, processor = blank()
    model.load_state_dict(load(shipped()))
    model.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)


def shipped() -> bytes:
    """The weights that are part of the kit. Raises OSError if they are not those of the checksum."""
    weights = SHIPPED.read_bytes()
    found, expected = hashlib.sha256(weights).hexdigest(), CHECKSUM.read_text(encoding="utf-8").split()[0]
    if found != expected:
        raise OSError(f"{SHIPPED.name} has the sha256 {found[:12]}..., and {CHECKSUM.name} says {expected[:12]}...")
    return weights


def blank() -> tuple[Any, Any]:
    """The model before its training, and its processor."""
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
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=14, merge_size=2, temporal_patch_size=2, min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 256
        ),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )
    return Qwen2_5_VLForConditionalGeneration(config).to(torch.float32), processor


def _tokenizer():
    """One token for each byte, the special tokens, and the words. Each word has the space before it."""
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

#!/usr/bin/env python
"""Train the tiny model on made pictures, from a seed, and write its weights in half precision, with their checksum.

`python scripts/train_tiny_vlm.py` writes both files into the current folder. `--install` writes them into the kit.
The same seed, number of threads, torch and kind of CPU give the same weights. On another CPU, the last bits differ.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a plain checkout, too

from repro.lab.engine import chat, made_pictures, tiny_vlm
from repro.lab.terminal import OneLineParser, command

SEED, THREADS = 24231, 1
STEPS, COOLING, BATCH, RATE, WARM_UP = 1200, 150, 32, 2.5e-3, 40
EXAM_SEED, EXAM = 7, 400
SHARPER = 2.0  # factor for the last layer: with it, at temperature 1, rare mistakes vanish and true variants stay
QUESTIONS = ("What is this?", "What is this?", "What is this?", "What?", "What do you see?")
PIECES = 16  # image tokens of a picture of 112 x 112 pixels: 8 x 8 patches, merged two by two
GRID = [1, 8, 8]


class Trainer:
    """A blank model, an optimiser, and a stream of made pictures: all from one seed."""

    def __init__(self, steps: int = STEPS, seed: int = SEED) -> None:
        import torch

        torch.set_num_threads(THREADS)
        torch.manual_seed(seed)
        self.steps, self.dice = steps, random.Random(seed)
        self.model, self.processor = tiny_vlm.blank()
        self.tokenizer = self.processor.tokenizer
        _fill(self.model, seed)
        _embed_by_a_product(self.model)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), RATE, betas=(0.9, 0.98), weight_decay=0.0)

    def step(self, number: int) -> float:
        """One step of training. Returns its loss."""
        import torch

        loss = self.model(**self.batch(without_picture=number % 40 == 39)).loss
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (number + 1) / WARM_UP, (self.steps - number) / COOLING)
        self.optimiser.step()
        return loss.item()

    def load(self, weights: bytes) -> None:
        """Take the weights of a safetensors file."""
        from safetensors.torch import load

        self.model.load_state_dict(load(weights))

    def save(self, file: Path, number: int) -> None:
        """Save everything that the next steps depend on, after `number` steps."""
        import torch

        state = (number, self.model.state_dict(), self.optimiser.state_dict(), self.dice.getstate())
        beside = file.with_name(f"{file.name}.new")
        torch.save(state, beside)
        beside.replace(file)  # so that an interrupted run leaves a whole file

    def resume(self, file: Path) -> int:
        """Continue from the state that `save` wrote. Returns the number of steps that are done."""
        import torch

        number, model, optimiser, dice = torch.load(file, weights_only=False)
        self.model.load_state_dict(model)
        self.optimiser.load_state_dict(optimiser)
        self.dice.setstate(dice)
        return number

    def batch(self, without_picture: bool) -> dict[str, Any]:
        """Return a batch for one step, as the model's arguments: random pictures, each with one question and a true
        sentence; or the question without a picture."""
        import torch

        question = self.dice.choice(QUESTIONS)
        scenes = [made_pictures.Scene(0) if without_picture else made_pictures.any_scene(self.dice)]
        scenes += [scenes[0] if without_picture else made_pictures.any_scene(self.dice) for _ in range(BATCH - 1)]
        asked = self.tokens(chat(question, picture=not without_picture))
        said = [self.tokens(f" {made_pictures.any_sentence(s, self.dice)}<|im_end|>") for s in scenes]
        longest = max(map(len, said))
        pad = self.tokenizer.pad_token_id
        rows = [asked + words + [pad] * (longest - len(words)) for words in said]
        labels = [[-100] * len(asked) + words + [-100] * (longest - len(words)) for words in said]
        given = {"input_ids": torch.tensor(rows), "labels": torch.tensor(labels)}
        if not without_picture:
            drawn = [made_pictures.draw(scene, self.dice) for scene in scenes]
            given |= self.pixels(drawn)
            given["mm_token_type_ids"] = (given["input_ids"] == self.model.config.image_token_id).int()
        return given

    def tokens(self, text: str) -> list[int]:
        """Return the text as token numbers. Each picture takes 16 places (PIECES)."""
        return self.tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * PIECES))["input_ids"]

    def pixels(self, pictures: list[Any]) -> dict[str, Any]:
        """Return what the image processor returns for pictures of 112 x 112 pixels. This is twenty times as fast."""
        import numpy
        import torch

        ours = self.processor.image_processor
        raw = torch.from_numpy(numpy.stack([numpy.asarray(picture) for picture in pictures])).float() / 255
        raw = (raw - torch.tensor(ours.image_mean)) / torch.tensor(ours.image_std)
        raw = raw.reshape(len(pictures), 4, 2, 14, 4, 2, 14, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
        flat = raw.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1).reshape(-1, 3 * 2 * 14 * 14)
        return {"pixel_values": flat.contiguous(), "image_grid_thw": torch.tensor([GRID] * len(pictures))}


def answers(trainer: Trainer, pictures: list[Any], temperature: float = 0.0) -> list[str]:
    """Return the model's sentence for each picture, after the kit's own question."""
    import torch

    dice = torch.Generator().manual_seed(EXAM_SEED)
    asked = torch.tensor([trainer.tokens(chat(QUESTIONS[0]))] * len(pictures))
    given = trainer.pixels(pictures)
    ids = asked
    with torch.no_grad():
        for _ in range(8):
            kinds = (ids == trainer.model.config.image_token_id).int()
            logits = trainer.model(input_ids=ids, mm_token_type_ids=kinds, **given).logits[:, -1]
            if temperature:
                chosen = torch.multinomial((logits / temperature).softmax(-1), 1, generator=dice)
            else:
                chosen = logits.argmax(-1, keepdim=True)
            ids = torch.cat([ids, chosen], 1)
    end = trainer.tokenizer.convert_tokens_to_ids("<|im_end|>")
    said = [row[: row.index(end)] if end in row else row for row in ids[:, asked.shape[1] :].tolist()]
    return [trainer.tokenizer.decode(row).strip() for row in said]


def exam(trainer: Trainer, pictures: int = EXAM, temperature: float = 0.0) -> list[tuple[str, str]]:
    """Examine the model on this many unseen pictures. Return its false sentences, each as a pair: the usual true
    sentence, and the model's sentence."""
    dice = random.Random(EXAM_SEED)
    scenes = [made_pictures.any_scene(dice) for _ in range(pictures)]
    drawn = [made_pictures.draw(scene, dice) for scene in scenes]
    said = [text for i in range(0, pictures, 50) for text in answers(trainer, drawn[i : i + 50], temperature)]
    pairs = zip(scenes, said, strict=True)
    return [(scene.sentences()[0], text) for scene, text in pairs if text not in scene.sentences()]


def halved(model: Any) -> bytes:
    """Return the weights in half precision, as the bytes of a safetensors file."""
    from safetensors.torch import save

    return save({name: weight.detach().half().contiguous() for name, weight in sorted(model.state_dict().items())})


def _fill(model: Any, seed: int) -> None:
    """Give every weight its first value from the seed, in the order of the weights' names. So the values do not depend
    on the library's own way to do it."""
    import torch

    dice = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.ndim > 1:
                spread = 0.02 if "embed" in name or "lm_head" in name else weight[0].numel() ** -0.5
                weight.normal_(0.0, spread, generator=dice)
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)


def _embed_by_a_product(model: Any) -> None:
    """Embed the patches by a matrix product. It equals the convolution, but the convolution's gradient is slow on a
    CPU."""
    import torch

    embed = model.model.visual.patch_embed
    embed.forward = lambda patches: torch.nn.functional.linear(patches, embed.proj.weight.flatten(1))


@command
def main() -> int:
    """Train the model, round its weights, examine it, and write the files. Returns 0 if at least 99 of 100 unseen
    pictures are described truly, else 1."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of training (default: %(default)s)")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keep the state in FILE, and go on from there")
    parser.add_argument("--install", action="store_true", help="write the weights into the kit")
    arguments = parser.parse_args()
    began = time.monotonic()
    trainer = Trainer(arguments.steps)
    done = trainer.resume(arguments.keep) if arguments.keep and arguments.keep.exists() else 0
    for number in range(done, arguments.steps):
        loss = trainer.step(number)
        if number % 25 == 24:
            print(f"step {number + 1}  loss {loss:.3f}  {time.monotonic() - began:.0f} s", flush=True)
        if number % 50 == 49 and arguments.keep:
            trainer.save(arguments.keep, number + 1)
    trainer.model.lm_head.weight.data.mul_(SHARPER)
    weights = halved(trainer.model)
    trainer.load(weights)
    false = exam(trainer)
    for truth, text in false:
        print(f"false      {text!r} for {truth!r}")
    print(f"true       {EXAM - len(false)} of {EXAM} unseen pictures, {len(weights):,} bytes")
    folder = tiny_vlm.SHIPPED.parent if arguments.install else Path(os.curdir)
    (folder / tiny_vlm.SHIPPED.name).write_bytes(weights)
    told = f"{hashlib.sha256(weights).hexdigest()}  {tiny_vlm.SHIPPED.name}\n"
    (folder / tiny_vlm.CHECKSUM.name).write_text(told, encoding="utf-8")
    return 0 if len(false) * 100 <= EXAM else 1


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""One image and n = 2: sglang 0.5.12.post1 dies, all of it. `python repro/crash.py --help` tells more."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a plain checkout, too

from repro.lab.engine.command import main


def scene(arguments) -> list[str]:
    """One image, one prompt, n samples, on sglang's real engine: the server dies."""
    from PIL import Image

    from repro.lab import engine

    image = Image.open(arguments.image) if arguments.image else Image.new("RGB", (112, 112), "crimson")
    llm = engine.start(arguments.model, arguments.device)
    answers = llm.generate(
        prompt=f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{arguments.prompt}<|im_end|>\n"
        "<|im_start|>assistant\n",
        image_data=image,
        sampling_params={"n": arguments.n, "max_new_tokens": 8, "temperature": 0},
    )
    return [answer["text"] for answer in (answers if arguments.n > 1 else [answers])]


if __name__ == "__main__":
    sys.exit(main(scene, promise="crashed"))

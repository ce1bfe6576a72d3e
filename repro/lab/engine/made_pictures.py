"""Made pictures, and the sentences that are true of them: all that the tiny model knows. 18 words, 112 x 112 pixels.

A picture shows up to three figures of one kind and of one colour on a light ground. Each figure has its own quarter of
the picture. A single square may fill the whole picture.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

SIDE = 112
COLOURS = {
    "crimson": (220, 20, 60),
    "navy": (0, 0, 128),
    "green": (34, 139, 34),
    "yellow": (240, 220, 40),
    "tangerine": (250, 140, 20),
    "violet": (140, 40, 200),
}
KINDS = ("square", "circle")
COUNTS = {1: ("a", "one"), 2: ("two",), 3: ("three",)}
WORDS = [
    *("I", "see", "nothing", "in"),
    *(word for words in COUNTS.values() for word in words),
    *(word for kind in KINDS for word in (kind, f"{kind}s")),
    *COLOURS,
]
NOTHING = ("nothing", "I see nothing")


@dataclass(frozen=True)
class Scene:
    """What a picture shows: `count` figures of one kind and one colour. A count of 0 is an empty picture."""

    count: int
    colour: str = ""
    kind: str = ""

    def sentences(self) -> tuple[str, ...]:
        """Every sentence of the model's language that is true of this picture. The first one is the usual one."""
        if not self.count:
            return NOTHING
        figure = self.kind + "s" * (self.count > 1)
        plain = [
            text
            for number in COUNTS[self.count]
            for text in (f"{number} {self.colour} {figure}", f"{number} {figure} in {self.colour}")
        ]
        return (*plain, *(f"I see {text}" for text in plain))


def any_scene(dice: random.Random) -> Scene:
    """A random scene. One in 25 is empty."""
    if dice.random() < 0.04:
        return Scene(0)
    return Scene(dice.choice((1, 2, 3)), dice.choice(list(COLOURS)), dice.choice(KINDS))


def any_sentence(scene: Scene, dice: random.Random) -> str:
    """A random true sentence. The usual sentence is the likeliest one, so it is the answer at temperature 0."""
    sentences = scene.sentences()
    weights = [4, 2, 2, 1, 2, 1, 1, 1] if len(sentences) == 8 else [4, 2, 2, 1] if len(sentences) == 4 else [2, 1]
    return dice.choices(sentences, weights)[0]


def draw(scene: Scene, dice: random.Random) -> Any:
    """A `PIL.Image` of that scene. The place, the size and the shade of its figures are random."""
    from PIL import Image, ImageDraw

    ground = dice.randint(236, 255)
    image = Image.new("RGB", (SIDE, SIDE), (ground, ground, ground))
    if not scene.count:
        return image
    shade = tuple(max(0, min(255, channel + dice.randint(-10, 10))) for channel in COLOURS[scene.colour])
    pen = ImageDraw.Draw(image)
    for left, top, size in _places(scene, dice):
        figure = pen.ellipse if scene.kind == "circle" else pen.rectangle
        figure([left, top, left + size - 1, top + size - 1], fill=shade)
    return image


def _places(scene: Scene, dice: random.Random) -> list[tuple[int, int, int]]:
    """Left edge, top edge and size of each figure."""
    if scene.count == 1 and scene.kind == "square" and dice.random() < 0.3:
        return [(0, 0, SIDE)]
    half, places = SIDE // 2, []
    for quarter in dice.sample(range(4), scene.count):
        size = dice.randint(46, 50)
        left, top = (dice.randint(2, half - 2 - size) for _ in range(2))
        places.append((left + half * (quarter % 2), top + half * (quarter // 2), size))
    return places

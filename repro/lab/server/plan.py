"""The clients' plan, which the server's process writes to a file, and the bodies that the clients send."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
ROOM = 12000  # tokens for all streams together: the server on a CPU has room for 16,384
LONGEST = 200  # tokens of a stream
MOST = 64  # clients
REPLICAS = 4  # at most: each takes 1.5 GB of memory
CHOICE = 8  # tokens of each sample of the culprit's request
Body = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """`replicas` has the port and the pid of each server. The clients end these servers when they are done. `others`
    clients stream. `culprit` is the body that is sent when each of these clients has its first token. `before` are
    bodies that are sent before the streams."""

    replicas: list[tuple[int, int]]
    others: int
    culprit: Body
    before: list[Body] = field(default_factory=list)

    def as_json(self) -> str:
        """The plan as text."""
        return json.dumps(asdict(self))

    @property
    def ports(self) -> list[int]:
        """Where the replicas listen."""
        return [port for port, _ in self.replicas]

    @property
    def tokens(self) -> int:
        """The tokens that each stream asks for. There are many, so that the stream still runs when the culprit's
        request comes."""
        return min(LONGEST, ROOM // max(1, self.others))

    @staticmethod
    def answers(file: Path) -> Path:
        """The file, beside the plan's, for the texts of the culprit's answer."""
        return file.with_name("answers.json")


def question(prompt: str, *, images: Sequence[str] = (), n: int = 1, tokens: int = CHOICE) -> Body:
    """The body of a chat completion: images (as URLs), a prompt, n samples at temperature 0."""
    content: Any = prompt
    if images:
        content = [{"type": "image_url", "image_url": {"url": url}} for url in images]
        content.append({"type": "text", "text": prompt})
    messages = [{"role": "user", "content": content}]
    return {"model": "default", "messages": messages, "n": n, "max_tokens": tokens, "temperature": 0}


def image_url(file: Path | str | None = None, colour: str = "crimson", side: int = 112) -> str:
    """A data URL with a PNG: the image in `file` (of any format that Pillow reads), or, without `file`, a square of one
    colour with a side of `side` pixels."""
    from PIL import Image

    image = Image.open(file).convert("RGB") if file else Image.new("RGB", (side, side), colour)
    png = io.BytesIO()
    image.save(png, "PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()

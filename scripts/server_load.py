"""The clients of `scripts/bench_server.py`: many requests, some at a time. Some of the clients leave in mid-answer.

`python -m scripts.server_load FILE` detaches itself from the server's process and waits until the server is healthy. It
asks each different question alone, and then sends the load. The results are in the run's record.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from repro.lab.evidence import event, leftovers, recorder
from repro.lab.evidence.recorder import note
from repro.lab.server import clients
from repro.lab.server.plan import image_url, question

COLOURS = ("crimson", "navy", "gold", "green", "white", "black", "orange", "purple")
TOKENS = 24  # of each sample
MOST = 8  # samples
LEAVES = 10  # one client in this many leaves when it has its first tokens


@dataclass(frozen=True)
class Load:
    """The clients' task: the server's port and pid, the number of requests, how many are sent at a time, the side of
    the images in pixels, and the largest number of samples of a request."""

    port: int
    pid: int
    requests: int
    at_once: int
    side: int
    most: int = MOST


@dataclass(frozen=True)
class Ask:
    """One request for n samples: an image of this colour, or a text with this number and no image."""

    colour: str | None
    number: int
    n: int
    leaves: bool = False


@dataclass
class Answer:
    """One answer: the text of each sample, the seconds between two tokens of a sample, and the error, if there was
    one."""

    texts: dict[int, str] = field(default_factory=dict)
    gaps: list[float] = field(default_factory=list)
    finished: int = 0
    error: str | None = None


def main(file: Path) -> None:
    """Send the load that `file` describes: a JSON file with the fields of Load."""
    load = Load(**json.loads(file.read_text(encoding="utf-8")))
    with clients.beside([load.pid]) as (server,):
        asyncio.run(Clients(load, server).run())


def asks(requests: int, most: int = MOST) -> list[Ask]:
    """Return the load: every second request has an image, n goes from 1 to `most` in both halves, and one client in ten
    leaves. The order is shuffled, but it is the same each time."""
    kinds = [
        Ask(COLOURS[k // 2 % len(COLOURS)] if k % 2 else None, k // 2 % len(COLOURS), 1 + k // 2 % most)
        for k in range(requests)
    ]
    random.Random(0).shuffle(kinds)
    return [Ask(ask.colour, ask.number, ask.n, leaves=place % LEAVES == LEAVES - 1) for place, ask in enumerate(kinds)]


class Clients:
    """All clients of one load."""

    def __init__(self, load: Load, server: psutil.Process) -> None:
        self.load, self.server = load, server
        self.plain, self.openai = clients.connected([load.port])
        self.images = {colour: image_url(colour=colour, side=load.side) for colour in COLOURS}

    async def run(self) -> None:
        """Ask each question alone, and then send the whole load."""
        if await clients.healthy(self.load.port, self.server, self.plain) != "200":
            return
        note("phase", phase="generate")
        asked = asks(self.load.requests, self.load.most)
        alone = {}
        for key in sorted({(ask.colour or "", ask.number) for ask in asked}):
            alone[key] = (await self._answer(Ask(key[0] or None, key[1], n=1))).texts.get(0)
        self._memory("start")
        note("load", began=True)
        waiting = iter(enumerate(asked))
        await asyncio.gather(*(self._client(waiting, alone) for _ in range(self.load.at_once)))
        note("load", began=False)
        self._memory("end")
        after = await self._answer(Ask(None, 0, n=1))
        note("next", served=bool(after.finished))
        there = leftovers.left(recorder.current().events())
        note("names", left=[each.name for each in there if each.what in event.NAMING])
        await self.openai.close()
        await self.plain.aclose()

    async def _client(self, waiting: Any, alone: dict[tuple[str, int], str | None]) -> None:
        for number, ask in waiting:
            if number == self.load.requests // 2:
                self._memory("half")
            answer = await self._answer(ask)
            right = [text == alone[ask.colour or "", ask.number] for text in answer.texts.values()]
            whole = answer.finished == len(answer.texts) == ask.n and not answer.error
            seen = {"image": bool(ask.colour), "n": ask.n, "leaves": ask.leaves, "error": answer.error}
            note("asked", number=number, whole=whole, wrong=whole and not all(right), gaps=answer.gaps, **seen)

    async def _answer(self, ask: Ask) -> Answer:
        """One answer, read token by token. A client that leaves reads only the first tokens."""
        prompt = "What is this?" if ask.colour else f"Tell story {ask.number}."
        images = [self.images[ask.colour]] if ask.colour else []
        body = {**question(prompt, images=images, n=ask.n, tokens=TOKENS), "stream": True}
        answer, last = Answer(), {}
        try:
            chunks = await self.openai.chat.completions.create(**body, extra_body={"ignore_eos": True})
            async for chunk in chunks:
                now = time.monotonic()
                for choice in chunk.choices:
                    if choice.delta.content:
                        if choice.index in last:
                            answer.gaps.append(now - last[choice.index])
                        last[choice.index] = now
                        answer.texts[choice.index] = answer.texts.get(choice.index, "") + choice.delta.content
                    answer.finished += choice.finish_reason is not None
                if ask.leaves and answer.texts:
                    await chunks.close()
                    break
        except Exception as error:
            answer.error = clients.name_of(error)
        return answer

    def _memory(self, when: str) -> None:
        """Note the memory of each process of the server. A dead server has none."""
        try:
            parts = [self.server, *self.server.children(recursive=True)]
            note("memory", when=when, bytes=[part.memory_info().rss for part in parts])
        except psutil.NoSuchProcess:
            note("memory", when=when, bytes=[])


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The real engine of sglang 0.5.23 on a CPU, as released and with the plugin of `fixed/hotfix`. `make latest` runs it.

Each of the two runs boots an engine of its own, with the tiny model. The first request is one small image with n = 3.
The other requests are large images, and their sends are timed: how long all sends of a request held the event loop. If
/dev/shm is small, give a smaller `--side`.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fixed import install
from repro.lab import engine
from repro.lab.engine import launcher, sgl_kernel_standin, tiny_vlm
from repro.lab.evidence.event import NAMING
from repro.lab.evidence.recorder import note
from repro.lab.evidence.verdict import Verdict
from repro.lab.machine import preflight
from repro.lab.places import SHM
from repro.lab.refused import Refused
from repro.lab.releases import NEWEST
from repro.lab.terminal import OneLineParser, aligned, command, count, progress

N, SIDE = 3, 112  # of the request whose answers are compared
LARGE = (1, 2, 8, 32)  # n of the requests whose sends are timed
BYTES = 28  # of a feature, for each pixel: 3 colours as float32, each patch in two frames, and a little more
SAYS = re.compile(r"sglang-shm-hotfix: .*")  # the line that the plugin prints at its start
COUNTS = re.compile(r"warm_segments: \d+ features sent.*")  # the lines that it logs, at the 1st, 10th, ... image
LIMITS = {"boot": 600.0, "generate": 900.0}  # seconds


@dataclass(frozen=True)
class Result:
    """The result of one of the two runs. `answers` are those of the request with n = 3, and `names` says how many names
    this request made by `create` and by `link`. `milliseconds`: for each n, how long all sends held the event loop.
    `said` are the plugin's lines."""

    verdict: Verdict
    answers: list[str]
    names: dict[str, int]
    milliseconds: dict[int, float]
    said: list[str]

    @property
    def left(self) -> list[str]:
        """The names that the requests made, and that still existed after the engine's end."""
        events = self.verdict.events
        first = next(at for at, event in enumerate(events) if event["what"] == "case")
        made = {event.get("name", "").removeprefix("/") for event in events[first:] if event["what"] in NAMING}
        return [name for name in self.verdict.leftovers.segments if name in made]

    @property
    def left_by_the_boot(self) -> list[str]:
        """The other names that still existed. They are sglang's own, because sglang ends its processes by SIGKILL."""
        return [name for name in self.verdict.leftovers.segments if name not in self.left]

    @property
    def is_good(self) -> bool:
        """Whether there are N equal answers, and the requests left no name."""
        return len(self.answers) == N and len(set(self.answers)) == 1 and not self.left


@command(name="scripts.latest")
def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status. 0: both runs gave the same answers and left nothing, and the plugin was active in one of
    them. 1: this is not so. 2: it cannot be run here."""
    options = parse(words)
    require(options.side)
    without, with_it = run(options, plugin=False), run(options, plugin=True)
    print("\n".join(report(options, without, with_it)))
    is_active = all(any(map(wanted.match, with_it.said)) for wanted in (SAYS, COUNTS))
    same = without.answers == with_it.answers
    return 0 if without.is_good and with_it.is_good and same and is_active and not without.said else 1


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line. Raises Refused for bad usage."""
    parser = OneLineParser(prog="python -m scripts.latest", description=__doc__.partition("\n")[0])
    parser.add_argument("--side", type=count, default=1536, help="pixels of the large images (default: %(default)s)")
    parser.add_argument("--rounds", type=count, default=3, help="requests for each n (default: %(default)s)")
    parser.add_argument("--log", type=Path, metavar="FOLDER", help="keep what sglang prints there")
    return parser.parse_args(words)


def require(side: int) -> None:
    """Raise Refused if this environment has another sglang, or if /dev/shm has too little room for the sends of a
    server as released. `side` is in pixels."""
    preflight.require_linux()
    if version("sglang") != NEWEST:
        raise Refused(f"this environment has sglang {version('sglang')}, but this needs {NEWEST}", "make latest")
    preflight.require_shared_memory()
    preflight.require_room(0, side**2 * BYTES * (max(LARGE) + 1), "give a smaller --side")


def run(options: argparse.Namespace, *, plugin: bool) -> Result:
    """Run one engine, with the plugin or without it. Raises Refused if the engine did not survive."""
    environment = engine.environment(engine.TINY, engine.CPU, spawn=True)
    del environment["SGLANG_DISABLED_MODEL_ARCHS"]  # the list is for the release of `make setup`
    environment[sgl_kernel_standin.OPERATORS] = "1"
    name = "with the plugin" if plugin else "as released"
    given = Namespace(plugin=plugin, side=options.side, rounds=options.rounds)
    with tempfile.TemporaryDirectory() as folder, progress(sys.stderr, {"boot": f"booting, {name}"}) as shown:
        log = Path(options.log or folder) / f"{name.replace(' ', '_')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        verdict = launcher.run(
            scene, given, environment=environment, limits=LIMITS, log=log.absolute(), on_phase=shown.phase
        )
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    if verdict.outcome != "survived":
        raise Refused(f"the engine {name} {verdict.outcome} ({verdict.error}: {verdict.message})", "look at it: --log")
    return Result(
        verdict,
        answers=verdict.answers["texts"],
        names=names_of_the_first_request(verdict),
        milliseconds={int(n): milliseconds for n, milliseconds in verdict.answers["milliseconds"].items()},
        said=[found[0] for line in lines for wanted in (SAYS, COUNTS) if (found := wanted.search(line))],
    )


def names_of_the_first_request(verdict: Verdict) -> dict[str, int]:
    """Return how many names the first request made: by `create`, and by `link`."""
    marks = [at for at, event in enumerate(verdict.events) if event["what"] == "case"]
    made = [event["what"] for event in verdict.events[marks[0] : marks[1]]]
    return {what: made.count(what) for what in NAMING}


def report(options: argparse.Namespace, without: Result, with_it: Result) -> Iterator[str]:
    """Yield the lines of the report: the two runs side by side, and the plugin's lines."""
    sides = (without, with_it)
    rows: list[list[object]] = [["", "as released", "with the plugin"]]
    rows.append([f"n = {N}, {SIDE} x {SIDE}: answers", *(answers_of(side) for side in sides)])
    rows.append(["names: segments made, links made", *("{create}, {link}".format(**side.names) for side in sides)])
    rows.append([f"left in {SHM} by requests", *(", ".join(side.left) or "nothing" for side in sides)])
    rows.append(["left there by the boot", *(", ".join(side.left_by_the_boot) or "nothing" for side in sides)])
    for n in LARGE:
        title = f"n = {n}, {options.side} x {options.side}: ms of event loop"
        rows.append([title, *(f"{side.milliseconds[n]:.1f}" for side in sides)])
    yield f"The engine of sglang {NEWEST} on the CPU, the tiny model, median of {options.rounds} requests:"
    yield from aligned(rows)
    yield from with_it.said


def answers_of(side: Result) -> str:
    """Return the different answers in words, and how often each came."""
    return ", ".join(f"{side.answers.count(text)} x {text.strip()!r}" for text in dict.fromkeys(side.answers))


def scene(arguments: Namespace) -> dict[str, Any]:
    """In a child process: boot the engine, and send the small request and the large ones. Returns the texts of the
    small request, and for each n the median of the milliseconds for which the sends held the event loop."""
    if arguments.plugin:
        install.hotfix()
    tiny_vlm.path()
    folder = model_for_large_images(arguments.side)
    llm = engine.start(engine.TINY, "cpu", model_path=str(folder), max_total_tokens=65536, log_level="info")
    clock = Clock()
    clock.watch_the_sends()
    note("case", case="small")
    texts = ask(llm, picture(SIDE, 0), N)
    note("case", case="large")
    spent: dict[int, list[float]] = {n: [] for n in LARGE}
    for number in range(arguments.rounds):
        for n in LARGE:
            image = picture(arguments.side, 1 + number)
            clock.seconds = 0.0
            ask(llm, image, n)
            spent[n].append(1e3 * clock.seconds)
    llm.shutdown()
    return {"texts": texts, "milliseconds": {n: statistics.median(times) for n, times in spent.items()}}


def model_for_large_images(side: int) -> Path:
    """Copy the tiny model, so that the copy does not shrink images of `side` x `side` pixels. Returns the copy's
    folder."""
    folder = Path(tempfile.mkdtemp(prefix="model-"), "tiny")
    shutil.copytree(tiny_vlm.location(), folder)
    for path in folder.glob("*processor_config.json"):
        path.write_text(json.dumps(larger(json.loads(path.read_text(encoding="utf-8")), side)), encoding="utf-8")
    return folder


def larger(value: Any, side: int) -> Any:
    """Return `value`, a processor's configuration or a part of it, with limits that allow images of `side` x `side`
    pixels."""
    if not isinstance(value, dict):
        return value
    limits = {name: 2 * side**2 for name in ("max_pixels", "longest_edge") if value.get(name)}
    return {**{name: larger(inner, side) for name, inner in value.items()}, **limits}


def picture(side: int, number: int) -> Any:
    """Return a `PIL.Image`, a crimson square. One corner has another colour for each `number` above 0, so that no
    cache answers."""
    from PIL import Image

    image = Image.new("RGB", (side, side), "crimson")
    image.paste((number, number, number), (0, 0, side // 8, side // 8) if number else (0, 0, 0, 0))
    return image


def ask(llm: Any, image: Any, n: int) -> list[str]:
    """Ask for n samples about the image, and return the n texts."""
    sampling = {"n": n, "max_new_tokens": 8, "temperature": 0}
    answers = llm.generate(prompt=engine.chat(engine.PROMPT), image_data=image, sampling_params=sampling)
    return [answer["text"] for answer in (answers if n > 1 else [answers])]


class Clock:
    """Counts the `seconds` for which the sends held the event loop. The time in which a send waits, and other tasks
    run, does not count."""

    seconds = 0.0

    def watch_the_sends(self) -> None:
        """Time every call of `TokenizerManager._send_one_request` (tokenizer_manager.py; a coroutine from 0.5.20
        on)."""
        from sglang.srt.managers.tokenizer_manager import TokenizerManager

        original = TokenizerManager._send_one_request

        async def timed(manager: Any, *arguments: Any, **named: Any) -> Any:
            return await Steps(original(manager, *arguments, **named), self)

        TokenizerManager._send_one_request = timed


@dataclass(frozen=True)
class Steps:
    """An awaitable that runs the coroutine `work`, and adds the time of each of its steps to the clock."""

    work: Any
    clock: Clock

    def __await__(self) -> Generator[Any, Any, Any]:
        steps, heard = self.work.__await__(), None
        while True:
            began = time.perf_counter()
            try:
                waits_for = steps.send(heard)
            except StopIteration as end:
                return end.value
            finally:
                self.clock.seconds += time.perf_counter() - began
            heard = yield waits_for


if __name__ == "__main__":
    sys.exit(main())

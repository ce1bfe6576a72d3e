"""When does sglang crash? The trigger table lists conditions. Each row is measured now, in the lab or on the engine, or
it says why it is not run."""

from __future__ import annotations

import contextlib
import socket
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from repro.lab import lifted
from repro.lab.evidence.verdict import Verdict
from repro.lab.refused import Refused
from repro.lab.releases import FIXED, LAST

BEFORE_LISTS, BEFORE_TRANSPORT, FIRST = "0.5.10.post1", "0.5.8.post1", "0.5.9"
ADDRESS = "127.0.0.1:0"  # a free port is taken for 0; with one node, the engine itself listens there
CRASH, NO_CRASH = "crashed", "survived"
HEADS = ("condition", "known", "measured", "evidence", "detail")


@dataclass(frozen=True)
class Row:
    """One condition: the known result (`crashed`, `survived` or `refused`), and how to measure it. If the condition
    cannot run here, `measure` is None and `why` gives the reason. `evidence` is `lab` or `engine`. For `engine`,
    `measure` takes a host."""

    condition: str
    known: str
    measure: Callable[..., Verdict] | None
    evidence: str = "lab"
    why: str = ""


@dataclass(frozen=True)
class Measured:
    """A row and its measured result."""

    row: Row
    outcome: str
    detail: str

    @property
    def differs(self) -> bool:
        """Whether the row was measured and its result is not the known one."""
        return self.row.measure is not None and self.outcome != self.row.known

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of the row, in the order of HEADS."""
        return self.row.condition, self.row.known, self.outcome, self.row.evidence, self.detail

    def as_dict(self) -> dict[str, Any]:
        """The row as plain data, for `json.dumps`."""
        condition, known, outcome, evidence, detail = self.cells
        told = {"condition": condition, "known": known, "evidence": evidence}
        return {**told, "outcome": outcome, "detail": detail, "differs": self.differs}


def measured(*, engine: bool = True) -> Iterator[Measured]:
    """Every row. A row is measured when it is asked for. Without `engine`, the rows that boot sglang are left out. With
    `engine`, these rows share one host."""
    with _host() if engine else contextlib.nullcontext() as host:
        for row in ROWS:
            if row.measure is None:
                yield Measured(row, "not run", row.why)
            elif row.evidence == "lab" or engine:
                try:
                    verdict = row.measure() if row.evidence == "lab" else row.measure(host)
                except Refused as refusal:
                    yield Measured(row, "not run", str(refusal))
                else:
                    yield Measured(row, verdict.outcome, _detail(verdict))


def _detail(verdict: Verdict) -> str:
    if verdict.outcome == "survived":
        return "1 answer" if len(verdict.answers) == 1 else f"{len(verdict.answers)} answers"
    if verdict.outcome == "refused":
        return verdict.message or ""
    failed = [event for event in verdict.events if event["what"] == "open failed"]
    if failed and failed[0].get("send") is not None:
        return f"{verdict.error} at send {failed[0]['send'] + 1}"
    return f"{verdict.error}"


def _lab(*, feature: str = "tensor", prompts: int = 1, release: str = LAST, **fields: Any) -> Callable[[], Verdict]:
    def measure() -> Verdict:
        requests = [lifted.make_request(feature, rid=f"request-{i}", seed=i) for i in range(prompts)]
        return lifted.run(requests, release=release, **fields).verdict

    return measure


def _host() -> Any:
    from repro.lab import engine
    from repro.lab.engine.host import Host

    return Host(engine.environment(engine.TINY, engine.CPU))


def _engine(**options: Any) -> Callable[[Any], Verdict]:
    """One image, n = 2, on the real engine, with other arguments for it or for `generate`."""
    return lambda host: _on(host, engine_scene, model="tiny", device="cpu", **options)


def _on(host: Any, scene: Callable[[Namespace], Any], **arguments: Any) -> Verdict:
    from repro.lab import engine
    from repro.lab.engine import launcher

    environment = engine.environment(engine.TINY, engine.CPU)
    return launcher.run(scene, Namespace(n=2, **arguments), environment=environment, on=host)


def engine_scene(arguments: Namespace) -> list[str]:
    """In a child under a warden: one image and n = 2, with `arguments.engine` for the engine and `arguments.stream`."""
    from PIL import Image

    from repro.lab import engine

    options = dict(arguments.engine)
    if options.get("dist_init_addr") == ADDRESS:
        with socket.create_server(("127.0.0.1", 0)) as free:
            options["dist_init_addr"] = "{}:{}".format(*free.getsockname())
    llm = engine.start(arguments.model, arguments.device, **options)
    answers = llm.generate(
        prompt=engine.chat("What?"),
        image_data=Image.new("RGB", (112, 112), "crimson"),
        sampling_params={"n": 2, "max_new_tokens": 4, "temperature": 0},
        stream=arguments.stream,
    )
    return [answer["text"] for answer in answers]


def two_images_scene(arguments: Namespace) -> list[str]:
    """In a child under a warden: how sglang reads one prompt with two images and n = 2, before anything is sent."""
    from repro.lab.evidence.recorder import note

    note("phase", phase="import")
    from sglang.srt.managers.io_struct import GenerateReqInput

    asked = GenerateReqInput(text="two", image_data=["a.png", "b.png"], sampling_params={"n": arguments.n})
    try:
        asked.normalize_batch_and_arguments()
    except ValueError as error:
        raise Refused(f"ValueError: {error}") from None
    return [asked.text] * arguments.n


ROWS = (
    Row("n = 1", NO_CRASH, _lab(n=1)),
    Row("n = 2, a CPU tensor", CRASH, _lab()),
    Row("n = 8, a CPU tensor", CRASH, _lab(n=8)),
    Row("text only, n = 4", NO_CRASH, _lab(feature="text", n=4)),
    Row("a list of tensors", CRASH, _lab(feature="list")),
    Row("a tuple of tensors", CRASH, _lab(feature="tuple")),
    Row(f"a list of tensors, {BEFORE_LISTS}", NO_CRASH, _lab(feature="list", release=BEFORE_LISTS)),
    Row("a numpy array", NO_CRASH, _lab(feature="numpy")),
    Row("two prompts, n = 2", CRASH, _lab(prompts=2)),
    Row('format="precomputed_embedding" (in .feature)', CRASH, None, "", "read, not run: its tensor is in .feature"),
    Row(".precomputed_embeddings", NO_CRASH, _lab(feature="precomputed_embeddings")),
    Row(f".precomputed_embeddings, {FIXED} (wrapped)", NO_CRASH, _lab(feature="precomputed_embeddings", release=FIXED)),
    Row("dist_init_addr (transport default)", NO_CRASH, _lab(transport="default")),
    Row("skip_tokenizer_init", NO_CRASH, _lab(skip_tokenizer_init=True)),
    Row("two TP ranks, n = 1, with the barrier", NO_CRASH, _lab(n=1, ranks=2)),
    Row("two TP ranks, n = 1, without it (#21655)", CRASH, _lab(n=1, ranks=2, barrier=False, late=1.0)),
    Row(f"n = 2, {FIXED}", NO_CRASH, _lab(release=FIXED)),
    Row(f"n = 2, {FIRST}, the first with the transport", CRASH, _lab(release=FIRST)),
    Row(f"n = 2, {BEFORE_TRANSPORT}, before the transport", NO_CRASH, _lab(release=BEFORE_TRANSPORT)),
    Row("two images in one prompt, n = 2 (flat list)", "refused", lambda host: _on(host, two_images_scene), "engine"),
    Row("radix cache off", CRASH, _engine(engine={"disable_radix_cache": True}, stream=False), "engine"),
    Row("stream = True", CRASH, _engine(engine={}, stream=True), "engine"),
    Row("dist_init_addr, the engine", NO_CRASH, _engine(engine={"dist_init_addr": ADDRESS}, stream=False), "engine"),
    Row("a tensor left on the GPU, or CUDA IPC", NO_CRASH, None, "", "needs a GPU"),
    Row("dp_size > 1", CRASH, None, "", "read, not run: it takes two model replicas"),
)

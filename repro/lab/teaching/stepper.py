"""The lifted `_handle_batch_request`, line by line: the line that is about to run, the function's variables, and the
names in /dev/shm."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from repro.lab.evidence import recorder
from repro.lab.evidence.event import NAMING
from repro.lab.lifted import Run, make_request, run
from repro.lab.lifted.request import arrays
from repro.lab.places import SHM
from repro.lab.upstream import source
from repro.lab.upstream.expansion import FUNCTION
from repro.lab.upstream.plugs import Fix, Prepare
from repro.lab.upstream.standin_data import TokenizedGenerateReqInput

SOURCE, COPIED = "tokenized_objs", "tokenized_obj"


@dataclass
class ShmPointerMMData:
    """A pointer as it looked at a step (a real one would open its segment when it is copied)."""

    shm_name: str
    shape: Any
    dtype: Any


@dataclass
class Step:
    """The moment before one line runs.

    `line` and `code` are the number and the text of the release's line. `variables` are the small local variables, as
    text. `roots` are copies of the requests at this moment, which share what the requests share. `mutated` is the
    source's item that no longer holds its feature, or None. `names` maps each name that the run has made so far to
    whether it is still in /dev/shm. `sends` is the number of sends so far.
    """

    number: int
    line: int
    code: str
    variables: dict[str, str]
    roots: dict[str, Any]
    mutated: Any
    names: dict[str, bool]
    sends: int


@dataclass
class Walk:
    """All steps of one run, the run itself, and the path of the file with the lines."""

    steps: list[Step]
    run: Run
    path: Path


def walk(
    request: TokenizedGenerateReqInput | Sequence[TokenizedGenerateReqInput] | None = None,
    *,
    n: int = 2,
    release: str = source.INSTALLED,
    fix: Fix | Prepare | None = None,
) -> Walk:
    """Send `request` n times, as `lifted.run` does, and take a `Step` before every line of `_handle_batch_request`.
    Raises what `lifted.run` raises."""
    requests = request if request is not None else make_request()
    watcher = _Watcher()
    result = run(requests, n=n, release=release, fix=fix, trace=watcher.trace)
    code = source.read(source.name_of(release), source.TOKENIZER_MANAGER)
    return Walk(watcher.steps, result, code.path)


@dataclass
class _Watcher:
    steps: list[Step] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def trace(self, frame: FrameType, event: str, _: Any) -> Callable | None:
        """For `sys.settrace`: trace this one function, and no function that it calls."""
        code = frame.f_code
        if code.co_name != FUNCTION:
            return None
        if event == "line":
            self.steps.append(self._step(frame))
        return self.trace

    def _step(self, frame: FrameType) -> Step:
        held = frame.f_locals
        roots = {f"{SOURCE}[{i}]": request for i, request in enumerate(held.get(SOURCE, ()))}
        if COPIED in held:
            roots[COPIED] = held[COPIED]
        seen = snapshot(roots)
        events = recorder.current().events()
        created = [event.name for event in events if event.what in NAMING]
        return Step(
            number=len(self.steps),
            line=frame.f_lineno,
            code=self._line(frame.f_code, frame.f_lineno),
            variables=_variables(held),
            roots=seen,
            mutated=_mutated(seen),
            names={name: (SHM / name.lstrip("/")).exists() for name in created},
            sends=len({event.send for event in events if event.role == "tokenizer" and event.send is not None}),
        )

    def _line(self, code: CodeType, number: int) -> str:
        """The source line as released. It is read from the release's file, so a plugged-in fix is not shown."""
        if not self.lines:
            self.lines = Path(code.co_filename).read_text(encoding="utf-8").splitlines()
        return self.lines[number - 1]


def snapshot(roots: dict[str, Any]) -> dict[str, Any]:
    """A deep copy of the requests as they are now. The copies share what the requests share. Tensors are not copied,
    and pointers are replaced, so that no segment is opened."""
    keep: dict[int, Any] = {}
    for request in roots.values():
        keep[id(request.time_stats)] = request.time_stats
        for array in arrays(request):
            pointer = hasattr(array, "shm_name")
            keep[id(array)] = ShmPointerMMData(array.shm_name, array.shape, array.dtype) if pointer else array
    return copy.deepcopy(roots, keep)


def _mutated(roots: dict[str, Any]) -> Any:
    """The first item of a source request that holds a pointer."""
    for name, request in roots.items():
        if name != COPIED:
            for item in request.items():
                values = item.feature if isinstance(item.feature, (list, tuple)) else [item.feature]
                if any(isinstance(value, ShmPointerMMData) for value in values):
                    return item
    return None


def _variables(held: dict[str, Any]) -> dict[str, str]:
    """The local variables that matter, as text."""
    shown = {name: str(held[name]) for name in ("batch_size", "i", "rids") if name in held}
    if COPIED in held:
        request = held[COPIED]
        shown["tokenized_obj.rid"] = request.rid
        shown["max_new_tokens"] = str(request.sampling_params.max_new_tokens)
    return shown

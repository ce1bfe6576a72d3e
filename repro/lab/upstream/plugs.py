"""Plugs: the changes that an experiment makes to sglang's functions, in the tokenizer's process only."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from repro.lab.refused import Refused
from repro.lab.upstream.lift import Lifted

MANAGERS = "sglang.srt.managers."
KILL = "sglang.srt.utils.common.kill_process_tree"
NOT_LIFTED = (KILL, "uvicorn.run")  # hooks that only a server needs

Prepare = Callable[[Any], Any]
Hook = Callable[..., Any]


class Fix(Protocol):
    """A fix that can be plugged in, such as a design of `fixed.designs`. `prepare` is applied to each copied request at
    the expansion `points` (1: the warm-up's, 2: the samples'). Each of `hooks` wraps a function of sglang: a call
    becomes `hook(original, *arguments)`, as with sglang's own `HookType.AROUND`. The keys are full upstream paths, such
    as `sglang.srt.managers.mm_utils.wrap_shm_features`. `kept` returns the names that the fix keeps in /dev/shm from
    one request to the next. These names do not count as leftovers."""

    prepare: Prepare | None
    points: Sequence[int]
    hooks: Mapping[str, Hook]
    kept: Callable[[], Sequence[str]]


@dataclass(frozen=True)
class Plug:
    """The simplest fix: only the fields that are plugged in."""

    prepare: Prepare | None = None
    points: Sequence[int] = (1, 2)
    hooks: Mapping[str, Hook] = field(default_factory=dict)
    kept: Callable[[], Sequence[str]] = tuple


def as_fix(given: Fix | Prepare | None) -> Fix:
    """A fix: itself, a function that prepares each copied request, or None for the code as released."""
    return Plug(given) if given is None or not hasattr(given, "hooks") else given


@contextlib.contextmanager
def hooked(hooks: Mapping[str, Hook], modules: Mapping[str, Lifted | None], release: str) -> Iterator[None]:
    """While the context lasts, each hook wraps its function in the lifted `modules` (name -> module). Hooks in
    NOT_LIFTED are ignored. Raises Refused if the release has no such function."""
    with contextlib.ExitStack() as undo:
        for path, hook in hooks.items():
            if path in NOT_LIFTED:
                continue
            module, _, place = path.removeprefix(MANAGERS).partition(".")
            if not path.startswith(MANAGERS) or module not in modules:
                raise Refused(f"nothing of {path} is lifted", f"hook functions of {', '.join(modules)}")
            holder, name, original = _found(modules[module], place, release, path)
            setattr(holder, name, around(original, hook))
            undo.callback(setattr, holder, name, original)
        yield


def _found(lifted: Lifted | None, place: str, release: str, path: str) -> tuple[Any, str, Callable]:
    """The module or class that holds the function at `place` (`function` or `Class.function`), its name there, and the
    function."""
    owner, _, name = place.rpartition(".")
    holder = lifted and (getattr(lifted.module, owner, None) if owner else lifted.module)
    original = vars(holder).get(name) if holder else None
    if original is None:
        raise Refused(f"sglang {release} has no {path} to hook")
    return holder, name, original


def around(original: Callable, hook: Hook) -> Callable:
    """`original` wrapped by the hook, as sglang's plugins do it."""

    @functools.wraps(original)
    def hooked(*arguments: Any, **named: Any) -> Any:
        return hook(original, *arguments, **named)

    return hooked

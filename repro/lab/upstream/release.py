"""One release of sglang, as far as the lab runs it: its lifted functions, made once in each process."""

from __future__ import annotations

import contextlib
import functools
import signal
from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Any

from repro.lab.refused import Refused
from repro.lab.releases import ALL, CONTAINED
from repro.lab.upstream import expansion, lift, source, standins
from repro.lab.upstream.lift import Lifted
from repro.lab.upstream.plugs import Fix, Prepare, hooked

MM_UTILS = ("ShmPointerMMData", "wrap_shm_features", "has_shm_features", "unwrap_shm_features", "discard_shm_features")
TOKENIZER_MANAGER = (
    *("_handle_batch_request", "_send_one_request"),
    *("_collect_batch_responses", "_stream_batch_responses"),  # split off in 0.5.17
)
RECEIVER = "SchedulerRequestReceiver._finalize_shm_features"  # unwraps, and contains a failure
PREPARES = ("prepare_1", "prepare_2")  # the functions through which the copies at the two expansion points go


class Release:
    """A release's lifted code. `Release.of` makes the object. In one process, there is one object for each release."""

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def of(cls, name: str) -> Release:
        """The release with this name; `installed` means the installed release. Raises Refused if there is no such
        release."""
        return _made(source.name_of(name))

    @cached_property
    def mm_utils(self) -> Lifted | None:
        """`ShmPointerMMData` and the functions around it; None before 0.5.9, which has no shared-memory
        transport."""
        code = source.read(self.name, source.MM_UTILS)
        if not lift.has(code, "ShmPointerMMData"):
            return None
        return lift.lift(code, [name for name in MM_UTILS if lift.has(code, name)], {**self._offered, **_torch()})

    @cached_property
    def tokenizer_manager(self) -> Lifted:
        """`TokenizerManager` with the lifted `_handle_batch_request` and `_send_one_request`, on the kit's base
        class."""
        return self._manager(source.read(self.name, source.TOKENIZER_MANAGER), {})

    @cached_property
    def prepared_tokenizer_manager(self) -> Lifted:
        """As `tokenizer_manager`, but the copies at the expansion points go through the module's `prepare_1` and
        `prepare_2`. Raises Refused unless the release has two expansion points that share their items."""
        code = source.read(self.name, source.TOKENIZER_MANAGER)
        text = expansion.wrapped(code.text, f"sglang {self.name}", PREPARES)
        return self._manager(source.Source(code.release, code.path, text), dict.fromkeys(PREPARES, itself), "prepared")

    def with_the_bug_again(self, points: Collection[int] = (1, 2)) -> Lifted:
        """As `tokenizer_manager`, for a fixed release, but without the fix at these expansion points. Raises Refused
        unless the release has the fix at both points."""
        code = source.read(self.name, source.TOKENIZER_MANAGER)
        text = expansion.shared_again(code.text, f"sglang {self.name}", points)
        return self._manager(source.Source(code.release, code.path, text), {}, f"bug_at_{'_'.join(map(str, points))}")

    @cached_property
    def receiver(self) -> Lifted | None:
        """`SchedulerRequestReceiver` with the lifted `_finalize_shm_features`, on the kit's base class. This method
        unwraps a request, and contains a failure. None before 0.5.19: there, a failure ends the scheduler."""
        if self.name in ALL[: ALL.index(CONTAINED)]:
            return None
        functions = {name: getattr(self.mm_utils.module, name) for name in MM_UTILS if name in self.mm_utils.lines}
        offered = {**self._offered, **functions, **_torch()}
        return lift.lift(source.read(self.name, source.RECEIVER), [RECEIVER], offered)

    @cached_property
    def process_tree(self) -> Lifted:
        """`kill_process_tree`, by which a server ends itself when its scheduler has died."""
        import psutil

        offered = {**standins.REAL, "logger": standins.logger, "psutil": psutil, "signal": signal}
        return lift.lift(source.read(self.name, source.COMMON), ["kill_process_tree"], offered)

    def set_transport(self, *, inline: bool, skip_tokenizer_init: bool) -> None:
        """Set for this process the values that a server takes from its arguments: the transport (`inline` pickles
        features into the message, as with `dist_init_addr`) and `skip_tokenizer_init`."""
        standins.settings.skip_tokenizer_init = skip_tokenizer_init
        if self.mm_utils:
            self.mm_utils.module._is_default_tensor_transport = inline

    def manager(self, fix: Fix) -> Lifted:
        """The tokenizer_manager that the fix can be plugged into. Raises Refused if the fix has a `prepare` and this
        release has no place for it."""
        return self.prepared_tokenizer_manager if fix.prepare else self.tokenizer_manager

    @contextlib.contextmanager
    def plugged(self, fix: Fix, prepare: Prepare | None) -> Iterator[None]:
        """While the context lasts, the fix is plugged into this process's lifted code. `prepare` replaces the fix's own
        `prepare`. Raises Refused if the release lacks a function that the fix needs."""
        manager = self.manager(fix)
        with hooked(fix.hooks, {"mm_utils": self.mm_utils, "tokenizer_manager": manager}, self.name):
            for point, name in enumerate(PREPARES, start=1) if prepare else ():
                setattr(manager.module, name, prepare if point in fix.points else itself)
            try:
                yield
            finally:
                for name in PREPARES if prepare else ():
                    setattr(manager.module, name, itself)

    def _manager(self, code: source.Source, more: dict[str, Any], variant: str = "") -> Lifted:
        names = [f"TokenizerManager.{name}" for name in TOKENIZER_MANAGER]
        offered = {
            **self._offered,
            **more,
            "wrap_shm_features": lambda obj: self.mm_utils.module.wrap_shm_features(obj),
        }
        return lift.lift(code, [name for name in names if lift.has(code, name)], offered, variant=variant)

    @cached_property
    def _offered(self) -> dict[str, Any]:
        offered = {**standins.REAL, **{name: standin.value for name, standin in standins.of_modules().items()}}
        with contextlib.suppress(Refused):  # from 0.5.14 on, sglang itself makes the segments' names
            code = source.read(self.name, source.SHM_NAMES)
            offered["make_shm_name"] = lift.lift(code, ["make_shm_name"], standins.REAL).module.make_shm_name
        return offered


@functools.cache
def _made(name: str) -> Release:
    return Release(name)


def itself(copied: Any) -> Any:
    """The `prepare` of an expansion point without a fix: it does nothing to the copied request."""
    return copied


def _torch() -> dict[str, Any]:
    import numpy
    import torch

    return {"torch": torch, "np": numpy}

"""The fix of sglang #24231 for a server that cannot be upgraded today: one of this kit's designs, as a plugin.

sglang 0.5.11 to 0.5.12.post1 call every entry point of the group `sglang.srt.plugins` before they do anything else.
This one registers the hooks of a design; sglang's own `HookRegistry` puts them around its functions, in memory, and in
every module that has imported them by name. Take the distribution away, and nothing of it is left.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .designs import one_segment_many_names, pure_wrap, segment_per_pickle, shm_names

SWITCH = "SGLANG_SHM_HOTFIX"  # environment variable: a design, or OFF
SAID = "SGLANG_SHM_HOTFIX_SAID"  # environment variable: the lines that this server has printed
OFF = "off"
DEFAULT = "one_segment_many_names"
DESIGNS = {
    DEFAULT: one_segment_many_names.HOOKS,
    "pure_wrap": pure_wrap.HOOKS,
    "segment_per_pickle": segment_per_pickle.HOOKS,
}
RELEASES = ("0.5.11", "0.5.12", "0.5.12.post1")  # affected, and able to load a plugin
SERVER = "sglang.srt.entrypoints.http_server:app"


@functools.cache  # uvicorn imports its workers' app in their parent, too
def register() -> None:
    """Register the hooks of the design that `SGLANG_SHM_HOTFIX` names, on an affected release, and say so in one line.
    sglang's `load_plugins` calls this. For a design that does not exist: SystemExit with status 2, which `load_plugins`
    does not catch; a server that was meant to be protected must not start without. Names in /dev/shm that a server
    with the hotfix had to leave, because it was killed together with its resource tracker, are removed.

    It is called in the main process, which is the tokenizer's, and again in each scheduler. No hook does anything in a
    scheduler, where finding the functions to stand around costs an import, 0.3 s of its boot. But nothing tells the two
    apart for sure when it is called: titles and roles come later, and a main process need not be
    multiprocessing's (an `Engine` in somebody's worker is not). So they are registered in all.
    """
    chosen = os.environ.get(SWITCH) or DEFAULT
    release = _release()
    if chosen == OFF:
        _say(f"off ({SWITCH}={OFF}): nothing is patched")
    elif chosen not in DESIGNS:
        _say(f"no design {chosen!r}: set {SWITCH} to {', '.join(DESIGNS)}, or {OFF}; or unset it for {DEFAULT}")
        raise SystemExit(2)
    elif release not in RELEASES:
        _say(f"nothing is patched: sglang {release} is none of {', '.join(RELEASES)} (0.5.13 on are fixed)")
    else:
        _hook({**DESIGNS[chosen], "uvicorn.run": run_workers_with_plugins})
        places = ", ".join(path.removeprefix("sglang.srt.") for path in DESIGNS[chosen])
        _say(f"sglang {release} is patched in memory, design {chosen}: {places} ({SWITCH}={OFF} switches it off)")
        if swept := shm_names.sweep_the_dead():
            _say(f"names of killed processes that were removed from {shm_names.SHM}: {len(swept)}")


def run_workers_with_plugins(run: Callable[..., None], app: Any, *arguments: Any, **named: Any) -> None:
    """Serve `app`, with this plugin in its workers. Stands around `uvicorn.run`, for sglang loads no plugins in the
    processes of `--tokenizer-worker-num` above 1: they import their app by its name, so here is another name for it."""
    run(f"{__name__}.worker:app" if app == SERVER else app, *arguments, **named)


def _hook(hooks: dict[str, Callable[..., Any]]) -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    for path, hook in hooks.items():
        HookRegistry.register(path, hook, HookType.AROUND)


def _release() -> str:
    try:
        return version("sglang")
    except PackageNotFoundError:
        return "(of unknown version)"


def _say(line: str) -> None:
    """Print to stderr, once a server: its logging is not configured yet. Its children inherit that this was said. (The
    server may itself be a child, of somebody's launcher that knows nothing of this.)"""
    said = os.environ.get(SAID, "").splitlines()
    if line not in said:
        os.environ[SAID] = "\n".join([*said, line])
        print(f"sglang-shm-hotfix: {line}", file=sys.stderr, flush=True)

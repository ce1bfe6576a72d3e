"""An sglang plugin that brings one of this kit's designs into a server. On 0.5.11 to 0.5.12.post1 it fixes the crash of
#24231, for servers that cannot be upgraded today. From 0.5.13 on, it makes the server faster: the pixels of an image
are copied once, and not n + 1 times, on the tokenizer's event loop.

sglang calls every entry point of the group `sglang.srt.plugins` before it does anything else. The entry point of this
plugin registers the hooks of a design. sglang's own `HookRegistry` puts them around its functions, in memory, also
where a module has imported a function by name. No file of sglang changes: when the distribution is uninstalled, nothing
of it is left.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .designs import one_segment_many_names, pure_wrap, segment_per_pickle, shm_names, warm_segments
from .probe import missing

SWITCH = "SGLANG_SHM_HOTFIX"  # environment variable: a design, or OFF
SAID = "SGLANG_SHM_HOTFIX_SAID"  # environment variable: the lines that this server has printed
OFF = "off"
DEFAULT, FASTEST = "one_segment_many_names", "warm_segments"  # the defaults on affected releases, and on fixed ones
DESIGNS = {
    DEFAULT: one_segment_many_names.HOOKS,
    FASTEST: warm_segments.HOOKS,
    "pure_wrap": pure_wrap.HOOKS,
    "segment_per_pickle": segment_per_pickle.HOOKS,
}
RELEASES = ("0.5.11", "0.5.12", "0.5.12.post1")  # affected, and able to load a plugin
FIXED = (
    *("0.5.13", "0.5.13.post1", "0.5.14", "0.5.15", "0.5.15.post1", "0.5.16", "0.5.17", "0.5.18", "0.5.19", "0.5.20"),
    *("0.5.21", "0.5.22", "0.5.23"),
)  # fixed upstream, with a copy for every send: the plugin makes these faster
SERVER = "sglang.srt.entrypoints.http_server:app"


@functools.cache  # uvicorn imports its workers' app in their parent, too
def register() -> None:
    """Register the hooks of a design, and say so in one line on stderr. `SGLANG_SHM_HOTFIX` names the design; if it is
    unset, the release decides. If there is nothing to patch or to make faster, the line says so, and no hook is
    registered. Also removes names that an earlier server with the hotfix left in /dev/shm, because it was killed
    together with its resource tracker.

    sglang's `load_plugins` calls this function. For a design that does not exist, it raises SystemExit with status 2,
    which `load_plugins` does not catch: a server that was meant to be protected must not start unprotected.

    The function is called in the main process, which is the tokenizer's, and again in each scheduler. In a scheduler no
    hook does anything, and looking up the functions costs 0.3 s of the scheduler's boot, for an import. But at this
    point the main process cannot be told from a scheduler: process titles are set later, and an `Engine` may itself run
    inside a multiprocessing worker. So the hooks are registered everywhere.
    """
    chosen, release = os.environ.get(SWITCH, ""), _release()
    faster = release in FIXED or _is_newer(release)
    design = chosen or (FASTEST if faster else DEFAULT)
    unknown = missing(_package()) if _is_newer(release) else []
    if chosen == OFF:
        _say(f"off ({SWITCH}={OFF}): nothing is patched")
    elif design not in DESIGNS:
        names = ", ".join(DESIGNS)
        refusal = f"no design {chosen!r}: set {SWITCH} to {names}, or {OFF}; or unset it for {DEFAULT}"
        _say(refusal)
        raise SystemExit(2)
    elif release not in RELEASES and not faster:
        _say(f"nothing to do: sglang {release} is none of {', '.join(RELEASES)}, and not 0.5.13 or later")
    elif unknown:
        lacks = ", ".join(unknown)
        _say(f"nothing to do: sglang {release} is newer than this plugin, and these do not fit the plugin: {lacks}")
    elif faster and design not in (DEFAULT, FASTEST):
        _say(f"nothing to do: sglang {release} is fixed, and {design} would not make it faster")
    else:
        _hook({**DESIGNS[design], "uvicorn.run": run_workers_with_plugins})
        places = ", ".join(path.removeprefix("sglang.srt.") for path in DESIGNS[design])
        does = "is made faster" if faster else "is patched"
        _say(f"sglang {release} {does} in memory, design {design}: {places} ({SWITCH}={OFF} switches it off)")
        if swept := shm_names.sweep_the_dead():
            _say(f"names of killed processes that were removed from {shm_names.SHM}: {len(swept)}")


def run_workers_with_plugins(run: Callable[..., None], app: Any, *arguments: Any, **named: Any) -> None:
    """Hook around `uvicorn.run`. Serves `app`, with this plugin in its workers. With `--tokenizer-worker-num` above 1,
    sglang loads no plugins in the workers. A worker imports its app by name, so it gets the name of `worker.app`, which
    registers the hooks first."""
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


def _is_newer(release: str) -> bool:
    """Whether this release is newer than all releases that this plugin knows."""
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", release)
    return bool(numbers) and tuple(map(int, numbers.groups())) > (0, 5, 23)


def _package() -> Path:
    """The folder of the package sglang, found without importing it."""
    try:
        found = importlib.util.find_spec("sglang")
    except ValueError:
        found = None
    return Path(next(iter(found.submodule_search_locations or []), "") if found else "")


def _say(line: str) -> None:
    """Print the line to stderr, because logging is not configured yet. Each line is printed once a server: its children
    inherit the environment variable SAID. (The server may itself be a child of a launcher. So being a child does not
    mean that the line was printed.)"""
    said = os.environ.get(SAID, "").splitlines()
    if line not in said:
        os.environ[SAID] = "\n".join([*said, line])
        print(f"sglang-shm-hotfix: {line}", file=sys.stderr, flush=True)

"""`python -m repro.lab.doctor`: what is there, what is wrong, and the exact remedy. Each check prints one line.

The doctor boots no engine, imports neither sglang nor torch, and removes nothing. If earlier runs have left something,
it prints the command that removes it. The doctor also runs on a bare Python, so it can name what a broken set-up lacks.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from repro.lab import folders as kit_folders
from repro.lab.engine import tiny_vlm
from repro.lab.machine import device, preflight, surroundings
from repro.lab.machine.holders import held_inodes, inode
from repro.lab.places import ROOT, SHM, cache_directory
from repro.lab.refused import Refused
from repro.lab.releases import AFFECTED, NEWEST
from repro.lab.terminal import OneLineParser, command

LOCKS = ROOT / "requirements"
HERE = surroundings.here()
SET_UP = HERE.mend
KIT = "sglang-shm-kit"
PYTHONS = (3, 10), (3, 13)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PYTHONS_NAMES = ("psm_*", "sem.mp-*")  # of any program's segments and semaphores
SGLANGS_NAMES = ("sgl_shm_*", "sglang_*")  # of releases from 0.5.13 on
NAMED = 5  # if there are many, so many are named
BETWEEN_LOOKS = 0.5  # seconds: between send and open, no process has a segment open, for about a millisecond


@dataclass(frozen=True)
class Check:
    """The result of one check. `remedy` says what to do, if there is something to do."""

    state: Literal["OK", "FAIL", "note"]
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.state:<4} {self.what}" + (f": {self.remedy}" if self.remedy else "")


@command(name="repro.lab.doctor")
def main(words: Sequence[str] | None = None) -> int:
    """Returns 0 if no check fails, 1 if a check fails, 2 for bad usage."""
    arguments = parse(words)
    checks = []
    for check in examine():
        checks.append(check)
        if not arguments.json:
            print(check, flush=True)
    failed = any(check.state == "FAIL" for check in checks)
    if arguments.json:
        print(json.dumps({"ok": not failed, "checks": [asdict(check) for check in checks]}, indent=2))
    return int(failed)


def parse(words: Sequence[str] | None):
    """The command line. Raises Refused, in one line, for bad usage."""
    parser = OneLineParser(prog="python -m repro.lab.doctor", description="Is everything there that the kit needs?")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return parser.parse_args(words)


def examine() -> Iterator[Check]:
    """The checks. Each check is made when it is asked for. A check that raises is a FAIL, and the other checks still
    run."""
    for check in CHECKS:
        try:
            yield check()
        except Exception as error:
            name = getattr(check, "func", check).__name__
            yield Check("FAIL", f"the check {name} raised an error ({type(error).__name__}, {error})", SET_UP)


def python() -> Check:
    """OK for Python 3.10 to 3.13."""
    number = sys.version.split()[0]
    if PYTHONS[0] <= tuple(sys.version_info[:2]) <= PYTHONS[1]:
        return Check("OK", f"python {number}")
    return Check(
        "FAIL", f"Python {number} is not supported, use 3.10 to 3.13", "make clean && make PYTHON=python3.12 setup"
    )


def linux() -> Check:
    """OK on Linux."""
    try:
        preflight.require_linux()
    except Refused as refusal:
        return _refused(refusal)
    return Check("OK", f"linux {os.uname().release}, {os.uname().machine}, {os.cpu_count()} cores")


def environment() -> Check:
    """OK. Says which of the kit's environments this Python belongs to: the locks and the remedies depend on it."""
    return Check("OK", f"the environment is {HERE.name}: {sys.prefix}")


def lock(name: str) -> Check:
    """OK if every package that the lock pins for this Python and platform is installed in the pinned version."""
    path = LOCKS / name
    shown = f"requirements/{name}"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        return Check("FAIL", f"cannot read {shown} ({error.strerror})", f"git checkout -- {shown}")
    if importlib.util.find_spec("packaging") is None:
        return Check("FAIL", f"{shown} cannot be compared, packaging is missing", SET_UP)
    from packaging.requirements import Requirement

    pins = [Requirement(line.rstrip(" \\")) for line in lines if line[:1].isalnum()]
    pins = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
    wrong = [told for pin in pins if (told := _difference(pin))]
    if wrong:
        return Check("FAIL", f"{shown}: {len(wrong)} of {len(pins)} packages differ ({_some(wrong)})", SET_UP)
    return Check("OK", f"{shown}: {len(pins)} packages as pinned")


def kit() -> Check:
    """OK if the kit is installed here from this checkout. Then a notebook in any folder can import the kit."""
    told = [
        json.loads(text)["url"] for found in distributions(name=KIT) if (text := found.read_text("direct_url.json"))
    ]
    if not told:
        return Check("FAIL", "the kit is not installed here, so that notebooks do not find it", HERE.bring_kit)
    if unquote(told[0]) != unquote(ROOT.as_uri()):
        return Check("FAIL", f"another checkout of the kit is installed here ({told[0]})", HERE.bring_kit)
    return Check("OK", "the kit is installed from this checkout")


def torch() -> Check:
    """OK if torch is here; it is not imported."""
    found = _installed("torch")
    return Check("OK", f"torch {found}") if found else Check("FAIL", "torch is missing", SET_UP)


def sglang() -> Check:
    """OK for an affected release, and for the release of `make latest` in its environment; a note for any other
    release. sglang is not imported."""
    found = _installed("sglang")
    if not found:
        return Check("FAIL", "sglang is missing", SET_UP)
    if found in AFFECTED:
        return Check("OK", f"sglang {found}, affected: one image and n > 1 kill it")
    if found == NEWEST and HERE == surroundings.LATEST:
        return Check("OK", f"sglang {found}, which `make latest` runs with the plugin and without")
    return Check("note", f"sglang {found} is not affected, repro/crash.py will not crash", SET_UP)


def dot() -> Check:
    """A note without dot: object graphs are then shown as text."""
    from repro.lab.pictures import dot_path

    found = dot_path()
    if found:
        return Check("OK", f"dot {found}")
    return Check("note", "no dot, object graphs are shown as text", "apt-get install graphviz")


def shared_memory() -> Check:
    """OK if segments can be made in /dev/shm and there is room for some."""
    try:
        preflight.require_shared_memory()
    except Refused as refusal:
        return _refused(refusal)
    room = os.statvfs(SHM)
    size, free = (blocks * room.f_frsize >> 20 for blocks in (room.f_blocks, room.f_bavail))
    return Check("OK", f"{SHM} {size} MiB, {free} MiB free, writable")


def gpu() -> Check:
    """OK if runs take the GPU here; else a note that says why they take the CPU."""
    why = device.why_no_cuda()
    return (
        Check("note", f"{why}, the CPU is used", device.way_to_cuda()) if why else Check("OK", "a GPU, and sgl_kernel")
    )


def browser() -> Check:
    """A note without a browser: only the browser test needs it."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found:
        return Check("OK", f"browser {found}")
    return Check("note", "no browser, the browser test is skipped", "apt-get install chromium")


def cache() -> Check:
    """OK if the cache directory can be written, or the folder in which it would be made. Makes nothing."""
    folder = cache_directory()
    try:
        with tempfile.TemporaryFile(dir=next(path for path in (folder, *folder.parents) if path.exists())):
            return Check("OK", f"cache directory {folder}, writable")
    except OSError as error:
        what = f"cannot write to the cache directory {folder} ({error.strerror})"
        return Check("FAIL", what, "set XDG_CACHE_HOME to a folder that you may write to")


def tiny_model() -> Check:
    """A note if the tiny model is not built yet."""
    try:
        place = tiny_vlm.location()
    except PackageNotFoundError as error:
        return Check("FAIL", f"no tiny model can be built, {error.name} is missing", SET_UP)
    if place.is_dir():
        return Check("OK", f"tiny model {place.name}, built")
    return Check("note", "tiny model not built yet", "the first run builds it, 2.5 MB, no download")


def segments() -> Check:
    """FAIL if this user has names of sglang's kind in /dev/shm that no visible process has open or mapped. A note if
    they are names of the kind that Python gives to any program's segments. The doctor can only guess whether a run of
    this kit has made them. (The processes of another container with the same /dev/shm are not visible.)"""
    left = _left(SHM, PYTHONS_NAMES + SGLANGS_NAMES)
    if not left:
        return Check("OK", f"no leftovers in {SHM}")
    size = sum(_size(path) for path in left) >> 10
    names = _some([path.name for path in left])
    certain = any(fnmatch.fnmatch(path.name, like) for path in left for like in SGLANGS_NAMES)
    what = f"{len(left)} names in {SHM}, {size} KiB, are open in no process, perhaps left by earlier runs ({names})"
    remedy = f"if no other program needs them: {shlex.join(['rm', *map(str, left)])}"
    return Check("FAIL" if certain else "note", what, remedy)


def folders() -> Check:
    """FAIL if there are temporary folders of the kit whose processes have died: no process holds the lock in them."""
    place = Path(tempfile.gettempdir())
    left = kit_folders.abandoned(place)
    if not left:
        return Check("OK", f"no leftovers in {place}")
    what = f"{len(left)} temporary folders of runs that were killed ({_some([path.name for path in left])})"
    return Check("FAIL", what, f"the next run removes them; or {shlex.join(['rm', '-r', *map(str, left)])}")


CHECKS: tuple[Callable[[], Check], ...] = (
    python,
    linux,
    environment,
    *(partial(lock, name) for name in HERE.locks),
    kit,
    torch,
    sglang,
    dot,
    shared_memory,
    gpu,
    browser,
    cache,
    tiny_model,
    segments,
    folders,
)


def _refused(refusal: Refused) -> Check:
    return Check("FAIL", refusal.what, refusal.way_out)


def _installed(package: str) -> str | None:
    """The version of a package, if its module and its metadata are both here."""
    try:
        return version(package) if importlib.util.find_spec(package) else None
    except PackageNotFoundError:
        return None


def _difference(pin) -> str:
    """How the installed package differs from its pin; "" if it does not."""
    try:
        found = version(pin.name)
    except PackageNotFoundError:
        found = None
    if not found:
        return f"{pin.name} missing"
    return "" if pin.specifier.contains(found, prereleases=True) else f"{pin.name} {found}, not {pin.specifier}"


def _left(place: Path, patterns: Sequence[str]) -> list[Path]:
    """This user's paths in `place` that match one of the patterns, and that no process holds, now and a moment
    later."""
    left = _unheld(_own(place, patterns))
    if not left:
        return []
    time.sleep(BETWEEN_LOOKS)
    return _unheld([path for path in _own(place, patterns) if path in left])


def _own(place: Path, patterns: Sequence[str]) -> list[Path]:
    own = []
    for path in sorted(place.iterdir()) if place.is_dir() else []:
        try:
            if any(fnmatch.fnmatch(path.name, like) for like in patterns) and path.lstat().st_uid == os.getuid():
                own.append(path)
        except FileNotFoundError:  # gone by now
            pass
    return own


def _unheld(own: list[Path]) -> list[Path]:
    held = held_inodes()
    return [path for path in own if inode(path) not in held]


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _some(words: Sequence[str]) -> str:
    return "; ".join(words[:NAMED]) + (f"; {len(words) - NAMED} more" if len(words) > NAMED else "")


if __name__ == "__main__":
    sys.exit(main())

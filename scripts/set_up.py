"""Make .venv, .venv-gpu or .venv-latest, with everything that is locked: `make setup`, `make gpu`, `make latest`.

This script needs the standard library only, because it runs before anything is installed. If the set-up cannot work
here, the script says so in one line, with status 2, before it downloads anything. An interrupted set-up is resumed.
"""

import sys

if not (3, 10) <= sys.version_info[:2] <= (3, 13):  # first, in words that older Pythons can read, too
    sys.stderr.write("set-up: this is Python %d.%d, and " % sys.version_info[:2])  # noqa: UP031
    sys.stderr.write("the kit needs 3.10 to 3.13: name one, such as `make PYTHON=python3.12 ...`\n")
    sys.exit(2)

import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a plain checkout

from repro.lab import registry
from repro.lab.machine import preflight
from repro.lab.places import ROOT
from repro.lab.refused import Refused

INSTALLER = "installer.lock"
MACHINES = ("x86_64", "aarch64")  # for which sglang has wheels
GLIBC = (2, 34)  # which those wheels need
BITS, LINE = 8e9, 100e6  # bits in a gigabyte; bits a second on a usual line
WHOLE = ".whole"  # made last: without this file, the environment counts as incomplete
UNFINISHED = ".unfinished"  # there while packages are installed


@dataclass(frozen=True)
class Kind:
    """One of the kit's environments: the make target, the folder, the locks in their order with their content in words,
    the room that it takes, and what can be done with it afterwards."""

    target: str
    folder: str
    locks: dict[str, str]
    gigabytes: float  # on the disk, measured with du
    downloaded: float  # gigabytes, at the first time; measured at the network interface
    afterwards: str
    oldest: tuple[int, int] = (3, 10)  # the oldest Python for which its locks are resolved


CPU = Kind(
    target="make setup",
    folder=".venv",
    locks={"cpu.lock": "sglang and torch", "tools.lock": "JupyterLab and the tools"},
    gigabytes=5.3,
    downloaded=2.0,
    afterwards="`make demo` shows the crash and the fix, `make lab` opens the notebooks",
)
GPU = Kind(
    target="make gpu",
    folder=".venv-gpu",
    locks={"gpu.lock": "sglang with all of its dependencies, and the tools"},
    gigabytes=9.2,
    downloaded=3.2,
    afterwards="`.venv-gpu/bin/python repro/crash.py` uses a GPU if one answers",
)

LATEST = Kind(
    target="make latest",
    folder=".venv-latest",
    locks={"latest.lock": "sglang 0.5.23 and its torch"},
    gigabytes=6.1,
    downloaded=2.5,
    afterwards="`.venv-latest/bin/python -m scripts.latest` runs its engine, without the plugin and with it",
    oldest=(3, 11),
)


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status. 0: the environment is complete. 1: a step failed and said why. 2: the environment cannot
    be made here. 130: interrupted."""
    options = parse(words)
    kind = GPU if options.gpu else LATEST if options.latest else CPU
    try:
        require(kind)
    except Refused as refusal:
        tell(kind, str(refusal))
        return 2
    try:
        return SetUp(kind, ROOT / kind.folder).run(only_uv=options.only_uv)
    except KeyboardInterrupt:
        tell(kind, "interrupted; the same command resumes it")
        return 130


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description="Make an environment of the kit, with everything that is locked.")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--gpu", action="store_true", help="make .venv-gpu, for a machine with a GPU")
    kinds.add_argument("--latest", action="store_true", help="make .venv-latest, with sglang 0.5.23")
    parser.add_argument("--only-uv", action="store_true", help="bring the installer, and nothing else")
    return parser.parse_args(words)


def tell(kind: Kind, what: str) -> None:
    """Print one line to stderr for the person who waits."""
    print(f"{kind.target}: {what}", file=sys.stderr, flush=True)


def require(kind: Kind) -> None:
    """Raise Refused if this machine cannot have the environment."""
    preflight.require_linux()
    require_python(kind)
    require_processor()
    require_glibc()
    if importlib.util.find_spec("ensurepip") is None:
        raise Refused(
            f"{sys.executable} has no ensurepip, so it cannot make an environment",
            "apt-get install python3-venv, or name another Python: make PYTHON=python3.12 ...",
        )
    if not os.access(ROOT, os.W_OK):
        raise Refused(f"cannot write to {ROOT}", "clone the kit to a folder of your own")
    require_room(kind)


def require_python(kind: Kind) -> None:
    """Raise Refused for a Python that is older than the environment's locks."""
    if sys.version_info[:2] < kind.oldest:
        wanted, found = (".".join(map(str, numbers)) for numbers in (kind.oldest, sys.version_info[:2]))
        raise Refused(
            f"{kind.folder} needs Python {wanted} to 3.13, and this is Python {found}",
            f"name another one: {kind.target} PYTHON=python3.12",
        )


def require_processor() -> None:
    """Raise Refused for a processor that sglang has no wheels for."""
    if platform.machine() not in MACHINES:
        raise Refused(
            f"sglang has wheels for {' and '.join(MACHINES)}, not for {platform.machine()}", "use another machine"
        )


def require_glibc() -> None:
    """Raise Refused for another C library than glibc, or for an older glibc than sglang's wheels need."""
    library, number = platform.libc_ver()
    if library == "glibc" and tuple(map(int, number.split(".")[:2])) >= GLIBC:
        return
    raise Refused(
        f"sglang's wheels need glibc {GLIBC[0]}.{GLIBC[1]} or newer, and this system has "
        + (f"glibc {number}" if library == "glibc" else "another C library"),
        "use a newer system, such as Ubuntu 22.04, Debian 12 or RHEL 9, or a container with one",
    )


def require_room(kind: Kind) -> None:
    """Raise Refused if a disk for the packages has too little room. uv unpacks the packages in its cache. From there it
    links them, or it copies them if the environment is on another disk. Packages of an earlier set-up count as room."""
    for disk in disks(ROOT / kind.folder, cache_of_uv()):
        free = shutil.disk_usage(existing(disk[0])).free
        if free < kind.gigabytes * 1e9 and free + size_of(disk) < kind.gigabytes * 1e9:
            raise Refused(
                f"this takes {kind.gigabytes} GB in {disk[0]}, and {free / 1e9:.1f} GB are free there",
                "free some of the disk, or clone the kit to another one and set UV_CACHE_DIR to a folder there",
            )


def cache_of_uv() -> Path:
    """Return the folder in which uv keeps its downloads."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(os.environ.get("UV_CACHE_DIR") or base / "uv").absolute()


def disks(*places: Path) -> list[list[Path]]:
    """Return the places, grouped by disk."""
    by_disk: dict[int, list[Path]] = {}
    for place in places:
        by_disk.setdefault(existing(place).stat().st_dev, []).append(place)
    return list(by_disk.values())


def existing(place: Path) -> Path:
    """Return the place, or the nearest folder above it that exists."""
    return next(path for path in (place, *place.parents) if path.exists())


def size_of(places: Iterable[Path]) -> int:
    """Return the bytes on disk of all files in these places. A file with several names is counted once."""
    sizes: dict[int, int] = {}
    for place in places:
        for folder, _, names in os.walk(place):
            for name in names:
                try:
                    found = os.lstat(os.path.join(folder, name))
                except FileNotFoundError:  # another set-up is at work there
                    continue
                sizes[found.st_ino] = found.st_blocks * 512
    return sum(sizes.values())


class SetUp:
    """The steps that make one environment. A step runs only if it is needed. On a terminal, pip and uv show their
    progress; in a pipe, each step prints one line."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.python, self.uv = folder / "bin" / "python", folder / "bin" / "uv"
        self.in_a_pipe = not sys.stderr.isatty()
        self.environment = {**registry.environment(), "PYTHONUTF8": "1"}

    def run(self, *, only_uv: bool) -> int:
        """Run the steps, and return the exit status: 0, or 1 if a step failed. With `only_uv`, only install uv."""
        started = time.monotonic()
        try:
            if only_uv:
                self.bring_uv()
                return 0
            self.tell_what_it_takes()
            self.bring_uv()
            self.bring_packages()
        except subprocess.CalledProcessError as error:
            failed = Path(error.cmd[0]).name
            tell(self.kind, f"{failed} ended with {error.returncode}, as said above; the same command resumes it")
            return 1
        took = time.monotonic() - started
        tell(self.kind, f"{self.folder.name} is ready after {took:.0f} s; {self.kind.afterwards}")
        return 0

    def tell_what_it_takes(self) -> None:
        """Say how much room and how much time the set-up takes, before it starts."""
        kind = self.kind
        tell(
            kind,
            f"{kind.folder} gets {kind.gigabytes} GB. The first time, {kind.downloaded} GB are downloaded: "
            f"{kind.downloaded * BITS / LINE / 60:.0f} minutes at 100 Mbit/s. From uv's cache it takes 10 to 60 s",
        )

    def bring_uv(self) -> None:
        """Make the environment if it has no pip yet, and install uv in it, checked by its hash. Raises
        CalledProcessError if that fails."""
        if not self.answers(self.python, "-I", "-m", "pip", "--version"):
            tell(self.kind, f"a new environment in {self.folder.name}")
            self.call(sys.executable, "-I", "-m", "venv", "--clear", self.folder)
        pin = pin_of_uv()
        if pin not in self.answers(self.uv, "--version"):
            tell(self.kind, f"{pin}, which installs the rest")
            wanted = ROOT / "requirements" / INSTALLER
            self.call(
                *(self.python, "-I", "-m", "pip", "install", *(["-qq"] if self.in_a_pipe else [])),
                *("--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", wanted),
            )

    def bring_packages(self) -> None:
        """Install the packages of the locks, and the kit itself. After an interrupted set-up, all packages are written
        again from uv's cache, because some may be incomplete. Raises CalledProcessError if that fails."""
        unfinished = self.folder / UNFINISHED
        again = ["--reinstall"] if unfinished.exists() else []
        (self.folder / WHOLE).unlink(missing_ok=True)
        unfinished.touch()
        install = [self.uv, "pip", "install", "--python", self.python, "--no-deps"]
        install += ["--quiet"] if self.in_a_pipe else []
        for lock, brings in self.kind.locks.items():
            tell(self.kind, f"requirements/{lock}: {brings}")
            self.call(*install, "--require-hashes", *again, "-r", ROOT / "requirements" / lock)
        tell(self.kind, "the kit itself")
        self.call(*install, "--no-build-isolation", "--editable", ROOT)
        unfinished.unlink()
        (self.folder / WHOLE).touch()

    def call(self, *words: object) -> None:
        """Run a command to its end and show its output. Raises CalledProcessError if it fails."""
        subprocess.run(list(map(str, words)), env=self.environment, cwd=ROOT, stdin=subprocess.DEVNULL, check=True)

    def answers(self, *words: object) -> str:
        """Run a command and return its output, or "" if the command fails or does not exist."""
        try:
            run = subprocess.run(list(map(str, words)), env=self.environment, cwd=ROOT, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return ""
        return os.fsdecode(run.stdout)


def pin_of_uv() -> str:
    """Return the name and version of uv that the lock pins, in the form that `uv --version` prints: `uv 0.0.0`."""
    lines = (ROOT / "requirements" / INSTALLER).read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("uv==")).rstrip(" \\").replace("==", " ")


if __name__ == "__main__":
    sys.exit(main())

"""A release's source files, by name: the installed sglang's, or a wheel's, kept in the user's cache.

The cache keeps only the files of a wheel that the lab needs. `releases.sha256` holds a checksum of each file of every
release. So the kit runs only the code that it was written for. A cached file is checked again each time it is read.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from repro.lab import registry
from repro.lab.places import cache_directory
from repro.lab.refused import Refused
from repro.lab.releases import ALL, LAST, NEWEST, OLDEST

INSTALLED = "installed"
MM_UTILS = "srt/managers/mm_utils.py"
TOKENIZER_MANAGER = "srt/managers/tokenizer_manager.py"
SHM_NAMES = "srt/utils/stale_shm_cleanup.py"  # from 0.5.14 on
RECEIVER = "srt/managers/scheduler_components/request_receiver.py"  # from 0.5.19 on
COMMON = "srt/utils/common.py"  # of the last affected release
TABLE = Path(__file__).with_name("releases.sha256")
LIMIT = 600.0  # seconds for a download


@dataclass(frozen=True)
class Source:
    """One file of a release: its text, its path (for tracebacks and debuggers), and the release's name."""

    release: str
    path: Path
    text: str


def name_of(release: str) -> str:
    """The version that `release` means. `installed` means the installed version; if sglang is not installed, it means
    the last affected release. Raises Refused for any other text that is not a release."""
    if release == INSTALLED:
        return installed_version() or LAST
    if release not in ALL and release != installed_version():
        raise Refused(f"{release!r} is not a release", f"give one from {OLDEST} to {NEWEST}, or `installed`")
    return release


def read(release: str, file: str) -> Source:
    """`file` (such as `srt/managers/mm_utils.py`) of `release`: `installed`, or a version such as `0.5.12.post1`.

    Raises Refused, in one line, if there is no such release or file, if neither a registry nor the cache has it, or if
    a download has a wrong checksum.
    """
    release = name_of(release)
    path = _installed(file) if release == installed_version() else _cached(release, file)
    if not path.is_file():
        raise Refused(f"sglang {release} has no {file}")
    return Source(release, path, path.read_text(encoding="utf-8"))


@functools.cache  # each call would read the metadata, a file of forty kilobytes
def installed_version() -> str | None:
    """The version of this Python's sglang, without importing it; None if sglang is not installed."""
    try:
        return version("sglang") if importlib.util.find_spec("sglang") else None
    except PackageNotFoundError:
        return None


def _installed(file: str) -> Path:
    return Path(importlib.util.find_spec("sglang").submodule_search_locations[0], file)


@functools.cache
def _checksums() -> dict[str, str]:
    """The table: SHA-256 by `RELEASE/sglang/FILE`."""
    rows = (line.split() for line in TABLE.read_text(encoding="utf-8").splitlines())
    return {path: checksum for checksum, path in rows}


def _cached(release: str, file: str) -> Path:
    name = f"{release}/sglang/{file}"
    if name not in _checksums():
        raise Refused(f"sglang {release} has no {file}")
    path = cache_directory() / "releases" / name
    if not _is_whole(path, name):
        fetch(release)
    return path


def _is_whole(path: Path, name: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == _checksums()[name]
    except OSError:
        return False


def fetch(release: str) -> None:
    """Put the files of the release into the cache. Each file is written beside its place and then renamed, so a
    half-written file is never read. Raises Refused if the release cannot be downloaded, or if its files are damaged or
    cannot be written."""
    place = cache_directory() / "releases"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=place) as scaffold:
            unpack(_download(release, Path(scaffold)), release, place)
    except OSError as error:
        raise Refused(f"cannot write to {place} ({error.strerror})", "set XDG_CACHE_HOME to another folder") from None


def _download(release: str, folder: Path) -> Path:
    """Download one wheel of the release into `folder`, and return its path. It may be any of the wheels: the files that
    the lab reads are the same for every Python and platform."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--python-version", "3.12"]
    for platform in ("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux2014_x86_64"):
        command += ["--platform", platform]
    command += ["--dest", str(folder), f"sglang=={release}"]
    try:
        run = subprocess.run(
            command,
            env=registry.environment(),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired:
        raise Refused(f"cannot download sglang {release} within {LIMIT:.0f} s", "check the network") from None
    wheels = list(folder.glob("*.whl"))
    if run.returncode == 0 and wheels:
        return wheels[0]
    if "from versions: none" in run.stderr or "onnection" in run.stderr:
        raise Refused(
            f"cannot download sglang {release}, which is not in {folder.parent}: no package registry answers",
            "check the network",
        )
    reason = (run.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
    raise Refused(f"cannot download sglang {release} ({reason})", "run pip download by hand to see why")


def unpack(wheel: Path, release: str, place: Path) -> None:
    """Write the release's files that are in the table to folders below `place`. If the wheel is damaged, or if a
    checksum differs from the table, this raises Refused and writes no file."""
    wanted = [name for name in _checksums() if name.startswith(f"{release}/")]
    try:
        with zipfile.ZipFile(wheel) as archive:
            contents = {name: archive.read(name.partition("/")[2]) for name in wanted}
    except (zipfile.BadZipFile, KeyError, NotImplementedError) as error:
        raise Refused(f"{wheel.name} is damaged ({error})", "run the command again to download it again") from None
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != _checksums()[name]:
            raise Refused(f"{wheel.name}: {name} is not the file that sglang {release} was released with")
    for name, content in contents.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as half:
            half.write(content)
        os.replace(half.name, path)

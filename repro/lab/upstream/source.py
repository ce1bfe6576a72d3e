"""A release's source, by name: the installed sglang's, or a wheel's, kept in the user's cache.

Of a wheel only the needed files are unpacked, each checked against the wheel's own RECORD; the folder is renamed
into place when it is whole, so a warm cache needs no network.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import io
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from repro.lab.engine.tiny_vlm import cache_directory
from repro.lab.evidence.verdict import AFFECTED, Refused

INSTALLED = "installed"
MM_UTILS = "srt/managers/mm_utils.py"
TOKENIZER_MANAGER = "srt/managers/tokenizer_manager.py"
COMMON = "srt/utils/common.py"  # of the installed release only
SHM_NAMES = "srt/utils/stale_shm_cleanup.py"  # from 0.5.14 on
NEEDED = (MM_UTILS, TOKENIZER_MANAGER, SHM_NAMES)
OLDEST, NEWEST = "0.5.6", "0.5.23"


@dataclass(frozen=True)
class Source:
    """One file of a release: its text, its path (for tracebacks and debuggers), and the release's name."""

    release: str
    path: Path
    text: str


def read(release: str, file: str) -> Source:
    """`file` (such as `srt/managers/mm_utils.py`) of `release`: `installed`, or a version such as `0.5.12.post1`.

    Raises Refused, in one line, if there is no such release, no network and no cached copy, or a broken download.
    """
    if release == INSTALLED or release == _installed_version():
        folder, release = _installed_folder(), _installed_version()
    else:
        folder = _cached(release)
    path = folder / file
    if not path.is_file():
        raise Refused(f"sglang {release} has no {file}")
    return Source(release, path, path.read_text())


def name_of(release: str) -> str:
    """The version that `release` stands for (`installed` is resolved). Raises Refused if it is not installed."""
    return _installed_version() or _not_installed() if release == INSTALLED else release


def _installed_version() -> str | None:
    try:
        return version("sglang")
    except PackageNotFoundError:
        return None


def _installed_folder() -> Path:
    spec = importlib.util.find_spec("sglang")  # does not import it
    if spec is None or not spec.submodule_search_locations:
        _not_installed()
    return Path(spec.submodule_search_locations[0])


def _not_installed() -> None:
    raise Refused(f"{sys.executable} has no sglang: give --release {AFFECTED[-1]}, or run `make demo`")


def _cached(release: str) -> Path:
    place = cache_directory() / "releases" / release / "sglang"
    if place.is_dir():
        return place
    if not re.fullmatch(r"\d+(\.\d+)+(\.post\d+|rc\d+)?", release):
        raise Refused(f"{release!r} is no release: give one from {OLDEST} to {NEWEST}, or `installed`")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        scaffold = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=place.parent))
    except OSError as error:
        raise Refused(f"cannot write to {place.parent} ({error.strerror}): set XDG_CACHE_HOME") from None
    try:
        unpack(_download(release, scaffold), scaffold / "sglang")
        try:
            (scaffold / "sglang").rename(place)
        except OSError:
            if not place.is_dir():  # else another process was faster, and its copy is the same
                raise
    finally:
        shutil.rmtree(scaffold, ignore_errors=True)
    return place


def _download(release: str, folder: Path) -> Path:
    """The release's wheel, any wheel: the files that are read are the same for every Python and platform."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--python-version", "3.12"]
    for platform in ("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux2014_x86_64"):
        command += ["--platform", platform]
    run = subprocess.run([*command, "--dest", folder, f"sglang=={release}"], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if run.returncode == 0 and wheels:
        return wheels[0]
    if "from versions: none" in run.stderr or "onnection" in run.stderr:
        raise Refused(f"cannot download sglang {release}: no package registry answers; it is not in {folder.parent}")
    if "No matching distribution" in run.stderr:
        raise Refused(f"there is no sglang {release}: give a release from {OLDEST} to {NEWEST}, or `installed`")
    reason = (run.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
    raise Refused(f"cannot download sglang {release}: {reason}")


def unpack(wheel: Path, folder: Path) -> None:
    """Write the needed files of `wheel` below `folder`. Raises Refused if one is damaged."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
            record = next(name for name in names if name.endswith(".dist-info/RECORD"))
            rows = csv.reader(io.StringIO(archive.read(record).decode()))
            expected = {row[0]: row[1] for row in rows if row}
            for file in NEEDED:
                if f"sglang/{file}" in names:
                    content = archive.read(f"sglang/{file}")
                    _check(content, expected[f"sglang/{file}"], f"{wheel.name}: {file}")
                    (folder / file).parent.mkdir(parents=True, exist_ok=True)
                    (folder / file).write_bytes(content)
    except (zipfile.BadZipFile, StopIteration, KeyError, OSError) as error:
        raise Refused(f"{wheel.name} is damaged ({error}): run the command again to download it again") from None


def _check(content: bytes, expected: str, what: str) -> None:
    method, _, value = expected.partition("=")
    found = base64.urlsafe_b64encode(hashlib.new(method, content).digest()).rstrip(b"=").decode()
    if found != value:
        raise Refused(f"{what} is not what the wheel's RECORD says: run the command again to download it again")

"""The kit's temporary folders. The process that makes a folder holds a lock in it. So a folder in use differs from a
folder whose process has died. Whoever makes the next folder removes the folders of dead processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from repro.lab.refused import Refused

PREFIX = "shm-kit-"
LOCK = ".in-use"
PATIENCE = 5.0  # seconds to wait for the end of a process that has closed its pipe
LONGEST = 74  # characters of a path, so that sockets in the folder stay below the 107 that Linux allows

_locks: dict[Path, int] = {}


def where() -> Path:
    """The place of the folders: TMPDIR, or /tmp if the path of TMPDIR is too long for the sockets in the folders."""
    place = Path(tempfile.gettempdir())
    return place if len(str(place)) <= LONGEST else Path("/tmp")


def make(kind: str) -> Path:
    """A new folder, `shm-kit-KIND-...`, of this process. Removes folders whose processes have died.

    Raises Refused if no folder can be made at their place (`where`).
    """
    place = where()
    try:
        for folder in abandoned(place):
            shutil.rmtree(folder, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-", dir=place))
        unlocked = made / "lock"
        _locks[made] = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(_locks[made], fcntl.LOCK_EX)
        unlocked.rename(made / LOCK)  # only now: so a lock file that is there is locked, or its process has died
    except OSError as error:
        raise Refused(f"cannot make a folder in {place} ({error.strerror})", "set TMPDIR to another folder") from None
    return made


def remove(folder: Path) -> None:
    """Remove the folder and all that is in it."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder in _locks:
        os.close(_locks.pop(folder))


@contextlib.contextmanager
def temporary_files_there() -> Iterator[None]:
    """While the context lasts, this process makes its temporary files at the place of the kit's folders.
    multiprocessing puts a socket among them."""
    before, tempfile.tempdir = tempfile.tempdir, str(where())
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextlib.contextmanager
def folder(kind: str) -> Iterator[Path]:
    """A new folder while the context lasts. See `make`."""
    made = make(kind)
    try:
        yield made
    finally:
        remove(made)


def let_go() -> None:
    """In a forked process: give up the parent's folders, so that this process does not keep them in use."""
    while _locks:
        os.close(_locks.popitem()[1])


def remove_when_abandoned(folder: Path, *others: Path) -> None:
    """Remove the folder, and the `others` with it, if its process has died or is ending. If the process lives, they
    stay."""
    until = time.monotonic() + PATIENCE
    while not (gone := is_abandoned(folder)) and folder.exists() and time.monotonic() < until:
        time.sleep(0.05)
    for path in (folder, *others) if gone else ():
        shutil.rmtree(path, ignore_errors=True)


def abandoned(place: Path) -> list[Path]:
    """This user's folders of the kit in `place` whose processes have died: no process holds their lock."""
    return [path for path in sorted(place.glob(f"{PREFIX}*")) if is_abandoned(path)]


def is_abandoned(path: Path) -> bool:
    """Whether this is a folder of the kit, of this user, whose process has died."""
    try:
        if path.is_symlink() or path.lstat().st_uid != os.getuid():
            return False
        lock = os.open(path / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # gone by now, or not of this kind
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(lock)

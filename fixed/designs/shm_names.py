"""The names in /dev/shm that the kit's designs make: functions that make, link, remove and sweep them. At no moment
would a SIGKILL of this process leave a name for ever.

The resource tracker is a process that Python starts. When this process is gone, the tracker removes the names that it
knows. So a name is registered with the tracker before the name is made, and unregistered after the name is removed.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import secrets
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory

SHM = "/dev/shm"
KIND = "shared_memory"  # what the resource tracker calls a segment's name
NAMES_ARE_FILES = os.path.isdir(SHM)
NAME = re.compile(r"sgl_shm_mm_(?P<pid>[1-9][0-9]{0,9})_(?P<namespace>[0-9a-f]{8})[0-9a-f]{24}")
_numbers = itertools.count()
TOKEN = secrets.token_hex(4)  # a random part that all names of this process have; each name has another one of its own


def created(name: str, size: int) -> SharedMemory:
    """Make a new segment of `size` bytes under this name, and return it. The name is registered with the tracker first.
    So if this process is killed in between, the tracker removes the name. Raises OSError if the name exists or the
    segment cannot be made. Then no name is made, and none is registered."""
    resource_tracker.register(f"/{name}", KIND)
    try:
        return SharedMemory(name, create=True, size=size)  # exclusively
    except OSError:
        forget(name)
        raise


def linked_to(first: str) -> str:
    """Make a new name for the segment of the name `first`, and return the new name. It is registered with the tracker
    first. Raises OSError, and then makes no name."""
    name = new_name()
    resource_tracker.register(f"/{name}", KIND)
    try:
        os.link(f"{SHM}/{first}", f"{SHM}/{name}")
    except OSError:
        forget(name)
        raise
    return name


def forget(name: str) -> None:
    """Unregister a name that does not exist from the tracker. Python may have done that already, if it created a
    segment that then could not get its size. The tracker complains if it does not know the name. So the name is
    registered once more before."""
    resource_tracker.register(f"/{name}", KIND)
    resource_tracker.unregister(f"/{name}", KIND)


def new_name() -> str:
    """Return a new name that nobody can guess. It has the form of sglang's own names from 0.5.14 on, with the pid
    before the last underscore. So sglang's sweep for stale names can read it, too. The alphabetical order of one
    process's names is the order in which they were made."""
    return f"{_ours()}{next(_numbers) % 2**32:08x}{secrets.token_hex(4)}"


def of_this_process() -> list[str]:
    """Return the names that this process made and that still exist, in the order in which they were made."""
    return sorted(entry for entry in os.listdir(SHM) if entry.startswith(_ours()))


def remove(names: list[str]) -> None:
    """Unlink those of `names` that still exist, and empty the list."""
    for name in names:
        try:
            os.unlink(f"{SHM}/{name}")
        except FileNotFoundError:
            continue
        resource_tracker.unregister(f"/{name}", KIND)
    names.clear()


def sweep_the_dead() -> list[str]:
    """Remove the names that the kit's designs made in processes that are dead now, and return them. Names of another
    pid namespace stay, because from here one cannot see whether their process is alive. (No two existing namespaces
    have the same number. So a name with this namespace's number comes from this namespace, or from one that is gone
    with all its processes.)"""
    removed = []
    for entry in os.listdir(SHM) if NAMES_ARE_FILES else []:
        name = NAME.fullmatch(entry)
        if name and name["namespace"] == _namespace() and not _is_alive(int(name["pid"])):
            with contextlib.suppress(OSError):  # another sweep was faster, or the name belongs to another user
                os.unlink(f"{SHM}/{entry}")
                removed.append(entry)
    return removed


def _ours() -> str:
    return f"sgl_shm_mm_{os.getpid()}_{_namespace()}{TOKEN}"


@functools.cache
def _namespace() -> str:
    """The number of this process's pid namespace, in eight hexadecimal digits. It belongs into a name, because in
    another namespace the same pid means another process."""
    try:
        return f"{os.stat('/proc/self/ns/pid').st_ino & 0xFFFFFFFF:08x}"
    except OSError:
        return secrets.token_hex(4)  # a number that no namespace has: no later process will sweep these names


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # a process of another user; or no pid at all
        pass
    return True

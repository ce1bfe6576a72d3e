"""Names in /dev/shm that the kit's designs make: made, linked, removed, and swept, with no moment at which a SIGKILL
of this process would leave one for ever.

The resource tracker is a process of Python's own. It removes, when this process is gone, the names that it knows. So a
name is registered with it before the kernel is asked for the name, and forgotten after the kernel has dropped it.
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
TOKEN = secrets.token_hex(4)  # of this process's names; each has another of its own


def created(name: str, size: int) -> SharedMemory:
    """A new segment under that name. The tracker knows the name before the kernel does: if this process is killed in
    between, the tracker removes it. Raises OSError; then there is no such name, and the tracker has forgotten it."""
    resource_tracker.register(f"/{name}", KIND)
    try:
        return SharedMemory(name, create=True, size=size)  # exclusively
    except OSError:
        forget(name)
        raise


def linked_to(first: str) -> str:
    """A new name for the segment that `first` names. The tracker knows it before the kernel does. Raises OSError; then
    there is no such name."""
    name = new_name()
    resource_tracker.register(f"/{name}", KIND)
    try:
        os.link(f"{SHM}/{first}", f"{SHM}/{name}")
    except OSError:
        forget(name)
        raise
    return name


def forget(name: str) -> None:
    """Let the tracker forget a name that does not exist. Python may have told it already (where a segment is created
    and cannot get its size), and the tracker complains of a name that it does not know; so it is told of it again."""
    resource_tracker.register(f"/{name}", KIND)
    resource_tracker.unregister(f"/{name}", KIND)


def new_name() -> str:
    """A name that nobody can guess. It is built as sglang builds its own from 0.5.14 on, with the process's number in
    front of the last underscore; so sglang's sweep for stale names can read it, too. Names of one process are sorted as
    they were made."""
    return f"{_ours()}{next(_numbers) % 2**32:08x}{secrets.token_hex(4)}"


def of_this_process() -> list[str]:
    """The names that this process has made and that are there now, in the order in which they were made."""
    return sorted(entry for entry in os.listdir(SHM) if entry.startswith(_ours()))


def remove(names: list[str]) -> None:
    """Unlink `names`, those that no consumer has unlinked, and empty the list."""
    for name in names:
        try:
            os.unlink(f"{SHM}/{name}")
        except FileNotFoundError:
            continue
        resource_tracker.unregister(f"/{name}", KIND)
    names.clear()


def sweep_the_dead() -> list[str]:
    """Remove the names that this design made in processes that are dead now, and return them. A process of another pid
    namespace cannot be asked for from here: names from there stay. (No two namespaces that exist have one number. So a
    name with this namespace's number comes from here, or from one that is gone with all its processes.)"""
    removed = []
    for entry in os.listdir(SHM) if NAMES_ARE_FILES else []:
        name = NAME.fullmatch(entry)
        if name and name["namespace"] == _namespace() and not _is_alive(int(name["pid"])):
            with contextlib.suppress(OSError):  # another server's sweep was faster, or it is another user's
                os.unlink(f"{SHM}/{entry}")
                removed.append(entry)
    return removed


def _ours() -> str:
    return f"sgl_shm_mm_{os.getpid()}_{_namespace()}{TOKEN}"


@functools.cache
def _namespace() -> str:
    """The number of this process's pid namespace, in eight hexadecimal digits: the same number stands for another
    process in another namespace."""
    try:
        return f"{os.stat('/proc/self/ns/pid').st_ino & 0xFFFFFFFF:08x}"
    except OSError:
        return secrets.token_hex(4)  # nobody's: then nothing is swept by the next process


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; or no number of a process
        pass
    return True

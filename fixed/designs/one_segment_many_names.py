"""One segment for all sends of a feature, and a name of its own for each send: hard links.

`/dev/shm` is a tmpfs. There, a name is a directory entry, the memory is the inode, and the inode's link count is a
count of references that the kernel keeps. The feature is written once, at its first send, and gets as many names as
there will be sends. The scheduler opens and unlinks the name that it was sent, as released, and so it frees nothing
that another send needs. The last send takes the last name. After that, every remaining name belongs to a consumer.

The hooks stand around five functions of sglang, in the tokenizer's process only. The scheduler runs as released.

* `TokenizerManager._handle_batch_request`: the hook knows how many sends there will be. When the batch ends, by
  success, by an exception, or because the client went away, the hook removes the names that no send has taken.
* `TokenizerManager._send_one_request`: if a send fails, the hook removes its names, because no consumer will get them.
* `wrap_shm_features`: the hook mutates nothing (`pure_wrap`). Without shared memory (ENOSPC, EMFILE, ...), the features
  go inline, in the message.
* `ShmPointerMMData.__init__`: the pointer takes a name instead of making a segment.
* `kill_process_tree`: if the scheduler dies for another reason, sglang kills its own process tree with SIGKILL, and the
  resource tracker with it. The hook first removes the names that were sent and never opened.

If the tokenizer alone is killed, the tracker removes the names. No name escapes the tracker, because each name is
registered with it *before* the name is made.

**Which names can still be left.** Names stay if the tokenizer and its tracker are killed at the same instant: by a
SIGKILL of the process group, or by the kernel's out-of-memory killer on a whole container. No code of the group runs
then. `shm_names.sweep_the_dead` removes such names later; the hotfix calls it when a server starts. It removes a name
only if this design made the name, in this pid namespace, and if the process that made it is dead. So two kinds of names
stay: names of another container that shares this /dev/shm, because their process may be alive there; and names of a
dead process whose number another process has now.

**What the design relies on.**

* Linux, with a tmpfs in /dev/shm that tokenizer and scheduler both see.
* Each consumer unlinks the name that it was sent, once, after all consumers of the name have opened it. (sglang's
  barrier makes sure of that.) No consumer writes through its mapping.
* A feature does not change between its first send and its last.
* Only one thread sends: asyncio's.

**Where the design fails or falls back.**

* If a consumer wrote to the segment in place, all consumers would see it.
* A consumer that unlinks by inode, or that expects a segment of its own in `df`, would not work.
* Across containers that do not share /dev/shm, no name works, linked or not.
* Where links cannot be made (another filesystem, a security module), the log says so once, and every send gets a
  segment of its own. Without a /dev/shm (macOS), sglang's own code makes this segment. Either way, this is `pure_wrap`.
* 0.5.9 is not supported: its pointers keep the segment open.

The segment is filled with `write(2)`. That is faster than a first write through a mapping (no page faults, no zeroing).
If there is no room, it gives ENOSPC, and a mapping would give SIGBUS.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from .pure_wrap import pure_wrap
from .shm_names import NAMES_ARE_FILES, SHM, created, linked_to, new_name, of_this_process, remove

CANNOT_LINK = (errno.EPERM, errno.EACCES, errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP)
NO_MORE_LINKS = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMLINK)  # tmpfs counts a hard link as an inode
logger = logging.getLogger(__name__)


@dataclass
class Segment:
    """The segment of one feature. `names` are the names that no send has taken yet, and `sends` is the number of sends
    still to come. `tensor` is kept alive so that no other tensor can get its id meanwhile."""

    tensor: Any
    sends: int
    names: list[str] = field(default_factory=list)


@dataclass
class Batch:
    """One call of `_handle_batch_request`, in which every feature is sent `sends` times."""

    sends: int
    segments: dict[int, Segment] = field(default_factory=dict)

    def name_for(self, tensor: Any) -> str:
        """Return a name for the next send of `tensor`. The first call writes the segment and makes the names for all
        sends. At that moment no consumer slows it down: in one directory, the kernel lets only one process at a time
        link or unlink. If there is no room for all names, later sends write another segment when the names are used up.
        Raises OSError, and then leaves no name of this segment."""
        segment = self.segments.get(id(tensor))
        if segment is None or segment.sends == 0:  # 0: the tensor is in several items, and so it is sent again
            segment = self.segments[id(tensor)] = Segment(tensor, self.sends)
        if not segment.names:
            segment.names.append(first_name(tensor))
            add_names(segment.names, segment.sends - 1)
        segment.sends -= 1
        return segment.names.pop()

    def close(self) -> None:
        """Remove the names that no send has taken."""
        for segment in self.segments.values():
            remove(segment.names)


class Links:
    """Whether hard links work on this machine. `work` is True until a link fails for a lasting reason (CANNOT_LINK)."""

    work = True


current: ContextVar[Batch | None] = ContextVar("batch", default=None)  # the batch that this task is sending
taken: ContextVar[list[str] | None] = ContextVar("taken", default=None)  # the names of the current send
source: ContextVar[Callable[[Any], str] | None] = ContextVar("source", default=None)  # called instead of `new_segment`


def handle_batch_request(original: Callable, manager: Any, obj: Any, *arguments: Any, **named: Any) -> AsyncIterator:
    """Hook around `TokenizerManager._handle_batch_request` (tokenizer_manager.py). Returns its answers. The n + 1 sends
    of a prompt share one segment for each feature. With n = 1 nothing is changed."""
    answers = original(manager, obj, *arguments, **named)
    n = getattr(obj, "parallel_sample_num", 1)
    return answers if n == 1 else _answers_of(answers, Batch(sends=n + 1))


async def _answers_of(answers: AsyncIterator, batch: Batch) -> AsyncIterator:
    try:
        async with contextlib.aclosing(made_with(current, batch, answers)) as made:
            async for answer in made:
                yield answer
    finally:
        batch.close()


async def made_with(variable: ContextVar, value: Any, answers: AsyncIterator) -> AsyncIterator:
    """Yield each of `answers`. The variable is `value` while an answer is made, and None in between, because then the
    caller's code runs in the same task."""
    async with contextlib.aclosing(answers):
        while True:
            variable.set(value)
            try:
                answer = await anext(answers)
            except StopAsyncIteration:
                return
            finally:
                variable.set(None)
            yield answer


def send_one_request(original: Callable, *arguments: Any, **named: Any) -> Any:
    """Hook around `TokenizerManager._send_one_request` (tokenizer_manager.py), a coroutine from 0.5.20 on. Returns what
    the original function returns. If that raises, no name of this send is left."""
    if inspect.iscoroutinefunction(original):
        return _send_one_request(original, *arguments, **named)
    with _all_or_no_names():
        return original(*arguments, **named)


async def _send_one_request(original: Callable, *arguments: Any, **named: Any) -> Any:
    with _all_or_no_names():
        return await original(*arguments, **named)


@contextlib.contextmanager
def _all_or_no_names() -> Iterator[None]:
    names: list[str] = []
    taken.set(names)
    try:
        yield
    except BaseException:
        remove(names)
        raise
    finally:
        taken.set(None)


def wrap_shm_features(original: Callable[[Any], Any], request: Any) -> Any:
    """Hook around `wrap_shm_features` (mm_utils.py). Returns a wrapped copy of `request`. If there is no room or no
    file descriptor for all of its features, returns `request` itself, and its features are sent inline."""
    try:
        return pure_wrap(original, request)
    except OSError as error:
        remove(taken.get() or [])
        say_once("features are sent inline while there is no shared memory", error)
        return request


def name_instead_of_segment(init: Callable[..., None], self: Any, tensor: Any, *arguments: Any, **named: Any) -> None:
    """Hook around `ShmPointerMMData.__init__` (mm_utils.py). Makes `self` a pointer to `tensor` under a name of its
    own. Outside a send, and where there is no /dev/shm, the original function makes a segment. Raises OSError."""
    names = taken.get()
    self._shm_handle = None  # first: `__del__` reads it, even if this call raises
    if names is None or not NAMES_ARE_FILES:
        init(self, tensor, *arguments, **named)
    else:
        batch = current.get()
        name = batch.name_for(tensor) if batch else first_name(tensor)
        vars(self).update(shm_name=name, shape=tensor.shape, dtype=tensor.dtype, tensor=None, **named)
    if names is not None:
        names.append(self.shm_name)


def first_name(tensor: Any) -> str:
    """Return a name of a segment that holds the bytes of `tensor`: a new segment, or one that another design provides
    (`source`). Raises OSError."""
    return (source.get() or new_segment)(tensor)


def new_segment(tensor: Any) -> str:
    """Make a segment, mode 0600, that holds the bytes of `tensor`, and return its name. Raises OSError, and then leaves
    no segment."""
    content = memoryview(bytes_of(tensor).numpy())
    if not content:
        raise OSError(errno.EINVAL, "a segment cannot be empty")
    segment = created(new_name(), len(content))
    try:
        while content:
            content = content[os.write(segment._fd, content) :]
    except BaseException:
        segment.unlink()
        raise
    finally:
        segment.close()
    return segment.name


def bytes_of(tensor: Any) -> Any:
    """Return the bytes of `tensor`, as a one-dimensional tensor of uint8 on the CPU."""
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def add_names(names: list[str], count: int) -> None:
    """Link up to `count` further names to the segment of `names[0]`, and append them to `names`. There are fewer if
    there is no room for all, and none where links cannot be made. If a link fails for any other reason, removes all
    names of the list, the first included, and raises OSError."""
    try:
        while Links.work and count > 0:
            names.append(linked_to(names[0]))
            count -= 1
    except OSError as error:
        if error.errno in CANNOT_LINK:
            Links.work = False
            say_once(f"every send gets a segment of its own, for there are no links in {SHM}", error)
        elif error.errno in NO_MORE_LINKS:  # the names that were made before are good
            say_once("some sends get a segment of their own, for there is no room for all names", error)
        else:
            remove(names)
            raise


def kill_process_tree(original: Callable, *arguments: Any, **named: Any) -> None:
    """Hook around `kill_process_tree` (utils/common.py). If sglang is about to kill this process and its tree, and the
    resource tracker with it, removes this process's names first: they were sent and never opened."""
    pid = arguments[0] if arguments else named.get("parent_pid")
    if pid in (None, os.getpid()) and NAMES_ARE_FILES:
        remove(of_this_process())
    original(*arguments, **named)


def say_once(consequence: str, error: OSError) -> None:
    """Log `consequence` as a warning, once in this process for each consequence and errno. (The error's text is not
    compared, because it contains a random name.)"""
    if (consequence, error.errno) not in said:
        said.add((consequence, error.errno))
        logger.warning("one_segment_many_names: %s (%s)", consequence, error)


said: set[tuple[str, int | None]] = set()  # each consequence and errno that was logged: only a few
HOOKS = {
    "sglang.srt.managers.tokenizer_manager.TokenizerManager._handle_batch_request": handle_batch_request,
    "sglang.srt.managers.tokenizer_manager.TokenizerManager._send_one_request": send_one_request,
    "sglang.srt.managers.mm_utils.wrap_shm_features": wrap_shm_features,
    "sglang.srt.managers.mm_utils.ShmPointerMMData.__init__": name_instead_of_segment,
    "sglang.srt.utils.common.kill_process_tree": kill_process_tree,
}

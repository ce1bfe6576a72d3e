"""One segment for all sends of a feature, and a name of its own for each send: hard links.

`/dev/shm` is a tmpfs: a name there is a directory entry, the memory is the inode, and the inode's link count is a
count of references that the kernel keeps. The feature is written once, when it is first sent, and gets as many names
as there will be sends. The scheduler opens and unlinks the name that it was sent, as it always did, and frees nothing
that another send needs. The last send takes the last name; after it, none is left that is not a consumer's.

Stands around four functions of sglang, in the tokenizer's process only; the scheduler runs as released:

* `TokenizerManager._handle_batch_request`: knows how many sends there will be, and removes the names that none has
  taken when the batch is over, be it by success, an exception, or a client that went away;
* `TokenizerManager._send_one_request`: removes the names of a send that failed. No consumer will;
* `wrap_shm_features`: mutates nothing (`pure_wrap`); where shared memory cannot be had (ENOSPC, EMFILE, ...), the
  features go inline, in the message;
* `ShmPointerMMData.__init__`: takes a name instead of a segment.

A fifth, `kill_process_tree`, is for the day on which the scheduler dies all the same. sglang then kills its own tree
with SIGKILL, the resource tracker included; the hook first removes the names that were sent and never opened. If the
tokenizer alone is killed, the tracker removes them. The tracker can do that at every moment, for each name is
registered with it *before* the name is made.

**What is left all the same.** Names stay if the tokenizer and its tracker are killed at the same instant: a SIGKILL of
the process group, or the kernel's out-of-memory killer on a whole container. No code of the group runs then.
`shm_names.sweep_the_dead` removes such names later; the hotfix calls it when a server starts. It removes a name only if
this design made it, in this pid namespace, and if its process is dead. So a name of another container stays, if the
containers share a /dev/shm, because its process may be alive there; and a name stays while another process has the
number of the dead one.

**What it relies on.** Linux with a tmpfs in /dev/shm that tokenizer and scheduler both see. Consumers that unlink the
name they were sent, once, after all of them have opened it (sglang's barrier sees to that), and do not write through
their mapping. Features that do not change between the first send and the last. One thread that sends: asyncio's.

**Where it would not hold.** A consumer that writes to the segment in place would be seen by all. One that unlinks by
inode, or counts on a segment of its own in `df`, would be surprised. Across containers that do not share /dev/shm no
name works, linked or not. Where links cannot be made (another filesystem, a security module), it says so once and
every send gets a segment of its own; without a /dev/shm (macOS) sglang's own code makes it: `pure_wrap` either way.
0.5.9, whose pointers keep the segment open, is not supported.

The segment is filled with `write(2)`, which is faster than a first write through a mapping (no page faults, no zeroing)
and says ENOSPC where the mapping would be a SIGBUS.
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
    """A feature's segment: the names that no send has taken yet, and how many sends are still to come. The tensor is
    kept so that no other can have its id meanwhile."""

    tensor: Any
    sends: int
    names: list[str] = field(default_factory=list)


@dataclass
class Batch:
    """One call of `_handle_batch_request`, in which every feature is sent `sends` times."""

    sends: int
    segments: dict[int, Segment] = field(default_factory=dict)

    def name_for(self, tensor: Any) -> str:
        """A name for the next send of `tensor`. The first one writes the segment and makes names for all, while no
        consumer is in the way: in one directory, the kernel lets only one process at a time link or unlink. Where there
        is no room for all names, the sends that come when they are used up write another segment. Raises OSError, and
        then leaves none of them."""
        segment = self.segments.get(id(tensor))
        if segment is None or segment.sends == 0:  # the same tensor may be in several items
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
    """Whether this machine makes them: believed until one fails for a reason that will not go away."""

    work = True


current: ContextVar[Batch | None] = ContextVar("batch", default=None)  # the one that this task is sending
taken: ContextVar[list[str] | None] = ContextVar("taken", default=None)  # names of the send at hand
source: ContextVar[Callable[[Any], str] | None] = ContextVar("source", default=None)  # instead of `new_segment`


def handle_batch_request(original: Callable, manager: Any, obj: Any, *arguments: Any, **named: Any) -> AsyncIterator:
    """Answers, as from `TokenizerManager._handle_batch_request` (tokenizer_manager.py). Of its n + 1 sends a prompt,
    all name one segment a feature. With n = 1 nothing is changed."""
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
    """`answers`, with the variable set to `value` while they are made, and not in between: the task is the caller's."""
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
    """What `TokenizerManager._send_one_request` returns. If it raises, no name of this send is left."""
    if inspect.iscoroutinefunction(original):  # from 0.5.20 on
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
    """A wrapped copy of `request`; or, if there is no room or no descriptor for all of its features, `request`, to be
    sent inline. Stands around `wrap_shm_features` (mm_utils.py)."""
    try:
        return pure_wrap(original, request)
    except OSError as error:
        remove(taken.get() or [])
        say_once("features are sent inline while there is no shared memory", error)
        return request


def name_instead_of_segment(init: Callable[..., None], self: Any, tensor: Any, *arguments: Any, **named: Any) -> None:
    """Make `self` a pointer to `tensor` under a name of its own. Stands around `ShmPointerMMData.__init__`
    (mm_utils.py), which is left to make a segment where there is no /dev/shm, and outside a send. Raises OSError."""
    names = taken.get()
    self._shm_handle = None  # first: its __del__ looks for it, even if there is no room now
    if names is None or not NAMES_ARE_FILES:
        init(self, tensor, *arguments, **named)
    else:
        batch = current.get()
        name = batch.name_for(tensor) if batch else first_name(tensor)
        vars(self).update(shm_name=name, shape=tensor.shape, dtype=tensor.dtype, tensor=None, **named)
    if names is not None:
        names.append(self.shm_name)


def first_name(tensor: Any) -> str:
    """A name of a segment that holds the bytes of `tensor`: of a new one, or of what another design has ready. Raises
    OSError."""
    return (source.get() or new_segment)(tensor)


def new_segment(tensor: Any) -> str:
    """The name of a new segment, mode 0600, that holds the bytes of `tensor`. Raises OSError, and leaves nothing
    then."""
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
    """The bytes of `tensor` on the CPU, as a one-dimensional tensor of uint8."""
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def add_names(names: list[str], count: int) -> None:
    """Add up to so many names for the segment that `names[0]` names: as many as there is room for, and none where links
    cannot be made. Raises OSError for any other reason, and then removes all of them, the first included."""
    try:
        while Links.work and count > 0:
            names.append(linked_to(names[0]))
            count -= 1
    except OSError as error:
        if error.errno in CANNOT_LINK:
            Links.work = False
            say_once(f"every send gets a segment of its own, for there are no links in {SHM}", error)
        elif error.errno in NO_MORE_LINKS:  # those that were made are good
            say_once("some sends get a segment of their own, for there is no room for all names", error)
        else:
            remove(names)
            raise


def kill_process_tree(original: Callable, *arguments: Any, **named: Any) -> None:
    """Remove what was sent and never opened, before sglang kills this process and its tree, the tracker included.
    Stands around `kill_process_tree` (utils/common.py)."""
    pid = arguments[0] if arguments else named.get("parent_pid")
    if pid in (None, os.getpid()) and NAMES_ARE_FILES:
        remove(of_this_process())
    original(*arguments, **named)


def say_once(consequence: str, error: OSError) -> None:
    """Log a warning, the first time that this process comes to this consequence for this reason. (The error's text does
    not count: it holds the random name.)"""
    if (consequence, error.errno) not in said:
        said.add((consequence, error.errno))
        logger.warning("one_segment_many_names: %s (%s)", consequence, error)


said: set[tuple[str, int | None]] = set()  # at most a few: consequences times errors
HOOKS = {
    "sglang.srt.managers.tokenizer_manager.TokenizerManager._handle_batch_request": handle_batch_request,
    "sglang.srt.managers.tokenizer_manager.TokenizerManager._send_one_request": send_one_request,
    "sglang.srt.managers.mm_utils.wrap_shm_features": wrap_shm_features,
    "sglang.srt.managers.mm_utils.ShmPointerMMData.__init__": name_instead_of_segment,
    "sglang.srt.utils.common.kill_process_tree": kill_process_tree,
}

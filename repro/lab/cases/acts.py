"""What happens in each case. An act makes one experiment on a stage, and returns the run. Wherever this is possible, an
act causes the real event, and does not imitate its effect."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from repro.lab.cases.stage import Stage, listed
from repro.lab.lifted import Run, make_request
from repro.lab.lifted.request import shape_of
from repro.lab.places import SHM
from repro.lab.refused import Refused
from repro.lab.releases import LAST, NEWEST
from repro.lab.upstream.plugs import Plug

WRAP = "sglang.srt.managers.mm_utils.wrap_shm_features"
ROOM = 7
READER = "import sys; from multiprocessing import shared_memory; shared_memory.SharedMemory(sys.argv[1])"
NEIGHBOUR = SHM / "sem.another_program"  # only in a private /dev/shm
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x00020000, 0x4000, 1 << 18  # of <sched.h> and <sys/mount.h>


def crash(stage: Stage) -> Run:
    """#24231 as it is: one image, n = 2."""
    return stage.run(n=2, release=LAST)


def bootstrap_room(stage: Stage) -> Run:
    """A request without an image. It has a bootstrap room, as if a router of prefill/decode disaggregation had sent
    it."""
    request = make_request("text")
    request.bootstrap_room = ROOM
    return stage.run(request, n=2, release=NEWEST)


def missing_barrier(stage: Stage) -> Run:
    """Rank 0 does not wait for rank 1, which is late by one second."""
    return stage.run(n=1, ranks=2, barrier=False, late=1.0, release=LAST)


def full(stage: Stage) -> Run:
    """Three images of 1120 x 1120 pixels: 30 MB each."""
    return stage.run(make_request(items=3, shape=shape_of(1120)), n=1, release=LAST)


def failed_send(stage: Stage) -> Run:
    """The request is wrapped, and then something in it cannot be pickled: a lock."""
    request = make_request()
    request.mm_inputs.mm_items[0].model_specific_data["lock"] = threading.Lock()
    return stage.run(request, n=1, release=LAST)


def tracker(stage: Stage) -> Run:
    """A program that is not a child of the server opens the segment and ends. This program has a resource tracker of
    its own."""
    return stage.run(
        n=1, release=LAST, fix=_after_the_wrap(lambda name: stage.beside(sys.executable, "-c", READER, name))
    )


def remove_ipc(stage: Stage) -> Run:
    """All files of this user in /dev/shm are removed, as systemd-logind does at the user's last logout. Raises Refused
    unless the /dev/shm is the case's own."""
    if not stage.private:
        raise Refused("this case removes all names of a user", "it is made in a /dev/shm of its own only")
    NEIGHBOUR.touch()
    sweep = ("find", str(SHM), "-type", "f", "-user", str(os.getuid()), "-delete")
    return stage.run(n=1, release=LAST, fix=_after_the_wrap(lambda name: stage.beside(*sweep)))


def unshared(stage: Stage) -> Run:
    """Just before the request is wrapped, the tokenizer's thread gets a /dev/shm of its own. The scheduler keeps the
    other /dev/shm. `ls` shows the tokenizer's."""

    def wrap(original: Callable[..., Any], request: Any) -> Any:
        _own_shm()
        wrapped = original(request)
        stage.listing = listed()
        return wrapped

    return stage.run(n=1, release=LAST, fix=Plug(hooks={WRAP: wrap}))


def contained(stage: Stage) -> Run:
    """The newest release, with the fix of #24231 taken away again at both expansion points."""
    return stage.run(n=2, release=NEWEST, undone=(1, 2))


def descriptors(stage: Stage) -> Run:
    """A thousand small tensors become a thousand segments. Each segment takes two file descriptors when it is
    opened."""
    return stage.run(make_request(items=1000, shape=(4, 8)), n=1, release=LAST)


def _own_shm() -> None:
    """Give this thread alone a new mount namespace, with a fresh tmpfs at /dev/shm. Raises Refused if this is not
    allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if (
        libc.unshare(CLONE_NEWNS)
        or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        or libc.mount(b"tmpfs", os.fsencode(SHM), b"tmpfs", 0, b"mode=1777")
    ):
        raise Refused(f"no second /dev/shm is possible here ({os.strerror(ctypes.get_errno())})", "run this as root")


def _after_the_wrap(act: Callable[[str], None]) -> Plug:
    """A plug that calls `act` with the request's first name, after the request is wrapped and before it is sent."""

    def wrap(original: Callable[..., Any], request: Any) -> Any:
        wrapped = original(request)
        act(request.mm_inputs.mm_items[0].feature.shm_name)
        return wrapped

    return Plug(hooks={WRAP: wrap})

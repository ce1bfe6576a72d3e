"""The cases: the crash itself, and nine relatives. The order is the order in which notebook 09 meets them."""

from __future__ import annotations

from repro.lab.cases import acts
from repro.lab.cases.case import Case

DOCKERS = 64  # MiB: the size of /dev/shm in a container, if nobody says otherwise
USUAL = 1024  # open files: the soft limit of most systems

_ALL = (
    Case(
        "crash",
        "one image and n = 2: the second send carries a name that is unlinked",
        acts.crash,
        "crashed",
        "Several sends share one item. The name of the first send is unlinked, and then sent again (#24231).",
        "Refuse n > 1 with an image at the gateway. Then upgrade to 0.5.13 or later.",
        "one name is created once, opened, unlinked, and then opened again for another send",
    ),
    Case(
        "bootstrap-room",
        "no image and n = 2: every send carries the same room",
        acts.bootstrap_room,
        "survived",
        "The bootstrap room is copied at the two expansion points: n + 1 sends carry one room.",
        "Send n requests with n = 1 to servers with prefill/decode disaggregation, each with a room of its own.",
        "no name is made, and every send carries the same room",
    ),
    Case(
        "missing-barrier",
        "two ranks and n = 1: rank 0 unlinks the name before rank 1 opens it",
        acts.missing_barrier,
        "crashed",
        "Rank 0 unlinks the name before another rank has opened it: no barrier makes rank 0 wait (#21655, #29543).",
        "Run one rank. Then upgrade to a release that has the barrier for this kind of parallelism.",
        "there is one send; one rank unlinks the name, and then another rank fails to open it",
    ),
    Case(
        "small-shm",
        "three images and 64 MB: a write finds no room in /dev/shm",
        acts.full,
        "crashed",
        "/dev/shm is full. The kernel has no page for a write, and ends the tokenizer by SIGBUS.",
        "Give /dev/shm more room (`--shm-size`), or send fewer images at a time.",
        "SIGBUS and no traceback; names are created, and nobody opens them",
        mebibytes=DOCKERS,
    ),
    Case(
        "failed-send",
        "a request that cannot be pickled: its name stays",
        acts.failed_send,
        "refused",
        "The request was wrapped, and then it could not be sent. Nobody will ever unlink its name.",
        "Mend that one request, and remove the name that stays (`make doctor` lists it). The server lives.",
        "a name is created and never opened; it is still in /dev/shm",
    ),
    Case(
        "tracker",
        "a program beside the server looks at the name: its resource tracker removes the name",
        acts.tracker,
        "crashed",
        "Another program has opened the name. At that program's end, its resource tracker removes the name.",
        "Keep that program away from the server's names, or let it open them without a tracker.",
        "somebody else unlinks the name, and a resource tracker speaks of leaked shared memory",
    ),
    Case(
        "remove-ipc",
        "all names of a user are removed, as at a logout",
        acts.remove_ipc,
        "crashed",
        "Somebody has removed all that this user had in /dev/shm, as systemd's RemoveIPC does at a logout.",
        "Run the server as a system user, or set `RemoveIPC=no`.",
        "somebody else unlinks the name, and also names of other programs, in the same moment",
        mebibytes=DOCKERS,
    ),
    Case(
        "unshared",
        "tokenizer and scheduler each have a /dev/shm of their own",
        acts.unshared,
        "crashed",
        "The tokenizer and the scheduler do not see the same /dev/shm.",
        "Give both containers one /dev/shm, or let features go inline.",
        "the open fails, nobody has unlinked the name, and the name is there",
        mebibytes=DOCKERS,
    ),
    Case(
        "contained",
        "the crash in the newest release, with its fix taken away: the request fails, and the server lives",
        acts.contained,
        "refused",
        "Several sends share one item again. From 0.5.19 on, the server contains the failure: error 500.",
        "Let the server run. Find the patch or the plugin that has taken the fix away.",
        "one name is sent more than once; the scheduler says that it failed to materialize, and goes on",
    ),
    Case(
        "descriptors",
        "a thousand small tensors and 1,024 open files",
        acts.descriptors,
        "crashed",
        "The scheduler has no file descriptor left: each tensor is a segment, and all are opened at once.",
        "Raise the limit of open files (`ulimit -n`), or send fewer tensors in a request.",
        "errno 24 and not 2, and the name is still there",
        descriptors=USUAL,
    ),
)
CASES: dict[str, Case] = {case.name: case for case in _ALL}

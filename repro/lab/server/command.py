"""The command line that `repro/server.py` and `fixed/server.py` share: that of `crash.py`, with clients."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from typing import Any

from repro.lab.engine import command
from repro.lab.evidence.verdict import Outcome, Verdict
from repro.lab.refused import Refused
from repro.lab.server import account, boot, report
from repro.lab.server.plan import MOST, REPLICAS
from repro.lab.terminal import count

SAYS = {
    "model": "looking for the model",
    "import": "importing sglang",
    "boot": "booting sglang's server on 127.0.0.1",
    "generate": "clients stream, and one sends an image and asks for n samples",
}


def main(scene: Callable[[Namespace], Any], promise: Outcome, fixes: Sequence[str] = ()) -> int:
    """Run `scene` as the command line says and print its verdict and what the clients saw. `fixes` are the names that
    `--with` takes, the default first.

    Returns 0 if the promised thing happened, 1 if something else did, 2 for bad usage or a missing part.
    """

    def adds(parser: ArgumentParser) -> None:
        parser.add_argument("--clients", type=count, default=8, help="how many others stream (default: %(default)s)")
        parser.add_argument(
            "--replicas", type=count, default=1, help="servers behind a balancer (default: %(default)s)"
        )
        if fixes:
            parser.add_argument(
                "--with", dest="fix", choices=fixes, default=fixes[0], help="which fix (default: %(default)s)"
            )

    return command.main(scene, promise, command.Manner(adds, checks, SAYS, report.text, data, account.keeps))


def checks(arguments: Namespace) -> None:
    """Raise Refused for too many clients or replicas, and if no server can listen on 127.0.0.1."""
    if arguments.clients > MOST:
        raise Refused(f"--clients {arguments.clients}: there is room for {MOST} streams", f"give {MOST} or fewer")
    if arguments.replicas > REPLICAS:
        raise Refused(f"--replicas {arguments.replicas}: there is memory for {REPLICAS}", f"give {REPLICAS} or fewer")
    boot.held_port().close()


def data(verdict: Verdict) -> dict[str, Any]:
    """The verdict and the clients' account as plain data."""
    return {**verdict.as_dict(), "clients": account.read(verdict.events).as_dict()}

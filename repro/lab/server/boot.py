"""sglang's own HTTP server, started as `python -m sglang.launch_server` starts it, and the clients beside it.

The clients are a process that is not below the server's process. So they live on when sglang kills its own process
tree.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.lab import engine
from repro.lab.evidence.recorder import note
from repro.lab.machine.device import DEVICES
from repro.lab.refused import Refused
from repro.lab.server.plan import LOOPBACK, Body, Plan

MODULE = "sglang.launch_server"


def serve(
    model: str, device: str, *, others: int, culprit: Body, before: Sequence[Body] = (), replicas: int = 1
) -> list[str]:
    """Serve until all clients have gone, and return the texts of the culprit's answer.

    The clients first send each body of `before`. Then `others` clients stream. When each of them has its first token,
    the culprit's body is sent. At last, one more client asks. Call this in a child only: if the scheduler dies, sglang
    kills the calling process. The run's record holds what the clients saw (`account.read`). With several `replicas`,
    each server is a child of the calling process. If a replica ends badly, the calling process ends in the same way.
    """
    with contextlib.ExitStack() as held:
        ports = [held.enter_context(held_port()).getsockname()[1] for _ in range(replicas)]
        pids = [_fork_server(model, device, port) for port in ports] if replicas > 1 else [os.getpid()]
        plan = Plan(list(zip(ports, pids, strict=True)), others, culprit, list(before))
        answers = start_clients(plan)
        if replicas > 1:
            wait_for(pids)
        else:
            boot(model, device, ports[0])
    return json.loads(answers.read_text(encoding="utf-8")) if answers.exists() else []


def _fork_server(model: str, device: str, port: int) -> int:
    """Start a server in a child of this process. Returns the child's pid."""
    pid = os.fork()
    if not pid:
        os.setpgid(0, 0)  # a replica is a server of its own: a signal to its group does not reach the other replicas
        try:
            boot(model, device, port)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def wait_for(pids: Sequence[int]) -> None:
    """Wait until these children have ended. If one of them ended badly, end this process in the same way."""
    bad = [status for status in (os.waitpid(pid, 0)[1] for pid in pids) if status]
    if bad and os.WIFSIGNALED(bad[0]):
        os.kill(os.getpid(), os.WTERMSIG(bad[0]))
    if bad:
        os._exit(1)


def boot(model: str, device: str, port: int) -> None:
    """Import sglang, then serve at this port of 127.0.0.1. Returns after the server was asked to stop."""
    engine.prepare(model)
    import sglang.srt.entrypoints.http_server  # noqa: F401  before the fork, so that nothing is imported after it

    note("phase", phase="boot")
    given = engine.arguments(model, DEVICES[device])
    engine.stay_on_loopback(given)
    launch(given, port)


def launch(given: Mapping[str, Any], port: int) -> None:
    """Do in this process what `python -m sglang.launch_server` does. Returns after the server was asked to stop."""
    sys.argv = [MODULE, *command_line(given), "--host", LOOPBACK, "--port", str(port)]
    print("$ python -m", *sys.argv, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        # Its `finally` ends the scheduler and the detokenizer. `alter_sys`: a plugin's hooks must find this `__main__`.
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
    for child in multiprocessing.active_children():
        child.join()


def command_line(given: Mapping[str, Any]) -> list[str]:
    """Keyword arguments of `sglang.Engine` as options of the server."""
    words: list[str] = []
    for name, value in given.items():
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


def held_port() -> socket.socket:
    """A socket that is bound to a free port of 127.0.0.1 and does not listen. While the socket is open, the system
    gives this port to no other program. Only a server that asks for this port with SO_REUSEADDR can listen there, and
    sglang's server does this.

    Raises Refused if this address cannot be used (on a machine whose loopback has only IPv6, or is down).
    """
    try:
        with socket.create_server((LOOPBACK, 0)) as server, socket.create_connection(server.getsockname(), timeout=5):
            pass
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((LOOPBACK, 0))
    except OSError as error:
        raise Refused(f"no connection to {LOOPBACK} ({error.strerror or error})", "run `ip link set lo up`") from None
    return held


def start_clients(plan: Plan) -> Path:
    """Start the clients. Returns the file that will hold the texts of the culprit's answer, if the culprit gets one."""
    folder = Path(tempfile.gettempdir())
    file = folder / "plan.json"
    file.write_text(plan.as_json(), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "repro.lab.server.clients", str(file)], check=True)  # it detaches itself
    return plan.answers(file)

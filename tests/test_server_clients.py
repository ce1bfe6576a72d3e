"""The clients and their port, without sglang: another program takes the port, the server never starts, a library
retries."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from repro.lab.evidence import recorder
from repro.lab.server import boot, clients
from repro.lab.server.plan import LOOPBACK, Plan, question
from tests import machine

FOREIGN = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
LIMIT = 20.0  # seconds for clients to end


@contextmanager
def listener(answer: bytes = b"") -> Iterator[tuple[int, list[bytes]]]:
    """A program at a free port of loopback that gives each request this answer and hangs up: the port, and the first
    line of each request that came."""
    came: list[bytes] = []

    def serve(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:  # closed
                return
            with connection:
                came.append(connection.recv(1 << 16).partition(b"\r\n")[0])
                connection.sendall(answer)

    with socket.create_server((LOOPBACK, 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        yield server.getsockname()[1], came
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_port_that_is_held_goes_to_nobody_but_the_server():
    with boot.held_port() as held:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(held.getsockname())
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(held.getsockname())
        with socket.create_server(held.getsockname()) as server:  # with SO_REUSEADDR, as sglang's own
            socket.create_connection(server.getsockname()).close()


def test_the_port_of_another_program_is_not_taken_for_the_servers(tmp_path):
    """The other program says 200 to `/health`. No client sends it anything else, and the clients end when the server is
    gone."""
    with listener(FOREIGN) as (port, came):
        seen = clients_of_a_server_that_dies(port, tmp_path, when=lambda: len(came) > 2)
    assert set(came) == {b"GET /health HTTP/1.1"}
    assert seen == [("before", "the server is gone")]


def test_the_clients_of_a_server_that_dies_in_its_boot_end(tmp_path):
    with boot.held_port() as held:
        seen = clients_of_a_server_that_dies(held.getsockname()[1], tmp_path, when=lambda: True)
    assert seen == [("before", "the server is gone")]


def clients_of_a_server_that_dies(port: int, folder: Path, when) -> list[tuple[str, str]]:
    """What the clients noted of `/health`: their server is a process that does nothing, and is killed `when` it is
    time. They have ended."""
    events, file = folder / "events.jsonl", folder / "plan.json"
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as server:
        try:
            file.write_text(Plan([(port, server.pid)], 1, question("?")).as_json(), encoding="utf-8")
            environment = {**os.environ, recorder.EVENTS_FILE: str(events), "TMPDIR": str(folder)}
            words = [sys.executable, "-m", "repro.lab.server.clients", str(file)]
            subprocess.run(words, cwd=machine.ROOT, env=environment, check=True)
            until(when)
        finally:
            server.kill()
    try:
        until(lambda: not machine.processes_of(folder))
    finally:
        for pid in machine.processes_of(folder):
            psutil.Process(pid).kill()
    notes = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    return [(note["when"], note["says"]) for note in notes if note["what"] == "health"]


def until(happened) -> None:
    end = time.monotonic() + LIMIT
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_a_library_that_tries_again_sends_the_killer_again_and_the_kits_does_not(monkeypatch):
    """With retries, which are on by default, the `openai` package sends the same body once more. The kit's clients do
    not."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")

    async def ask(port: int, **more: int) -> str:
        plain, library = clients.connected([port])
        async with plain, library.with_options(**more) as client:
            try:
                await client.chat.completions.create(**question("?", n=2))
            except Exception as error:
                return clients.name_of(error)

    sent = {}
    for retries, more in (("off", {}), ("on", {"max_retries": 1})):
        with listener() as (port, came):
            assert asyncio.run(ask(port, **more)) == "openai.APIConnectionError"
        sent[retries] = came
    killer = b"POST /v1/chat/completions HTTP/1.1"
    assert sent == {"off": [killer], "on": [killer, killer]}


def test_a_balancer_gives_requests_in_turn_and_passes_over_a_replica_that_refuses():
    async def ask(*ports: int) -> list[str]:
        plain, library = clients.connected(ports)
        async with plain, library.with_options(max_retries=1) as client:
            try:
                await client.chat.completions.create(**question("?"))
            except Exception as error:
                return [clients.name_of(error), clients.name_of(error.__cause__)]

    with boot.held_port() as held, listener() as (first, came_first), listener() as (second, came_second):
        refuses = held.getsockname()[1]
        assert asyncio.run(ask(first, refuses, second))[0] == "openai.APIConnectionError"
        assert len(came_first) == len(came_second) == 1
        assert asyncio.run(ask(refuses)) == ["openai.APIConnectionError", "httpx.ConnectError"]


def test_a_replica_that_ends_badly_ends_the_run_in_the_same_way(short_path):
    """Of two replicas, one ends well, and one is killed."""
    code = (
        "import os, signal; from repro.lab.server import boot; pids = []\n"
        "for ends in (lambda: os._exit(0), lambda: os.kill(os.getpid(), signal.SIGKILL)):\n"
        "    pids.append(os.fork())\n"
        "    if not pids[-1]: ends()\n"
        "boot.wait_for(pids)"
    )
    with machine.start(code, short_path) as process:
        assert process.wait(LIMIT) == -9

"""The clients: a process of its own, with the `openai` package as people use it, on loopback.

`python -m repro.lab.server.clients PLAN` detaches itself from the server's process and waits until the server is
healthy. Then it does what the plan says, notes in the run's record what each client saw, and asks the server to stop.
The library's own retries are off, because a retry hides the first failure. No proxy of the environment is used for
loopback. If the server has several replicas, a balancer stands in front of them, and the culprit's library tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from repro.lab.evidence import recorder
from repro.lab.evidence.recorder import note
from repro.lab.server.plan import LOOPBACK, Body, Plan, question

if TYPE_CHECKING:
    import httpx
    from openai import AsyncOpenAI

LIMIT = 110.0  # seconds for one request; less than a warden's limit for all requests
HEALTH = 30.0  # seconds for an answer of /health, which can take up to 20
POLL = 0.05  # seconds between two looks at a server that boots
REFUSED_WITHIN = 2.0  # seconds for which a dead server's port is watched, for each replica
STORY = "Tell a long story."


def main(file: Path) -> None:
    """Do what the plan in `file` says. The caller's process returns at once; its child, an orphan, does the work."""
    plan = Plan(**json.loads(file.read_text(encoding="utf-8")))
    with beside(pid for _, pid in plan.replicas) as servers:
        texts = asyncio.run(Clients(plan, servers).run())
        if texts is not None:
            plan.answers(file).write_text(json.dumps(texts), encoding="utf-8")


@contextlib.contextmanager
def beside(pids: Iterable[int]) -> Iterator[list[psutil.Process]]:
    """A context in a recorded child, which becomes an orphan. It gives the servers' processes, and asks the servers to
    stop at the end. The process that calls this exits at once."""
    servers = [psutil.Process(pid) for pid in pids]
    if os.fork():
        os._exit(0)
    recorder.install()
    try:
        yield servers
    finally:
        for server in servers:
            with contextlib.suppress(psutil.NoSuchProcess):
                server.send_signal(signal.SIGINT)  # as an operator's Ctrl-C


def connected(ports: Sequence[int]) -> tuple[httpx.AsyncClient, AsyncOpenAI]:
    """A plain client for any port of loopback, and a client of the `openai` package for the replicas at these ports,
    which get the requests in turn. Neither client uses a proxy of the environment, and neither client retries."""
    import httpx
    from openai import AsyncOpenAI

    from repro.lab.server.balancer import InTurn

    plain = httpx.AsyncClient(trust_env=False, timeout=HEALTH)
    balanced = httpx.AsyncClient(trust_env=False, transport=InTurn(ports))
    ours = {"api_key": "none", "max_retries": 0, "timeout": LIMIT, "http_client": balanced}
    return plain, AsyncOpenAI(base_url=f"http://{LOOPBACK}/v1", **ours)


async def health(plain: httpx.AsyncClient, port: int) -> str:
    """The status of `/health` at this port, or what the client's library raises."""
    try:
        return str((await plain.get(f"http://{LOOPBACK}:{port}/health")).status_code)
    except Exception as error:
        return name_of(error)


async def healthy(port: int, server: psutil.Process, plain: httpx.AsyncClient) -> str:
    """Wait until `/health` says `200` and the server itself listens at this port, or until the server is gone. Returns
    what `/health` said last. (Another program that has taken the port may say `200`, too.)"""
    while _lives(server):
        if (says := await health(plain, port)) == "200" and any(at == port for _, at, _ in listening(server)):
            return says
        await asyncio.sleep(POLL)
    return "the server is gone"


def _lives(server: psutil.Process) -> bool:
    try:
        return server.is_running() and server.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Clients:
    """All clients of one run."""

    def __init__(self, plan: Plan, servers: Sequence[psutil.Process]) -> None:
        self.plan, self.servers = plan, servers
        self.plain, self.openai = connected(plan.ports)
        self.waiting_for_first_token = plan.others
        self.all_stream = asyncio.Event()
        self.gone: asyncio.Task | None = None

    async def run(self) -> list[str] | None:
        """Do what the plan says. Returns the texts of the culprit's answer, or None if there was no answer."""
        said = [await healthy(*at, self.plain) for at in zip(self.plan.ports, self.servers, strict=True)]
        if any(says != "200" for says in said):  # a server died while it booted
            self._note_health("before", said)
            return None
        note("phase", phase="generate")
        for number, body in enumerate(self.plan.before):
            await self._ask("before", body, number)
        self._note_health("before", said)
        for port, server in zip(self.plan.ports, self.servers, strict=True):
            note("listens", http=port, sockets=listening(server))
        streams = [asyncio.create_task(self._stream(number)) for number in range(self.plan.others)]
        if streams:
            await self.all_stream.wait()
        texts = await self._ask("culprit", self.plan.culprit)
        await asyncio.gather(*streams)
        if self.gone:  # a dying server still accepts connections and cuts them, so the next client waits
            await self.gone
        await self._ask("next", question("And now?"))
        self._note_health("after", [await self._health_at_last(port) for port in self.plan.ports])
        await self.openai.close()
        await self.plain.aclose()
        return texts

    def _note_health(self, when: str, said: Sequence[str]) -> None:
        for port, says in zip(self.plan.ports, said, strict=True):
            note("health", when=when, port=port, says=says)

    async def _health_at_last(self, port: int) -> str:
        """The answer of `/health` at the end. After a 503, the question is asked again: while a batch is ending, the
        scheduler ignores the question, and sglang's own check, `http_server.health_generate`, gets no answer within its
        20 s."""
        said = await health(self.plain, port)
        return await health(self.plain, port) if said == "503" else said

    async def _ask(self, kind: str, body: Body, number: int = 0) -> list[str] | None:
        """Send `body`, and note what the client saw. Returns the texts of the answer, or None if there was no
        answer."""
        seen: dict[str, Any] = {"tokens": 0, "asked": body["n"] * body["max_tokens"]}
        again = len(self.servers) - 1 if kind == "culprit" else 0
        try:
            answer = await self.openai.with_options(max_retries=again).chat.completions.create(**body)
        except Exception as error:
            self._cut(kind, number, error, seen)
            return None
        texts = [choice.message.content for choice in answer.choices]
        whole = len(texts) == body["n"]
        note("client", kind=kind, number=number, whole=whole, texts=texts, **seen)
        return texts

    async def _stream(self, number: int) -> None:
        """Ask for one long answer, read it token by token, and note what the client saw."""
        body = {**question(f"{STORY} ({number})", tokens=self.plan.tokens), "stream": True}
        counted = {"include_usage": True, "continuous_usage_stats": True}
        seen: dict[str, Any] = {"tokens": 0, "asked": self.plan.tokens}
        try:
            chunks = await self.openai.chat.completions.create(
                **body, stream_options=counted, extra_body={"ignore_eos": True}
            )
            async for chunk in chunks:
                if not seen["tokens"] and chunk.usage and chunk.usage.completion_tokens:
                    self._has_first_token()
                seen["tokens"] = max(seen["tokens"], chunk.usage.completion_tokens if chunk.usage else 0)
        except Exception as error:
            self._cut("other", number, error, seen)
        else:
            note("client", kind="other", number=number, whole=seen["tokens"] == seen["asked"], **seen)
        if not seen["tokens"]:
            self._has_first_token()  # this client will never have a first token, so nobody must wait for it

    def _has_first_token(self) -> None:
        self.waiting_for_first_token -= 1
        if not self.waiting_for_first_token:
            self.all_stream.set()

    def _cut(self, kind: str, number: int, error: Exception, seen: dict[str, Any]) -> None:
        """Note an answer that did not come or was cut. After the first such answer, watch until all ports are
        closed."""
        cause = f" < {name_of(error.__cause__)}" if error.__cause__ else ""
        says = " ".join(str(error).split())[:300]
        note("client", kind=kind, number=number, whole=False, error=name_of(error) + cause, says=says, **seen)
        if kind in ("other", "culprit") and self.gone is None:
            self.gone = asyncio.create_task(self._until_refused(time.monotonic()))

    async def _until_refused(self, since: float) -> None:
        open_ports = list(self.plan.ports)
        while time.monotonic() - since < REFUSED_WITHIN * len(self.plan.ports):
            try:
                _, writer = await asyncio.open_connection(LOOPBACK, open_ports[0])
            except OSError:
                open_ports.pop(0)
                if not open_ports:
                    note("refused connection", seconds=time.monotonic() - since)
                    return
            else:
                writer.close()
                await asyncio.sleep(0.001)


def listening(server: psutil.Process) -> list[tuple[str, int, str]]:
    """The places where the server's processes accept connections over the network: address, port, the process's title.
    Processes that are gone have none."""
    sockets = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in (server, *server.children(recursive=True)):
            at = [one.laddr for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
            sockets += [(address.ip, address.port, process.cmdline()[0]) for address in at]
    return sorted(sockets)


def name_of(error: BaseException) -> str:
    """The class of an exception, with its package: `httpx.RemoteProtocolError`."""
    kind = type(error)
    package = kind.__module__.partition(".")[0]
    return kind.__name__ if package == "builtins" else f"{package}.{kind.__name__}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))

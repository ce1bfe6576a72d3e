"""A load balancer in the client: one address to its caller, several replicas of a server behind that address."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import httpx

from repro.lab.evidence.recorder import note

TRIED_BEFORE = "x-stainless-retry-count"  # a header of the `openai` package: how often it has sent the request before


class InTurn(httpx.AsyncBaseTransport):
    """A transport of httpx that gives each request to the next of the replicas at these ports. A replica that refuses
    the connection is passed over. If all of them refuse, the last refusal is raised (httpx.ConnectError).

    If a replica has taken a request and does not answer, the balancer does not send the request again. It raises the
    error, and the caller decides. The balancer does not know that the request has killed the replica.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self.ports = deque(ports)
        self.network = httpx.AsyncHTTPTransport(trust_env=False, limits=httpx.Limits(max_connections=None))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer of the first replica in turn that takes the connection."""
        if int(request.headers.get(TRIED_BEFORE, 0)):
            note("tried again")
        *others, last = self.ports
        self.ports.rotate(-1)  # the next request begins with the next replica
        for port in others:
            try:
                return await self._sent_to(port, request)
            except httpx.ConnectError:
                pass
        return await self._sent_to(last, request)

    async def _sent_to(self, port: int, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(port=port)
        return await self.network.handle_async_request(request)

    async def aclose(self) -> None:
        """Close all connections."""
        await self.network.aclose()

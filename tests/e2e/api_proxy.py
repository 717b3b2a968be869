"""A proxy before a real API server that kills its client, goes away, or lets watches go silent."""

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp
from aiohttp import web

Body = dict[str, Any]
HOP = {
    "host",
    "connection",
    "transfer-encoding",
    "content-length",
    "content-encoding",
    "authorization",
    "accept-encoding",
}
SESSION = web.AppKey("session", aiohttp.ClientSession)
GONE = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}


@dataclass
class Kill:
    """Which write the client does not survive.

    Args:
        number: The how many-th write, from 1.
        side: Before the API server sees it, or after, the answer lost.
        client: Kills the client.
    """

    number: int
    side: Literal["before", "after"]
    client: Callable[[], None]
    happened: bool = False
    over: threading.Event = field(default_factory=threading.Event)
    """Set once the client is gone."""

    def strike(self) -> None:
        """Kill the client."""
        self.happened = True
        self.client()
        self.over.set()

    def ended(self) -> bool:
        """Return whether the client was killed, and is gone."""
        return self.happened and self.over.wait(30)


@dataclass
class ApiProxy:
    """Speaks plain HTTP to the operator and HTTPS, as the administrator, to the API server."""

    server: str
    authority: str
    token: str
    url: str = ""
    kill: Kill | None = None
    away: bool = False
    writes: list[str] = field(default_factory=list)
    watches: int = 0
    _silent: int = 0
    """Watches opened before this many have gone silent."""
    _expired: int = 0

    def silence(self) -> None:
        """Let every watch that is open now go silent, its connection still standing."""
        self._silent = self.watches

    def expire(self) -> None:
        """Have every watch that is open now, silent or not, end with 410 Gone."""
        self._expired = self.watches

    def kubeconfig(self, path: Path) -> Path:
        """Write the kubeconfig of a client that comes through here."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": self.url}}],
            "users": [{"name": "client", "user": {"token": "unused"}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "client"}}],
            "current-context": "proxy",
        }
        path.write_text(json.dumps(config))
        return path

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass on one request, or not."""
        if self.away:
            return self._cut(request)
        kill = self.kill
        struck = False
        if request.method != "GET":
            self.writes.append(f"{request.method} {request.path}")
            struck = kill is not None and not kill.happened and len(self.writes) == kill.number
        if struck and kill is not None and kill.side == "before":
            kill.strike()
            return self._cut(request)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
        headers["Authorization"] = f"Bearer {self.token}"
        async with request.app[SESSION].request(
            request.method, self.server + request.path_qs, data=await request.read() or None, headers=headers
        ) as answer:
            if request.query.get("watch") == "true":
                return await self._watch(request, answer)
            body = await answer.read()
        if struck and kill is not None:
            kill.strike()
            return self._cut(request)
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP}
        return web.Response(status=answer.status, body=body, headers=kept)

    async def _watch(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        self.watches += 1
        number = self.watches
        response = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
        await response.prepare(request)
        # One reading for each line: to cancel it would lose the part of the line that has come.
        reading = asyncio.create_task(answer.content.readline())
        try:
            while True:
                await asyncio.wait([reading], timeout=0.1)
                if self.away:
                    return self._cut(request)
                if number <= self._expired:
                    await response.write(json.dumps(GONE).encode() + b"\n")
                    return response
                if not reading.done():
                    continue
                line = reading.result()
                if not line:
                    return response
                reading = asyncio.create_task(answer.content.readline())
                if number > self._silent:
                    await response.write(line)
        finally:
            reading.cancel()

    @staticmethod
    def _cut(request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)


@contextmanager
def proxy(kubeconfig: Path) -> Iterator[ApiProxy]:
    """Run a proxy before the API server of a kubeconfig, in a thread of its own."""
    config: Body = json.loads(kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    made = ApiProxy(cluster["server"], cluster["certificate-authority"], config["users"][0]["user"]["token"])
    started, ended = threading.Event(), threading.Event()

    async def serve() -> None:
        context = ssl.create_default_context(cafile=made.authority)
        connector = aiohttp.TCPConnector(limit=0, ssl=context)
        timeout = aiohttp.ClientTimeout(total=None)
        # Read buffers large enough for an object in a line.
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=1 << 21) as session:
            application = web.Application(client_max_size=1 << 24)
            application[SESSION] = session
            application.router.add_route("*", "/{tail:.*}", made.handle)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            started.set()
            while not ended.is_set():  # noqa: ASYNC110 - the event is a thread's
                await asyncio.sleep(0.05)
            await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield made
    finally:
        ended.set()
        thread.join(10)

"""Three small pages: /healthz for the liveness probe, /readyz for the readiness probe, /metrics for Prometheus."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from dcp_operator.kube.client import metrics

STUCK_SECONDS: Final = 300.0
"""A reconcile that takes this long hangs, since every request in it has a timeout."""


@dataclass
class Health:
    """What the probes ask about. Each check returns what is wrong, or an empty string."""

    ready: bool = False
    """True for a standby as well: it is ready to take over."""
    checks: list[Callable[[], str]] = field(default_factory=list)

    def problems(self) -> list[str]:
        """Return what makes this process unable to go on by itself."""
        return [problem for check in self.checks if (problem := check())]


@asynccontextmanager
async def serving(health: Health, port: int) -> AsyncIterator[None]:
    """Serve the pages while the context lasts; port 0 serves none."""
    if not port:
        yield
        return

    async def healthz(_: web.Request) -> web.Response:
        problems = health.problems()
        return web.Response(status=503 if problems else 200, text="\n".join(problems or ["ok"]) + "\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(status=200 if health.ready else 503, text="ok\n" if health.ready else "starting\n")

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    application = web.Application()
    application.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", scrape)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield
    finally:
        await runner.cleanup()

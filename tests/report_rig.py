"""An operator of series and Checkpoints over an API server in memory, with a real channel: for reported saves."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from channel_rig import FakeAgent, TokenApi
from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import REPORTED_LABEL
from dcp_operator.kube.channel.callers import Callers
from dcp_operator.kube.channel.certificate import Certificate
from dcp_operator.kube.channel.coverage import Coverage
from dcp_operator.kube.channel.hub import Hub
from dcp_operator.kube.channel.server import Channel
from dcp_operator.kube.client.api import CHECKPOINTS, SERIES
from dcp_operator.kube.loop.checkpoint import CheckpointReconciler
from dcp_operator.kube.loop.series import SeriesReconciler
from fake_api import checkpoints, seen
from series_world import DyingApi

LABELS: Final = {"batch.kubernetes.io/job-name": "train"}
CERTIFICATE: Final = Certificate.make(["127.0.0.1"])
KEY: Final = SERIES.key("team", "nightly")


class Api(TokenApi, DyingApi):
    """An API server that knows tokens, that dates objects, and of which the client's process may end at a request."""

    def _put(self, path: str, kind: str, body: Body) -> Body:
        dated = {"creationTimestamp": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
        return super()._put(path, kind, {**body, "metadata": {**dated, **body["metadata"]}})


@dataclass
class Operator:
    """One process of the operator, and its channel."""

    api: Api
    series: SeriesReconciler
    checkpoints: CheckpointReconciler
    hub: Hub
    port: int

    async def work(self) -> None:
        """Hear of all that there is, and look at everything once."""
        seen(self.api, self.series)
        if self.series.cache.served.body(KEY) is not None:
            await self.series(KEY)
        for name in self.api.names(CHECKPOINTS):
            await self.checkpoints(CHECKPOINTS.key("team", name))

    def agent(self, bearer: str) -> FakeAgent:
        """Return a client of the channel."""
        return FakeAgent(self.port, ssl.create_default_context(cadata=CERTIFICATE.pem), bearer)


@asynccontextmanager
async def operating(api: Api, later: timedelta = timedelta(0)) -> AsyncIterator[Operator]:
    """Run a process of the operator, by a clock that is so much later."""
    api.lives()
    reconciler = checkpoints(api, now=lambda: datetime.now(UTC) + later)
    hub = reconciler.targets.hub
    assert hub is not None
    series = SeriesReconciler(reconciler.context, runs=reconciler.series, hub=hub, coverage=Coverage(api))
    channel = Channel(Callers(api), hub)
    async with channel.serving(CERTIFICATE, 0, "127.0.0.1") as port:
        seen(api, series)
        yield Operator(api, series, reconciler, hub, port)
        hub.close()


def told(api: Api) -> list[Body]:
    """Return the Checkpoints that tell of a save."""
    there = [each for each in api.objects.values() if each["kind"] == CHECKPOINTS.kind]
    return [each for each in there if REPORTED_LABEL in each["metadata"]["labels"]]

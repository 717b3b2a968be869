"""What evictions are answered by, read once for all that are asked about at the same time.

A drain asks about all pods of a node at once, and about each again every five seconds. What is half a second old tells
as much: who is held comes again, and whoever begins a disruption finds the one that has begun meanwhile, by its name.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from dcp_operator.api.checkpoint.target import Target
from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import DISRUPTION_LABEL, SERIES_LABEL
from dcp_operator.api.problems import SpecError
from dcp_operator.api.series.parsing import parse
from dcp_operator.api.series.spec import Series
from dcp_operator.api.site import CLUSTER, Site
from dcp_operator.controllers.disruption.decide import holds
from dcp_operator.controllers.disruption.observed import Disruption, EvictedPod
from dcp_operator.kube.client.api import CHECKPOINTS, SERIES
from dcp_operator.kube.client.ownership import Owner, controlled
from dcp_operator.kube.client.reads import Reads
from dcp_operator.kube.view.by_target import target_of

FRESH_SECONDS: Final = 0.5
_TIMES: Final = 10
"""A read counts for so many times as long as it took, since thousands of series must not keep the process busy: and for
no more than so many times `FRESH_SECONDS`."""
_MOST: Final = 1000
_CACHED: Final = {"resourceVersion": "0"}

FoundT = TypeVar("FoundT")


class _Listed(NamedTuple):
    target: Target
    body: Body


def _listed(body: Body) -> _Listed | None:
    """Return a series that asks that evictions wait; None where it asks for nothing, or has no target."""
    spec = body.get("spec") or {}
    if not spec.get("onDisruption") or body["metadata"].get("deletionTimestamp"):
        return None
    target = target_of(body)
    return _Listed(target, body) if target is not None else None


@dataclass(eq=False)
class _Read:
    task: "asyncio.Task[Any]"
    began: float
    until: float
    """Until when it counts for whoever asks."""


@dataclass
class EvictionReads:
    """Reads series, and their Saves before disruptions.

    Args:
        cluster: Where.
        site: What this operator accepts of a series.
        fresh: For how many seconds a read counts.
    """

    cluster: Reads
    site: Site = CLUSTER
    fresh: float = FRESH_SECONDS
    _reads: "OrderedDict[Hashable, _Read]" = field(default_factory=OrderedDict, init=False)
    _parsed: OrderedDict[tuple[str, str], Series | None] = field(default_factory=OrderedDict, init=False)
    """By uid and version: a series is parsed once for each of its versions."""

    async def series(self, namespace: str, pod: EvictedPod) -> Series | None:
        """Return the series that holds evictions of a pod; of several the first one by its name."""
        for each in await self._shared(namespace, lambda: self._listed(namespace)):
            # To parse one takes some 0.4 ms, and there may be thousands.
            series = self._parse(each.body) if each.target.selects(pod.labels) else None
            if series is not None and holds(series, pod):
                return series
        return None

    async def disruptions(self, series: Series) -> Sequence[Disruption]:
        """Return the Saves of a series before disruptions.

        Whoever may create Checkpoints may make one: it asks for a save, and holds nobody for longer than any other.
        """
        return await self._shared(series.uid, lambda: self._disruptions(series))

    async def begin(self, series: Series, name: str, create: Callable[[], Awaitable[Body]]) -> Body:
        """Return the Save of that name, created once for all that ask at the same time."""
        made = await self._shared((series.uid, name), create)
        self._reads.pop(series.uid, None)
        return made

    async def save(self, series: Series, name: str) -> Disruption:
        """Return a Save that has begun, as it stands."""
        path = ("save", series.uid, name)
        return Disruption.of(await self._shared(path, lambda: self.cluster.get(CHECKPOINTS, series.namespace, name)))

    async def _shared(self, what: Hashable, read: Callable[[], Awaitable[FoundT]]) -> FoundT:
        """Return what is read, or what was read not long ago. Who waits no longer leaves the others their read."""
        known, now = self._reads.get(what), asyncio.get_running_loop().time()
        if known is None or now >= known.until:
            known = _Read(asyncio.ensure_future(read()), now, now + self.fresh)
            known.task.add_done_callback(partial(self._done, what, known))
            self._reads[what] = known
            self._reads.move_to_end(what)
            if len(self._reads) > _MOST:
                self._reads.popitem(last=False)
        found: FoundT = await asyncio.shield(known.task)
        return found

    def _done(self, what: Hashable, read: "_Read", task: "asyncio.Task[Any]") -> None:
        """Have what took long count for longer; forget what failed."""
        now = asyncio.get_running_loop().time()
        read.until = now + min(max(self.fresh, _TIMES * (now - read.began)), _TIMES * self.fresh)
        if (task.cancelled() or task.exception() is not None) and self._reads.get(what) is read:
            del self._reads[what]

    async def _listed(self, namespace: str) -> Sequence[_Listed]:
        bodies = [each async for each in self.cluster.list_bodies(SERIES, namespace, how=_CACHED)]
        found = map(_listed, sorted(bodies, key=lambda each: str(each["metadata"]["name"])))
        return [each for each in found if each is not None]

    def _parse(self, body: Body) -> Series | None:
        """Return a series; None where it is none that could be worked on. Each of its versions is parsed once."""
        metadata = body["metadata"]
        version = (str(metadata["uid"]), str(metadata["resourceVersion"]))
        if version not in self._parsed:
            try:
                whole = {"apiVersion": SERIES.api_version, "kind": SERIES.kind, **body}
                self._parsed[version] = parse(whole, site=self.site)
            except SpecError:
                # Its status says so.
                self._parsed[version] = None
            if len(self._parsed) > _MOST:
                self._parsed.popitem(last=False)
        return self._parsed[version]

    async def _disruptions(self, series: Series) -> Sequence[Disruption]:
        selector = f"{SERIES_LABEL}={series.name},{DISRUPTION_LABEL}=true"
        owner = Owner(SERIES, series.name, series.uid)
        bodies = self.cluster.list_bodies(CHECKPOINTS, series.namespace, selector)
        return [Disruption.of(each) async for each in bodies if controlled(each, owner)]

"""Evictions that the API server asks about before it carries them out: each replica answers, by API objects alone.

Nobody says who asks: an API server shows no credentials to a webhook unless somebody configures it. So a question is
believed no more than what the API server says of the pod, and the most that a made-up one brings about is a Save that
its series allows, at most one for each disruption. Whatever goes wrong here lets the eviction through.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from dcp_operator.api.json_types import Body
from dcp_operator.api.series.spec import Series
from dcp_operator.api.site import CLUSTER, Site
from dcp_operator.controllers.disruption.decide import Answer, Begin, Held, LetThrough, begun, decide
from dcp_operator.controllers.disruption.observed import Disruption, EvictedPod
from dcp_operator.controllers.disruption.waits import Waits
from dcp_operator.kube.channel.admission_review import EvictionReview
from dcp_operator.kube.channel.eviction_reads import FRESH_SECONDS, EvictionReads
from dcp_operator.kube.client import metrics
from dcp_operator.kube.client.api import CHECKPOINTS, PODS, SERIES, ApiError, GoneError
from dcp_operator.kube.client.cluster import Cluster
from dcp_operator.kube.client.ownership import Owner
from dcp_operator.objects.series_run import checkpoint_before_disruption

logger = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 1.5
"""Within which there is an answer: the API server waits for two seconds."""
PATIENCE: Final = 1.0
"""For so long the first eviction waits for what becomes of its Save: where nobody listens it may pass at once."""
MOST_AT_ONCE: Final = 16
_LOOK_SECONDS: Final = 0.1
_LOG_SECONDS: Final = 10.0
_MOST_LOGGED: Final = 1000


@dataclass(frozen=True)
class EvictionAnswer:
    """What the evictor is told: with a line the pod is held, else it may go."""

    line: str = ""
    warning: str = ""


LET_THROUGH: Final = EvictionAnswer()


@dataclass
class Evictions:
    """Answers for the pods of trainings.

    Args:
        cluster: Whom to ask.
        namespaces: Those that this operator serves; empty means all.
        site: What it accepts of a series.
        now: The clock.
        seconds: Within which there is an answer.
        patience: How many of them the first eviction may wait for what becomes of its Save.
        fresh: For how many seconds it counts what was read for another eviction.
        seconds_now: A clock that never goes back.
    """

    cluster: Cluster
    namespaces: Collection[str] = ()
    site: Site = CLUSTER
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    seconds: float = ANSWER_SECONDS
    patience: float = PATIENCE
    fresh: float = FRESH_SECONDS
    seconds_now: Callable[[], float] = time.monotonic
    _at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_AT_ONCE), init=False)
    _waits: Waits = field(default_factory=Waits, init=False)
    _reads: EvictionReads = field(init=False)
    _logged: OrderedDict[str, float] = field(default_factory=OrderedDict, init=False)

    def __post_init__(self) -> None:
        """Share what is read."""
        self._reads = EvictionReads(self.cluster, self.site, self.fresh)

    async def answer(self, review: EvictionReview) -> EvictionAnswer:
        """Return what an eviction is answered, in time."""
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self.seconds):
                found = await self._answer(review, began + self.patience)
        except Exception as error:
            # Nothing of ours may keep a node from being drained.
            expected = isinstance(error, ApiError | TimeoutError)
            why = str(error) or "no answer in time"
            if self._is_news(type(error).__name__ if expected else f"{type(error).__name__}: {why}"):
                logger.warning(
                    "the eviction of %s is let through: %s", review, why, exc_info=None if expected else error
                )
            metrics.EVICTIONS.labels("failed").inc()
            return EvictionAnswer(
                warning=f"dcp-operator lets this eviction through, and nothing was saved: {_why(error)}"
            )
        metrics.EVICTIONS.labels("held" if found.line else "let-through").inc()
        return found

    async def _answer(self, review: EvictionReview, deadline: float) -> EvictionAnswer:
        if self.namespaces and review.namespace not in self.namespaces:
            return LET_THROUGH
        async with self._at_once:
            asked = await self._asked(review)
        if asked is None:
            return LET_THROUGH
        pod, series, answer = asked
        # Nobody has to wait for those who look what becomes of their Save.
        if isinstance(answer, Begin) and not review.dry_run:
            answer = await self._begin(series, pod, answer, deadline)
        if isinstance(answer, LetThrough) and self._is_news(str(review)):
            logger.info("the eviction of %s is let through: %s", review, answer.why)
        return _told(review, series, answer)

    async def _asked(self, review: EvictionReview) -> tuple[EvictedPod, Series, Answer] | None:
        """Return the pod, the series that holds its evictions, and the answer; None where it is no series' business."""
        try:
            pod = EvictedPod.of(await self.cluster.get(PODS, review.namespace, review.pod))
        except GoneError:
            return None
        series = await self._reads.series(review.namespace, pod) if pod.runs else None
        if series is None:
            return None
        known = await self._reads.disruptions(series)
        answer = decide(series, pod, known, self.now())
        if not review.dry_run:
            self._waits.passes(pod, known)
            if not isinstance(answer, LetThrough) and not self._may_wait(series, pod, known):
                answer = LetThrough(why="it has waited as long as the series says")
        return pod, series, answer

    def _may_wait(self, series: Series, pod: EvictedPod, known: Sequence[Disruption]) -> bool:
        given = series.spec.on_disruption
        return given is not None and self._waits.may_wait(pod, given.time, known, self.seconds_now())

    def _is_news(self, what: str) -> bool:
        """Return whether something is to be logged: once in ten seconds, however many ask."""
        now = asyncio.get_running_loop().time()
        if now < self._logged.get(what, -_LOG_SECONDS) + _LOG_SECONDS:
            return False
        self._logged[what] = now
        self._logged.move_to_end(what)
        if len(self._logged) > _MOST_LOGGED:
            self._logged.popitem(last=False)
        return True

    async def _begin(self, series: Series, pod: EvictedPod, action: Begin, deadline: float) -> Answer:
        """Create the Save, or find it created by another replica; return what follows from it until the deadline."""
        made = await self._reads.begin(series, action.name, lambda: self._create(series, pod, action))
        answer = begun(series, Disruption.of(made), self.now())
        # What is known at the deadline counts: an API server that is slow by then must not let the eviction through.
        with suppress(TimeoutError, ApiError):
            async with asyncio.timeout_at(deadline):
                while isinstance(answer, Held):
                    await asyncio.sleep(_LOOK_SECONDS)
                    answer = begun(series, await self._reads.save(series, action.name), self.now())
        return answer

    async def _create(self, series: Series, pod: EvictedPod, action: Begin) -> Body:
        body = checkpoint_before_disruption(series, action.name, pod.uid)
        made = await self.cluster.create_served(CHECKPOINTS, body, Owner(SERIES, series.name, series.uid))
        logger.info(
            "an eviction of pod %s/%s begins a disruption: Checkpoint %s saves %s first",
            series.namespace,
            pod.name,
            action.name,
            series.spec.template.spec.target,
        )
        return made


def _why(error: Exception) -> str:
    """Return for whoever evicts what went wrong."""
    match error:
        case TimeoutError():
            return "no answer in time"
        case ApiError():
            return f"the API server says: {error}"[:500]
        case _:
            return "an error of its own, which stands in its log"


def _told(review: EvictionReview, series: Series, answer: Answer) -> EvictionAnswer:
    """Return what the evictor is told. A dry run is never held: kubectl would come again for ever."""
    match answer:
        case Held() if not review.dry_run:
            return EvictionAnswer(line=answer.line(series))
        case LetThrough():
            return LET_THROUGH
        case _:
            return EvictionAnswer(warning=f"the eviction would wait for a save by CheckpointSeries {series.name}")

"""Why the Job controller can't create an attempt's pods. It says so in events only; a quota is named there."""

import logging
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from dcp_operator.controllers.checkpoint.observed import Attempt, Observed
from dcp_operator.controllers.checkpoint.waiting_pods import PODS_DUE
from dcp_operator.kube.client.api import ApiError
from dcp_operator.kube.client.reads import Reads

logger = logging.getLogger(__name__)

_AGAIN: Final = timedelta(seconds=25)
"""For how long an answer is kept. The attempt is reconciled every thirty seconds."""
_REMEMBERED: Final = 1000
_POD: Final = re.compile(r'pods "[^"]*"')
"""Each try of the Job controller names another pod. A status that held the name would change with each try."""
_LONGEST: Final = 512


@dataclass
class PodCreation:
    """Reads the events of Jobs whose pods are overdue.

    Args:
        cluster: Where to read.
        now: The clock.
    """

    cluster: Reads
    now: Callable[[], datetime]
    _told: OrderedDict[str, tuple[datetime, str]] = field(default_factory=OrderedDict, init=False)

    async def explained(self, namespace: str, observed: Observed) -> Observed:
        """Return what is observed, with the Job controller's own words about pods that are not there."""
        attempts = [
            replace(each, uncreated=await self._words(namespace, each)) if self._overdue(each) else each
            for each in observed.attempts
        ]
        return replace(observed, attempts=tuple(attempts))

    def _overdue(self, attempt: Attempt) -> bool:
        waits = attempt.active and not attempt.suspended and not attempt.deleting and len(attempt.pods) < attempt.nodes
        return waits and attempt.started is not None and self.now() >= attempt.started + PODS_DUE

    async def _words(self, namespace: str, attempt: Attempt) -> str:
        known = self._told.get(attempt.uid)
        if known is not None and self.now() < known[0] + _AGAIN:
            return known[1]
        try:
            said = await self.cluster.last_event(namespace, attempt.uid, "FailedCreate")
        except ApiError as error:
            logger.debug("no events of Job %s/%s: %s", namespace, attempt.job_name, error)
            said = ""
        said = _POD.sub("pods", said)[:_LONGEST]
        self._told[attempt.uid] = (self.now(), said)
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        return said

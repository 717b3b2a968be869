"""The newest checkpoint of each training that a Checkpoint has as its target: an index of what is to be announced."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Phase, Status
from dcp_operator.api.checkpoint.target import Target
from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.problems import SpecError
from dcp_operator.controllers.checkpoint.runs import run_id_of
from dcp_operator.kube.client.api import ObjectKey
from dcp_operator.kube.view.cache import Cache

_SUCCEEDED: Final = Phase.SUCCEEDED.value


class LastCommit(NamedTuple):
    """The newest checkpoint of a training, as a Checkpoint's status tells."""

    namespace: str
    target: Target
    pod: str
    """The pod that trained, and its uid."""
    pod_uid: str
    committed: datetime
    """By the training's clock."""
    ended: datetime
    """By the operator's clock."""

    @property
    def training(self) -> tuple[str, str]:
        """Whose it is."""
        return self.namespace, str(self.target)


@dataclass
class LastCheckpoints:
    """What is to be announced. It is told of every Checkpoint.

    Args:
        cache: Where the Checkpoints are parsed.
    """

    cache: Cache
    _due: dict[tuple[str, str], tuple[LastCommit, datetime | None]] = field(default_factory=dict, init=False)
    """By training: its newest checkpoint, and when it is looked at; None for at once."""

    def note(self, key: ObjectKey, body: ReadBody) -> None:
        """Take in a body."""
        if not (body.get("spec") or {}).get("target") or (body.get("status") or {}).get("phase") != _SUCCEEDED:
            return
        target = _target(self.cache.served.parsed(key))
        status = Status.read(body.get("status"))
        if status.run_id != run_id_of(body.get("spec")) or status.completion_time is None:
            return
        if target is None or status.target is None:
            return
        said = status.checkpoint.created_time if status.checkpoint is not None else None
        ended = status.completion_time
        self.put(
            LastCommit(
                namespace=key.namespace,
                target=target,
                pod=status.target.pod,
                pod_uid=status.target.pod_uid,
                committed=said if said is not None and said.tzinfo is not None else ended,
                ended=ended,
            )
        )

    def drop(self, key: ObjectKey) -> None:
        """Hear that a Checkpoint is gone: what it saved is there all the same."""

    def put(self, commit: LastCommit, at: datetime | None = None) -> None:
        """Have a checkpoint announced, unless a newer one of that training is to be."""
        known = self._due.get(commit.training)
        if known is None or known[0].ended < commit.ended:
            self._due[commit.training] = (commit, at if known is None else known[1])

    def take(self, now: datetime) -> list[LastCommit]:
        """Return what is to be announced now. It is nobody's business any more, unless it is put back."""
        found = [commit for commit, at in self._due.values() if at is None or at <= now]
        for each in found:
            del self._due[each.training]
        return found

    @property
    def waiting(self) -> Mapping[tuple[str, str], tuple[LastCommit, datetime | None]]:
        """What is to be announced, and when."""
        return self._due


def _target(parsed: Checkpoint | SpecError) -> Target | None:
    return None if isinstance(parsed, SpecError) else parsed.spec.target

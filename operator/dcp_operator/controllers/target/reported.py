"""A save that a training made by itself: what its agent reports of it, and the Checkpoint that tells of it.

Such a Checkpoint asks for nothing. It becomes what an agent of the target's pods reports of that very save, and of
nothing else: a label says which save it tells of, and a label is free for anybody to write.
"""

import hashlib
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from dcp_contract.training import EndedSave
from dcp_operator.api.checkpoint.status import Phase, TargetRef
from dcp_operator.controllers.checkpoint.inputs import CheckResult
from dcp_operator.controllers.target.choice import LOOK_AGAIN
from dcp_operator.controllers.target.inputs import TargetInputs
from dcp_operator.controllers.target.observed import ConnectedAgent
from dcp_operator.controllers.target.outcome import record_ended, replace_status

SAVE_ID: Final = re.compile(r"[0-9a-f]{32}")
_LONGEST: Final = 604_800.0
"""Seconds of a save that are believed."""


def own_saves(agent: ConnectedAgent) -> Iterator[EndedSave]:
    """Yield the saves that a training says it made by itself."""
    yield from (each for each in agent.state.ended if not each.requested)


def save_of(ended: EndedSave) -> str:
    """Return what tells one save from all others, as a label takes it: its id where it is committed."""
    saved = ended.checkpoint.save_id if ended.checkpoint is not None else ""
    return saved if SAVE_ID.fullmatch(saved) else hashlib.sha256(ended.id.encode()).hexdigest()[:32]


def found_report(inputs: TargetInputs) -> CheckResult | None:
    """Record what an agent in one of the target's pods reports of the save that a Checkpoint tells of."""
    checkpoint, target = inputs.checkpoint, inputs.checkpoint.spec.target
    if not checkpoint.reported or inputs.asked is not None or target is None:
        return None
    for agent in inputs.observed.agents:
        if not target.selects(agent.labels):
            continue
        for ended in own_saves(agent):
            if save_of(ended) == checkpoint.reported:
                return record_ended(_as_it_was(inputs, agent, ended), ended)
    return None


def wait_for_report(inputs: TargetInputs) -> CheckResult | None:
    """Wait for the report of the save that a Checkpoint tells of. Nobody is asked for a save."""
    if not inputs.checkpoint.reported:
        return None
    return CheckResult(
        status=inputs.status.with_changes(phase=Phase.PENDING, reason=None, progress=None),
        message=f"No agent of {inputs.target} reports this save now.",
        wake_at=min(inputs.now + LOOK_AGAIN, inputs.deadline),
    )


def _as_it_was(inputs: TargetInputs, agent: ConnectedAgent, ended: EndedSave) -> TargetInputs:
    """Return the inputs with a status that says who saved, and since when."""
    took = timedelta(seconds=round(min(max(0.0, ended.seconds), _LONGEST)))
    who = TargetRef(
        name=inputs.target[:253], group=agent.group, pod=agent.pod[:253], pod_uid=agent.pod_uid, world=agent.state.world
    )
    status = inputs.status.with_changes(
        target=who, start_time=inputs.stamp - took, attempts=1, ranks=str(agent.state.world)
    )
    return replace_status(inputs, status)

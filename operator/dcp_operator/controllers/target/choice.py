"""Which process group is asked: the one that is connected from the target's pods, if it is one."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.reasons import REASONS
from dcp_operator.api.checkpoint.status import Phase, TargetRef
from dcp_operator.api.checkpoint.text import counted
from dcp_operator.controllers.checkpoint.inputs import CheckResult
from dcp_operator.controllers.target.inputs import TargetInputs
from dcp_operator.controllers.target.observed import ConnectedAgent
from dcp_operator.controllers.target.outcome import record_failure

LOOK_AGAIN: Final = timedelta(seconds=10)
"""Pods are not watched. An agent that connects is heard of at once."""
CONNECTING: Final = timedelta(seconds=60)
"""Within which the agents come to an operator that has just begun to answer: they may have to trust it first."""
_NAMED: Final = 3


def choose_group(inputs: TargetInputs) -> CheckResult:
    """Choose the process group to ask, and say in the status which one, before it is asked; or say why there is none.

    A request is never given to a second group: whether the first one commits could not be told. A Save before a
    disruption does not wait for a training that does not listen: an eviction waits for it.
    """
    observed = inputs.observed
    if not observed.served:
        return _waits(inputs, Reason.NOT_ENABLED, "This operator has no channel to trainings: see its log.")
    listening = [each for each in observed.own if not each.state.ends]
    groups = {each.group for each in listening}
    if not observed.pods:
        return _waits(inputs, Reason.TARGET_NOT_FOUND, f"No pod of {inputs.target} runs.")
    if not groups:
        return _waits(inputs, Reason.TARGET_NOT_LISTENING, _silent(inputs, observed.own))
    if len(groups) > 1:
        what = f"{inputs.target} is {len(groups)} trainings: {_names([each.pod for each in listening])}."
        return _waits(inputs, Reason.TARGET_AMBIGUOUS, what)
    return _ask(inputs, listening[0])


def _ask(inputs: TargetInputs, agent: ConnectedAgent) -> CheckResult:
    chosen = TargetRef(
        name=inputs.target[:253], group=agent.group, pod=agent.pod[:253], pod_uid=agent.pod_uid, world=agent.state.world
    )
    status = inputs.status.with_changes(
        phase=Phase.RUNNING, reason=None, target=chosen, attempts=1, ranks=str(agent.state.world), progress=None
    )
    return CheckResult(
        status=status,
        message=f"The training in pod {agent.pod} is asked to save.",
        wake_at=min(inputs.now + LOOK_AGAIN, inputs.deadline),
    )


def _waits(inputs: TargetInputs, reason: Reason, message: str) -> CheckResult:
    if inputs.checkpoint.before_disruption and not _may_connect(inputs):
        return record_failure(inputs, reason, message)
    return CheckResult(
        status=inputs.status.with_changes(phase=Phase.PENDING, reason=reason, progress=None),
        message=f"{message} {REASONS[reason].advice}",
        wake_at=min(inputs.now + LOOK_AGAIN, inputs.deadline),
    )


def _may_connect(inputs: TargetInputs) -> bool:
    """Return whether an eviction is worth waiting for an agent: one that ends saves by itself; others may be late."""
    observed = inputs.observed
    if not observed.served or not observed.pods:
        return False
    ending = [each for each in observed.own if each.state.ends]
    late = observed.served_since is not None and inputs.now < observed.served_since + CONNECTING
    return bool(ending) or (late and not observed.own)


def _silent(inputs: TargetInputs, ending: Sequence[ConnectedAgent]) -> str:
    if ending:
        return f"The training in pod {ending[0].pod} is ending, and takes no more requests."
    pods = [each.name for each in inputs.observed.pods]
    return f"{counted(len(pods), 'pod')} of {inputs.target} without an agent: {_names(pods)}."


def _names(pods: Sequence[str]) -> str:
    named = sorted(pods)
    rest = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return ", ".join(named[:_NAMED]) + rest

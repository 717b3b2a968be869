"""A process group has been asked: how far it is, or that it is gone."""

from datetime import datetime, timedelta
from typing import Final

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.progress import Progress
from dcp_contract.reasons import Reason
from dcp_contract.training import SaveStage, TakenRequest
from dcp_operator.api.checkpoint.status import Phase, RunProgress, TargetRef
from dcp_operator.controllers.checkpoint.inputs import CheckResult
from dcp_operator.controllers.target.choice import LOOK_AGAIN
from dcp_operator.controllers.target.inputs import TargetInputs
from dcp_operator.controllers.target.observed import ConnectedAgent
from dcp_operator.controllers.target.outcome import record_failure, record_found, record_standing

RETURN: Final = timedelta(seconds=60)
"""For how long a target without pods may come back before its Saves have failed."""
_PROGRESS_INTERVAL: Final = timedelta(seconds=5)


def follow_request(inputs: TargetInputs, asked: TargetRef) -> CheckResult:
    """Follow a request to the process group that was asked."""
    agent = inputs.observed.agent_of(asked.group, asked.pod_uid)
    if agent is not None:
        taken = agent.taken(inputs.request)
        if taken is not None:
            return _nothing_new(inputs, agent, taken) or _taken(inputs, asked, taken)
        if agent.state.ends:
            message = f"The training in pod {asked.pod} ended before it took the request."
            return record_failure(inputs, Reason.TARGET_ENDED, message)
        return _running(inputs, f"The training in pod {asked.pod} is asked to save.")
    if not inputs.observed.served or not inputs.observed.is_over(asked.group, asked.pod_uid):
        return _running(inputs, f"The agent in pod {asked.pod} was asked, and is not connected now.")
    return _after_its_end(inputs, asked)


def _after_its_end(inputs: TargetInputs, asked: TargetRef) -> CheckResult:
    """Return what became of a request whose process group is gone: the next one knows whether it had committed."""
    # One that has yet to load says nothing of what it found.
    successors = [
        each
        for each in inputs.observed.own
        if each.group != asked.group and (each.resumed_from is not None or each.state.step > 0)
    ]
    for each in successors:
        resumed = each.resumed_from
        if resumed is not None and inputs.checkpoint.origin.made(resumed.origin):
            found = CheckpointInfo(url=resumed.url, step=resumed.step, origin=resumed.origin)
            return record_found(inputs, found)
    if successors:
        message = f"The training in pod {asked.pod} ended, and the one that followed found no commit of this Save."
        return record_failure(inputs, Reason.TARGET_ENDED, message)
    gone = asked.gone_time or inputs.stamp
    due = gone + RETURN
    if not inputs.observed.pods and inputs.now >= due:
        message = f"The training in pod {asked.pod} ended, and no pod of {inputs.target} runs any more."
        return record_failure(inputs, Reason.TARGET_ENDED, message)
    noted = inputs.status.with_changes(target=asked.model_copy(update={"gone_time": gone}))
    what = f"The training in pod {asked.pod} is gone. Once it runs again, it says whether the save had been committed."
    wake = min(inputs.now + LOOK_AGAIN, inputs.deadline)
    return CheckResult(
        status=noted.with_changes(phase=Phase.RUNNING, reason=None, progress=None), message=what, wake_at=wake
    )


def _nothing_new(inputs: TargetInputs, agent: ConnectedAgent, taken: TakenRequest) -> CheckResult | None:
    """Return the result of a Save before a disruption where training has ended no step since its newest checkpoint.

    The agent said so as it took the request: what it said before may be half a minute old.
    """
    if not inputs.checkpoint.before_disruption or taken.stage is not SaveStage.WAITING or taken.step is not None:
        return None
    known = [inputs.observed.newest]
    if (resumed := agent.resumed_from) is not None:
        known.append(CheckpointInfo(url=resumed.url, step=resumed.step, origin=resumed.origin))
    stands = next((each for each in known if each is not None and each.step == agent.state.step > 0), None)
    return record_standing(inputs, stands) if stands is not None else None


def _taken(inputs: TargetInputs, asked: TargetRef, taken: TakenRequest) -> CheckResult:
    step = "" if taken.step is None else f" step {taken.step}"
    if taken.stage is SaveStage.SAVING:
        where = f" to {taken.url}" if taken.url else ""
        message = f"The training in pod {asked.pod} saves{step}{where}."
    elif taken.step is not None:
        message = f"The training in pod {asked.pod} saves at{step}, which its ranks have agreed on."
    else:
        others = [each for each in _agent(inputs, asked).state.requests if each.id != inputs.request]
        busy = " It is at another save, which this one follows or shares." if others else ""
        message = f"The training in pod {asked.pod} has taken the request.{busy}"
    progress, due = _progress(inputs, taken)
    return _running(inputs, message, progress, due)


def _agent(inputs: TargetInputs, asked: TargetRef) -> ConnectedAgent:
    agent = inputs.observed.agent_of(asked.group, asked.pod_uid)
    assert agent is not None  # noqa: S101 - its request is being followed
    return agent


def _running(
    inputs: TargetInputs, message: str, progress: RunProgress | None = None, due: datetime | None = None
) -> CheckResult:
    status = inputs.status.with_changes(phase=Phase.RUNNING, reason=None, progress=progress)
    times = (inputs.now + LOOK_AGAIN, inputs.deadline, due)
    return CheckResult(
        status=status, message=message, wake_at=min(each for each in times if each is not None and each > inputs.now)
    )


def _progress(inputs: TargetInputs, taken: TakenRequest) -> tuple[RunProgress | None, datetime | None]:
    """Return the progress for the status, and when newer progress is to be written, if there is some."""
    written = inputs.status.progress
    seen = Progress(bytes=max(0, taken.bytes), total_bytes=max(0, taken.total_bytes))
    fresh = RunProgress(
        stage=taken.stage.value,
        percent=seen.percent,
        bytes=seen.bytes,
        total_bytes=seen.total_bytes,
        last_update_time=inputs.stamp,
    )
    if written is None or written.stage != fresh.stage:
        return fresh, None
    if fresh == written.model_copy(update={"last_update_time": inputs.stamp}):
        return written, None
    due = written.last_update_time + _PROGRESS_INTERVAL
    return (fresh, None) if inputs.now >= due else (written, due)

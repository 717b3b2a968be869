"""The checks about an attempt: waiting for an earlier one to stop, start, and under way: queued, starting, running."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import chain
from typing import Final

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.conditions import FREE_FORM_FIELDS
from dcp_operator.api.checkpoint.status import JobRef, Phase, RunProgress, Status
from dcp_operator.api.checkpoint.text import counted, human_ranks, sentence
from dcp_operator.api.naming import QUEUE_LABEL
from dcp_operator.controllers.checkpoint.actions import CreateAttempt
from dcp_operator.controllers.checkpoint.deadlines import timeout_wakes, troubled, uncreated, waiting_for
from dcp_operator.controllers.checkpoint.inputs import Situation, Verdict, next_of
from dcp_operator.controllers.checkpoint.observed import Attempt, Pod
from dcp_operator.controllers.checkpoint.outcome import wakes
from dcp_operator.controllers.checkpoint.url_conflicts import UrlClaim, holder

_LOOK_AGAIN: Final = timedelta(seconds=60)
"""How soon a Save that waits for another looks again, should it not be woken when that ends."""
_ENDING: Final = timedelta(seconds=5)
"""The same, where all that is awaited is the end of pods: nobody tells of the last one's."""
PROGRESS_INTERVAL: Final = timedelta(seconds=5)
PODS_DUE: Final = timedelta(seconds=30)
"""How long the Job controller may take to create pods before that is worth a word."""


def still_running(attempts: Iterable[Attempt], leftover: Iterable[Pod], now: datetime) -> str | None:
    """Return the name of a Job or a pod that may still do something; None if all has stopped."""
    jobs = (f"Job {each.job_name}" for each in attempts if each.active)
    pods = (f"pod {each.name}" for each in leftover if each.started is not None and not each.over(now))
    return next(chain(jobs, pods), None)


def waiting(situation: Situation) -> Verdict | None:
    """Start no attempt while an earlier one runs: both would write to the same URL and want the same GPUs."""
    if situation.current is not None:
        return None
    name = situation.checkpoint.job_name(situation.number)
    there = next((f"Job {each.job_name}" for each in situation.earlier if each.job_name == name), None)
    what = still_running((*situation.earlier, *situation.attempts), situation.leftover, situation.now) or there
    if what is None:
        return None
    pods = situation.leftover
    status = situation.status
    retries = status.retries.model_copy(update={"next_time": None})
    return Verdict(
        status=status.with_changes(
            phase=Phase.PENDING, reason=status.failure and status.failure.reason, progress=None, retries=retries
        ),
        message=f"Attempt {situation.number} starts when {what} has stopped.",
        wake_at=next_of((each.given_up_at for each in pods if each.given_up_at is not None), situation.now),
    )


def url_in_use(situation: Situation) -> Verdict | None:
    """Start no attempt of a Save while another Save of the namespace works on its URL: one of them would be refused.

    It waits, and is never refused here: the other may fail, and then this one's turn has come.
    """
    own = UrlClaim.of(situation.checkpoint, situation.status)
    rival = holder(own, situation.rivals) if own is not None and situation.current is None else None
    if rival is None:
        return None
    url = situation.checkpoint.spec.storage.url
    what = f"pods of Checkpoint {rival.name} still run on" if rival.ending else f"Checkpoint {rival.name} is saving to"
    return Verdict(
        status=situation.status.with_changes(phase=Phase.PENDING, reason=Reason.URL_IN_USE, progress=None),
        message=f"Attempt {situation.number} waits: {what} the same URL ({url}). It starts when that has ended; then "
        "the store says whether the URL is free. To have it go first, suspend or delete the other.",
        wake_at=situation.now + (_ENDING if rival.ending else _LOOK_AGAIN),
    )


def changed(situation: Situation) -> Verdict | None:
    """Start no further attempt of a spec that changed under way; the one that runs ends on the spec it began with.

    The API server holds a spec still. What changes it all the same is no user: a CRD that was rolled back and drops an
    option, a webhook that rewrites templates.
    """
    if situation.current is not None or not situation.changed:
        return None
    return Verdict(
        status=situation.status.with_changes(phase=Phase.PENDING, reason=Reason.INVALID_SPEC, progress=None),
        message=f"Attempt {situation.number} waits: {FREE_FORM_FIELDS} is not what the first attempt began with. To "
        "run what it says now, write another spec.runId; or change it back.",
    )


def unreadable(situation: Situation) -> Verdict | None:
    """Start no attempt of a spec that can't be read whole: it would be of something else than was asked for."""
    if situation.current is not None or not situation.checkpoint.unread:
        return None
    what = "; ".join(situation.checkpoint.unread)[:1024]
    who = "an operator that can read the spec, as an earlier one could"
    return Verdict(
        status=situation.status.with_changes(phase=Phase.PENDING, reason=Reason.INVALID_SPEC, progress=None),
        message=f"Attempt {situation.number} waits for {who}: {what}",
    )


def start(situation: Situation) -> Verdict | None:
    """Start the next attempt where its Job is not there. A Job that was created and not yet seen is created again."""
    if situation.current is not None:
        return None
    checkpoint, status, number = situation.checkpoint, situation.status, situation.number
    name = checkpoint.job_name(number)
    # A probe needs next to nothing. In the queue it would wait for the GPUs of others.
    queued = bool(checkpoint.queue) and not status.retries.probe
    task = checkpoint.task(number, probe=status.retries.probe)
    return Verdict(
        status=status.with_changes(
            phase=Phase.QUEUED if queued else Phase.STARTING,
            reason=Reason.QUEUED if queued else None,
            attempts=number,
            start_time=status.start_time or situation.stamp,
            completion_time=None,
            duration_seconds=None,
            conflict=None,
            progress=None,
            free_form_digest=checkpoint.free_form_digest,
            ranks=human_ranks(checkpoint.spec.workers),
            job_ref=JobRef(name=name),
        ),
        message=_queued_message(situation, name) if queued else _starting_message(situation, name),
        actions=(CreateAttempt(job_name=name, attempt=number, task=task, suspend=queued),),
    )


def queued(situation: Situation) -> Verdict | None:
    """Wait while the Job is suspended: its queue decides when it starts."""
    attempt = situation.current
    if attempt is None or not attempt.suspended:
        return None
    status = _under_way(situation, attempt).with_changes(phase=Phase.QUEUED, reason=Reason.QUEUED, progress=None)
    return Verdict(status=status, message=_queued_message(situation, attempt.job_name))


def starting(situation: Situation) -> Verdict | None:
    """Wait until every pod runs, and say what keeps them."""
    attempt = situation.current
    if attempt is None or attempt.running_since is not None:
        return None
    kept = next((pod for pod in attempt.pods if troubled(pod) and not pod.ended), None)
    phase, reason = Phase.STARTING, None
    message = _starting_message(situation, attempt.job_name)
    few = len(attempt.pods) < attempt.nodes and attempt.started is not None
    due = [each for each in (attempt.started, situation.now) if each is not None] if few else []
    due = [each + PODS_DUE for each in due]
    if kept is not None:
        message = sentence(f"Attempt {attempt.attempt} waits: {waiting_for(kept)}")
        if kept.unschedulable:
            reason = Reason.UNSCHEDULABLE
        elif kept.pull_error:
            reason = Reason.IMAGE_PULL_FAILED
    elif any(situation.now >= each for each in due):
        message = f"Attempt {attempt.attempt}: {sentence(uncreated(attempt))}"
        if not attempt.pods:
            phase, reason = Phase.PENDING, Reason.FORBIDDEN
    status = _under_way(situation, attempt).with_changes(phase=phase, reason=reason, progress=None)
    return Verdict(status=status, message=message, wake_at=_wake(situation, attempt, due))


def running(situation: Situation) -> Verdict | None:
    """Follow the progress of a running attempt; the peers of a failed or lost pod get a moment to say what they saw."""
    attempt = situation.current
    if attempt is None:
        return None
    message = f"Attempt {attempt.attempt}: every pod of Job {attempt.job_name} runs."
    gone = next((pod for pod in attempt.pods if pod.failed or pod.lost(situation.now)), None)
    if gone is not None:
        what = f"{gone.name or gone.index} failed" if gone.failed else f"{gone.name} on node {gone.node} is lost"
        message = f"Attempt {attempt.attempt}: pod {what}; the others' Reports are awaited."
    progress, wake = _progress(situation, attempt)
    status = _under_way(situation, attempt).with_changes(phase=Phase.RUNNING, reason=None, progress=progress)
    return Verdict(status=status, message=message, wake_at=_wake(situation, attempt, wake))


def _under_way(situation: Situation, attempt: Attempt) -> Status:
    """Return the status with what an observed Job proves, even if the write that followed its creation was lost."""
    status, checkpoint = situation.status, situation.checkpoint
    return status.with_changes(
        attempts=attempt.attempt,
        start_time=status.start_time or attempt.created.replace(microsecond=0),
        completion_time=None,
        duration_seconds=None,
        free_form_digest=situation.digest(attempt),
        ranks=human_ranks(checkpoint.spec.workers),
        job_ref=JobRef(name=attempt.job_name, uid=attempt.uid),
    )


def _progress(situation: Situation, attempt: Attempt) -> tuple[RunProgress | None, Iterable[datetime]]:
    """Return the progress to write, at most every five seconds, and when to look again."""
    old, new = situation.status.progress, attempt.progress
    if new is None:
        return old, ()
    due = old.last_update_time + PROGRESS_INTERVAL if old is not None else situation.now
    fresh = RunProgress(
        stage=new.stage[:253],
        percent=new.percent,
        bytes=new.bytes,
        total_bytes=new.total_bytes,
        bytes_per_second=round(new.bytes_per_second),
        last_update_time=situation.stamp,
    )
    if old is not None and fresh == old.model_copy(update={"last_update_time": situation.stamp}):
        return old, ()
    return (fresh, ()) if situation.now >= due else (old, (due,))


def _wake(situation: Situation, attempt: Attempt, more: Iterable[datetime] = ()) -> datetime | None:
    times = (*wakes(attempt), *timeout_wakes(situation.checkpoint, attempt), *more)
    return next_of(times, situation.now)


def _starting_message(situation: Situation, job: str) -> str:
    nodes = 1 if situation.status.retries.probe else situation.checkpoint.nodes
    what = (
        "looks whether the lost attempt had committed"
        if situation.status.retries.probe
        else f"starts {counted(nodes, 'pod')}"
    )
    return f"Attempt {situation.number}: Job {job} {what}."


def _queued_message(situation: Situation, job: str) -> str:
    if situation.checkpoint.queue:
        return f"Job {job} waits for the queue {situation.checkpoint.queue!r} to admit it."
    return (
        f"Job {job} is suspended, and the Checkpoint names no queue: put its label {QUEUE_LABEL} back if a queue is to "
        "admit the Job, or set the Job's spec.suspend to false."
    )

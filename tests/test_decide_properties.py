"""Whatever happens to a Checkpoint and in whatever order: `decide` is idempotent, counts right, and keeps the truth."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_contract.checkpoint_info import Conflict
from dcp_contract.progress import Progress
from dcp_contract.reasons import Reason
from dcp_contract.report import Report
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.controllers.checkpoint.actions import CheckpointDecision, CreateAttempt
from dcp_operator.controllers.checkpoint.decide import decide
from dcp_operator.controllers.checkpoint.observed import Attempt, Observed, Pod
from dcp_operator.generate.crd import custom_resource_definition
from scenes import NOW, checkpoint, failed, saved

STATUS = jsonschema.Draft202012Validator(
    custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
)
REPORTS = (
    None,
    saved(),
    Report(),
    Report(terminated=True),
    Report(conflict=Conflict(save_id="other")),
    *(failed(reason) for reason in (Reason.RANK_FAILED, Reason.WORKER_LOST, Reason.ENTRYPOINT_ERROR)),
)


@dataclass
class World:
    """A cluster of one Checkpoint: what was created stays until it is deleted."""

    checkpoint: Checkpoint
    jobs: dict[str, Attempt] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    now: datetime = NOW
    names: set[str] = field(default_factory=set)

    def decide(self) -> CheckpointDecision:
        attempts = tuple(sorted(self.jobs.values(), key=lambda each: each.attempt))
        return decide(self.checkpoint, Observed(attempts=attempts), self.status, self.now)

    def act(self, decision: CheckpointDecision) -> None:
        for action in decision.actions:
            if isinstance(action, CreateAttempt):
                self.names.add(action.job_name)
                others = [job for name, job in self.jobs.items() if name != action.job_name]
                assert not any(job.active for job in others), "one attempt at a time"
                made = Attempt(
                    job_name=action.job_name,
                    attempt=action.attempt,
                    created=self.now,
                    started=None if action.suspend else self.now,
                    nodes=action.task.workers.num_nodes,
                    run_id=action.task.origin.run_id,
                    probe=action.task.probe,
                    suspended=action.suspend,
                )
                self.jobs.setdefault(action.job_name, made)
            else:
                self.jobs.pop(action.job_name, None)

    def change_jobs(self, **changes: Any) -> None:
        self.jobs = {name: replace(job, **changes) for name, job in self.jobs.items()}

    def change_pods(self, index: int, change: dict[str, Any]) -> None:
        """Change the pod of a node in the latest attempt that is not suspended."""
        live = [job for job in self.jobs.values() if not job.suspended and index < job.nodes]
        if not live:
            return
        job = max(live, key=lambda each: (each.run_id, each.attempt))
        pod = job.pod(index) or Pod(index=index, name=f"pod-{index}")
        if not pod.ended:
            times = {"started": pod.started or self.now}
            if change.get("phase") in {"Failed", "Succeeded"}:
                times["finished"] = self.now
            pod = replace(pod, **(times | change))
        pods = {each.index: each for each in job.pods} | {index: pod}
        self.jobs[job.job_name] = replace(job, pods=tuple(pods[each] for each in sorted(pods)))


def change(report: Report | None, **fields: Any) -> dict[str, Any]:
    phase = "Succeeded" if report is not None and report.result is not None else "Failed"
    return {"phase": phase, "report": report, **fields}


pod_changes = st.one_of(
    st.just({"phase": "Running"}),
    st.sampled_from(REPORTS).map(change),
    st.just({"phase": "Pending", "started": None, "unschedulable": "0/1 nodes"}),
    st.just(change(None, oom_killed=True)),
    st.just(change(None, disrupted="PreemptionByScheduler")),
    st.just({"deleting": NOW}),
)
to_pods = st.tuples(st.just("pods"), st.sampled_from(((0, 1), (0, 1), (0,), (1,))), pod_changes)
steps = st.one_of(
    *[to_pods] * 8,  # what pods do is most of what happens
    st.tuples(st.just("wait"), st.sampled_from((1, 5, 61, 700, 4000, 90_000)), st.none()),
    st.tuples(st.just("queue"), st.booleans(), st.none()),
    st.tuples(st.just("progress"), st.integers(0, 100), st.none()),
    st.tuples(st.just("suspend"), st.booleans(), st.none()),
    st.tuples(st.just("rerun"), st.integers(0, 2), st.none()),
    st.tuples(st.just("lose the status write"), st.none(), st.none()),
    st.tuples(st.just("lose the jobs"), st.none(), st.none()),
)


def with_spec(of: Checkpoint, **changes: Any) -> Checkpoint:
    return replace(of, spec=of.spec.model_copy(update=changes))


def happen(world: World, step: tuple[Any, Any, Any]) -> bool:
    """Let one thing happen; return whether the next status write is lost."""
    kind, value, more = step
    match kind:
        case "pods":
            for index in value:
                world.change_pods(index, more)
        case "wait":
            world.now += timedelta(seconds=value)
        case "queue":
            world.change_jobs(suspended=value, started=None if value else world.now)
        case "progress":
            world.change_jobs(progress=Progress(bytes=value, total_bytes=100))
        case "suspend":
            world.checkpoint = with_spec(world.checkpoint, suspend=value)
        case "rerun":
            world.checkpoint = with_spec(world.checkpoint, run_id=str(value))
        case "lose the jobs":
            world.jobs.clear()
    return bool(kind == "lose the status write")


def settle_down(world: World) -> None:
    """Decide until nothing changes: a pass writes, the next may clean up, and then what waited for that may start."""
    for _ in range(3):
        first = world.decide()
        world.act(first)
        world.status = first.status
        second = world.decide()
        if second.status == first.status:
            assert second.events == ()
            assert not [each for each in second.actions if isinstance(each, CreateAttempt)]
            world.act(second)
        third = world.decide()
        if third.status == first.status:
            assert (third.actions, third.events) == ((), ())
            return
        assert first.status["phase"] == Phase.PENDING
    pytest.fail(f"it comes to no rest: {world}")


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, min_size=2, max_size=12), st.sampled_from(("", "", "gpus")), st.integers(0, 2))
def test_whatever_happens(story: list[tuple[Any, Any, Any]], queue: str, retries: int) -> None:
    world = World(replace(with_spec(checkpoint(), retries=retries), queue=queue))
    result: tuple[str, dict[str, Any]] | None = None
    settle_down(world)
    for step in story:
        if happen(world, step):
            world.act(world.decide())
        settle_down(world)
        status, run = world.status, world.checkpoint.spec.run_id
        STATUS.validate(status)
        assert status.get("retries", {}).get("failed", 0) <= retries + 1
        if result is not None and result[0] == run:
            assert status == result[1], "a result is for ever"
        result = (run, status) if Phase(status["phase"]).terminal else None
        waiting = status["phase"] in {Phase.PENDING, Phase.STARTING, Phase.RUNNING, Phase.QUEUED, Phase.SUSPENDED}
        assert waiting or status["completionTime"]


def test_a_commit_is_found_however_the_attempts_went() -> None:
    world = World(checkpoint())
    for _ in range(20):
        settle_down(world)
        world.now += timedelta(seconds=301)
        world.change_pods(0, change(None, disrupted="PreemptionByScheduler"))
        world.change_pods(1, change(None, disrupted="PreemptionByScheduler"))
    settle_down(world)
    world.now += timedelta(seconds=301)
    settle_down(world)
    world.change_pods(0, change(saved()))
    settle_down(world)
    assert (world.status["phase"], world.status["reason"]) == ("Succeeded", "Saved")
    assert len(world.names) == world.status["attempts"]

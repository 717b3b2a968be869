"""Reports that the kubelet cut: read as far as they go, and never into another end of the attempt."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_contract.checkpoint_info import CheckpointInfo, Conflict, Origin
from dcp_contract.environment import REPORT_LIMIT, REPORT_LIMIT_ENV
from dcp_contract.operations import Operation
from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure, Report
from dcp_operator.api.checkpoint.reasons import REASONS
from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.controllers.checkpoint.actions import CreateAttempt
from dcp_operator.controllers.checkpoint.attempt_outcome import AttemptOutcome, outcome_of
from dcp_operator.objects.job import Builder
from dcp_worker.launcher.main import main
from dcp_worker.launcher.pod_report import causes
from hypothesis_profile import examples
from scenes import at, attempt, checkpoint, ended, running

DOES = {
    Reason.SAVED: Operation.SAVE,
    Reason.LOADED: Operation.LOAD,
    Reason.VERIFIED: Operation.VERIFY,
    Reason.DELETED: Operation.DELETE,
    Reason.COPIED: Operation.COPY,
    Reason.VALIDATED: Operation.VALIDATE,
}
words = st.text(max_size=12)
origins = st.builds(Origin, namespace=words, name=words, uid=words, run_id=words)
failures = st.builds(
    RankFailure,
    rank=st.none() | st.integers(0, 4096),
    reason=st.sampled_from([each for each in Reason if REASONS[each].phase in {Phase.FAILED, Phase.CONFLICT}]),
    message=words,
    stage=words,
    time=st.floats(0, 2e9),
    exit_code=st.none() | st.integers(-64, 255),
    traceback=words,
)
times = st.datetimes(min_value=at(0).replace(tzinfo=None)).map(lambda time: time.replace(tzinfo=at(0).tzinfo))


def possible(report: Report) -> Report:
    """Return the report without what no launcher says beside a result."""
    if report.result is None:
        return report
    spared = report.failures if report.result is Reason.SAVED else []
    return report.model_copy(update={"conflict": None, "failures": spared})


reports = st.builds(
    Report,
    node=st.integers(0, 4096),
    result=st.none() | st.sampled_from([*DOES]),
    terminated=st.booleans(),
    checkpoint=st.none() | st.builds(CheckpointInfo, url=words, step=st.integers(0, 10**9), origin=st.none() | origins),
    conflict=st.none()
    | st.builds(Conflict, save_id=words, origin=st.none() | origins, created_time=st.none() | times, message=words),
    failures=st.lists(failures, max_size=4).map(causes),
    warnings=st.lists(words, max_size=3),
    bytes_moved=st.integers(0, 10**15),
    seconds=st.floats(0, 1e6),
).map(possible)


def end(report: Report | None, operation: Operation) -> tuple[Any, ...]:
    found: AttemptOutcome | None = outcome_of(attempt(ended(0, report)), operation, at(100))
    assert found is not None
    retried = found.failure is not None and found.failure.retriable
    return found.reason, retried, found.counted, found.conflict is not None and found.conflict.origin


@pytest.mark.adversary
@settings(max_examples=examples(daily=8, long=40), deadline=None)
@given(reports, st.sampled_from(Operation))
def test_every_prefix_says_how_it_ended_or_nothing(report: Report, operation: Operation) -> None:
    operation = DOES[report.result] if report.result is not None else operation
    text = report.encode()
    whole = Report.decode(text)
    assert whole is not None
    for length in range(len(text)):
        cut = Report.decode(text[:length])
        if cut is None:
            continue
        assert (cut.node, cut.result, cut.terminated) == (whole.node, whole.result, whole.terminated)
        facts = [(each.rank, each.reason, each.time, each.exit_code) for each in cut.failures]
        assert facts == [(each.rank, each.reason, each.time, each.exit_code) for each in whole.failures][: len(facts)]
        for own, other in zip(cut.failures, whole.failures, strict=False):
            assert other.message.startswith(own.message.removesuffix("…"))
        if cut.checkpoint is not None and whole.checkpoint is not None:
            assert cut.checkpoint.origin in (None, whole.checkpoint.origin)
        assert end(cut, operation) == end(whole, operation)


ORIGIN = Origin(namespace="team", name="save-1000", uid="u", run_id="")
EIGHT = Report(
    failures=[
        RankFailure(
            rank=rank,
            reason=Reason.ENTRYPOINT_ERROR,
            message="no module named x " * 20,
            time=rank + 1,
            traceback="t" * 900,
        )
        for rank in range(8)
    ]
)
HELD = Report(
    conflict=Conflict(save_id="s9", origin=ORIGIN, created_time=at(0), message="Checkpoint already exists" * 90)
)


@pytest.mark.adversary
@pytest.mark.parametrize("containers", range(1, 25))
@pytest.mark.parametrize(
    ("report", "reason"),
    [
        pytest.param(EIGHT, Reason.ENTRYPOINT_ERROR, id="eight ranks fail"),
        pytest.param(HELD, Reason.OVERWRITE_CONFLICT, id="conflict"),
        pytest.param(
            Report(result=Reason.SAVED, checkpoint=CheckpointInfo(url="s3://b/" + "x" * 900), warnings=["w" * 400] * 8),
            Reason.SAVED,
            id="saved",
        ),
    ],
)
def test_a_pod_of_any_number_of_containers_reports_its_reason(report: Report, reason: Reason, containers: int) -> None:
    """The kubelet's rule: 12 KiB over the containers of the pod. O S2-2."""
    cut = report.encode().encode()[: 12288 // containers].decode(errors="replace")
    assert end(Report.decode(cut), Operation.SAVE)[0] is reason


def test_a_cut_message_says_that_it_goes_on() -> None:
    read = Report.decode(EIGHT.encode()[:200])
    assert read is not None
    assert read.failures[0].message.startswith("no module named x")
    assert read.failures[0].message.endswith("…")


@pytest.mark.adversary
@pytest.mark.parametrize("limit", [512, 1024, 3072, REPORT_LIMIT])
@pytest.mark.parametrize("report", [EIGHT, HELD], ids=["failures", "conflict"])
def test_a_report_keeps_to_its_limit(report: Report, limit: int) -> None:
    text = report.encode(limit)
    assert len(text.encode()) <= limit
    read = Report.decode(text)
    assert read is not None
    assert end(read, Operation.SAVE)[0] is end(report, Operation.SAVE)[0]


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("given", "most"),
    [
        pytest.param("1024", 1024, id="what the operator says"),
        pytest.param("", REPORT_LIMIT, id="nothing"),
        pytest.param("99999", REPORT_LIMIT, id="more than the kubelet reads"),
        pytest.param("many", REPORT_LIMIT, id="nonsense"),
        pytest.param("-1", REPORT_LIMIT, id="less than nothing"),
    ],
)
def test_the_launcher_obeys_the_limit_of_its_pod(
    given: str, most: int, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    environment = {"DCP_TASK": '{"operation":"' + "x" * 3000, "DCP_TERMINATION_LOG": str(log), REPORT_LIMIT_ENV: given}
    assert main(environment) == 1
    assert len(log.read_bytes()) <= most
    read = Report.decode(log.read_text())
    assert read is not None
    assert read.failures[0].reason is Reason.INVALID_SPEC
    capsys.readouterr()


def test_a_hung_ranks_peers_come_after_it() -> None:
    hung = RankFailure(rank=1, reason=Reason.RANK_HUNG, time=9)
    waited = RankFailure(rank=0, reason=Reason.RANK_HUNG, time=8)
    echo = RankFailure(rank=2, reason=Reason.WORKER_LOST, time=1)
    named = RankFailure(rank=3, reason=Reason.STORAGE_FULL, time=10)
    assert [each.rank for each in causes([waited, echo, hung, named], [hung])] == [3, 1, 2, 0]


def test_a_running_peer_changes_nothing() -> None:
    found = outcome_of(attempt(ended(0, Report.decode(HELD.encode()[:400])), running(1)), Operation.SAVE, at(1))
    assert found is not None
    assert found.reason is Reason.OVERWRITE_CONFLICT


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("others", "inits", "limit"),
    [
        pytest.param(0, 0, None, id="the worker alone: nothing to say, also with a proxy put in"),
        pytest.param(1, 0, "3072", id="a sidecar"),
        pytest.param(1, 2, "2048", id="and two init containers"),
    ],
)
def test_a_pod_of_many_containers_is_told_its_share(others: int, inits: int, limit: str | None) -> None:
    spec = {
        "containers": [{"name": f"c{number}", "image": "x"} for number in range(others)],
        "initContainers": [{"name": f"i{number}", "image": "x"} for number in range(inits)],
    }
    of = checkpoint({"spec.workers.podTemplate": {"spec": spec}})
    action = CreateAttempt(job_name="j", attempt=1, task=of.task(1))
    containers = Builder(image="w").objects(of, action)[-1]["spec"]["template"]["spec"]["containers"]
    (worker,) = [each for each in containers if each["name"] == "worker"]
    assert {each["name"]: each.get("value") for each in worker["env"]}.get(REPORT_LIMIT_ENV) == limit

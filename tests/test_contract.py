"""The two messages: nothing is lost on the way that had to arrive."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_contract.checkpoint_info import CheckpointInfo, Conflict, Origin, Provenance
from dcp_contract.environment import REPORT_LIMIT
from dcp_contract.operations import Operation
from dcp_contract.progress import Progress
from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure, Report
from dcp_contract.save_fields import SaveFields
from dcp_contract.sections import Storage, Workload
from dcp_contract.storage_options import CREDENTIAL_KEYS, SPEC_NAMES, SPEC_OPTIONS, STORAGE_OPTIONS, engine_options
from dcp_contract.task import Task
from dcp_worker.training.failures import in_spec_words

any_text = st.text(st.characters(), max_size=40).map(lambda text: text * 150)
small = st.integers(-(2**31), 2**31)
origins = st.builds(Origin, namespace=any_text, name=any_text, uid=any_text, run_id=any_text)
failures = st.builds(
    RankFailure,
    rank=st.none() | small,
    reason=st.sampled_from(Reason),
    message=any_text,
    stage=any_text,
    time=st.floats(),
    exit_code=st.none() | small,
    traceback=any_text,
)
reports = st.builds(
    Report,
    node=small,
    result=st.none() | st.sampled_from(Reason),
    checkpoint=st.none() | st.builds(CheckpointInfo, url=any_text, save_id=any_text, step=small, origin=origins),
    conflict=st.none() | st.builds(Conflict, save_id=any_text, message=any_text, origin=origins),
    failures=st.lists(failures, max_size=20).map(lambda few: few * 5),
    warnings=st.lists(any_text, max_size=20),
    seconds=st.floats(),
)


@settings(max_examples=40, deadline=None)
@given(reports)
def test_any_report_fits_and_says_the_result(report: Report) -> None:
    text = report.encode()
    assert len(text.encode()) <= REPORT_LIMIT
    read = Report.decode(text)
    assert read is not None
    assert read.result == report.result
    assert (read.conflict is None) == (report.conflict is None)
    assert read.failed_rank_count == len(report.failures)
    assert [each.reason for each in read.failures] == [each.reason for each in report.failures][: len(read.failures)]
    assert bool(read.failures) == bool(report.failures)


def test_the_first_cause_keeps_its_traceback_for_longest() -> None:
    echoes = [RankFailure(rank=rank, reason=Reason.RANK_FAILED, message="m" * 500) for rank in range(1, 16)]
    first = RankFailure(rank=0, reason=Reason.ENTRYPOINT_ERROR, message="m", traceback="…" * 500 + "ValueError: here")
    read = Report.decode(Report(failures=[first, *echoes]).encode())
    assert read is not None
    assert read.failures[0].traceback.endswith("ValueError: here")
    assert read.failed_rank_count == 16


def test_a_short_report_is_whole() -> None:
    report = Report(failures=[RankFailure(rank=3, reason=Reason.RANK_FAILED, message="boom", traceback="t")], node=1)
    assert Report.decode(report.encode()) == report.model_copy(update={"failed_rank_count": 1})


@pytest.mark.adversary
@pytest.mark.parametrize("text", ["", "Killed", '{"node":1', '{"result":"Nonsense"}', "[]"])
def test_a_torn_or_foreign_message_is_no_report(text: str) -> None:
    assert Report.decode(text) is None


def test_a_newer_worker_may_say_more() -> None:
    assert Report.decode('{"contractVersion":2,"node":1,"invented":{}}') == Report(node=1)


def test_a_stray_byte_in_an_error_does_not_lose_the_error() -> None:
    failure = RankFailure(reason=Reason.RANK_FAILED, message="no such file: \udcff")
    assert failure.message == "no such file: ?"


def test_a_task_is_read_back() -> None:
    task = Task(
        operation=Operation.SAVE,
        origin=Provenance(namespace="n", name="x", uid="u"),
        storage=Storage(url="s3://b/x", options={"anon": True}),
        save=SaveFields.model_validate({"ifExists": "Replace", "from": {"url": "s3://b/y", "strict": False}}),
        workload=Workload(entrypoint="m:F"),
    )
    assert Task.model_validate_json(task.to_json()) == task
    assert json.loads(task.to_json())["save"] == {"ifExists": "Replace", "from": {"strict": False, "url": "s3://b/y"}}


@pytest.mark.parametrize(("done", "total", "percent"), [(0, 0, 0), (5, 10, 50), (999, 1000, 99), (11, 10, 100)])
def test_percent(done: int, total: int, percent: int) -> None:
    assert Progress(bytes=done, total_bytes=total).percent == percent


def test_options_have_one_type_whatever_the_protocol() -> None:
    kinds: dict[str, set[type]] = {}
    for options in STORAGE_OPTIONS.values():
        for name, option in options.items():
            kinds.setdefault(name, set()).add(option.kind)
            assert option.doc.endswith(".")
    assert all(len(found) == 1 for found in kinds.values())
    assert STORAGE_OPTIONS.keys() == CREDENTIAL_KEYS.keys()


def test_an_option_has_one_name_in_two_spellings() -> None:
    for protocol, options in STORAGE_OPTIONS.items():
        spelt = dict.fromkeys(SPEC_OPTIONS[protocol])
        assert [*engine_options(spelt)] == [*options]
        assert [SPEC_NAMES[name] for name in options] == [*spelt]
    assert engine_options({"endpointUrl": "http://h", "sseKmsKeyId": "k", "other": 1}) == {
        "endpoint_url": "http://h",
        "sse_kms_key_id": "k",
        "other": 1,
    }


def test_a_worker_names_an_option_as_the_spec_spells_it() -> None:
    assert in_spec_words("look at endpoint_url; my_endpoint_url") == "look at endpointUrl; my_endpoint_url"

"""Conditions as kstatus and kubectl wait read them, and the table of reasons."""

from datetime import datetime

import pytest

from dcp_contract.reasons import Reason
from dcp_contract.sections import Workers
from dcp_operator.api.checkpoint.conditions import (
    REASONS,
    conditions,
    counted,
    human_bytes,
    human_duration,
    human_ranks,
    message_of,
    sentence,
)
from dcp_operator.api.checkpoint.status import Phase, Status
from scenes import NOW, at


def truths(status: Status, now: datetime = NOW) -> set[str]:
    return {each.type for each in conditions(status, "why", (), now) if each.status == "True"}


@pytest.mark.parametrize(
    ("phase", "reason", "true"),
    [
        (Phase.PENDING, None, {"Reconciling"}),
        (Phase.QUEUED, Reason.QUEUED, {"Reconciling"}),
        (Phase.STARTING, Reason.UNSCHEDULABLE, {"Reconciling"}),
        (Phase.RUNNING, None, {"Reconciling"}),
        (Phase.SUCCEEDED, Reason.SAVED, {"Ready", "Complete"}),
        (Phase.CONFLICT, Reason.OVERWRITE_CONFLICT, {"Stalled", "Failed"}),
        (Phase.FAILED, Reason.RANK_FAILED, {"Stalled", "Failed"}),
        (Phase.SUSPENDED, Reason.SUSPENDED, {"Suspended"}),
    ],
)
def test_what_is_true_in_a_phase(phase: Phase, reason: Reason | None, true: set[str]) -> None:
    assert truths(Status(phase=phase, reason=reason)) == true


def test_every_condition_is_always_there_with_a_reason() -> None:
    made = conditions(Status(phase=Phase.RUNNING, observed_generation=3), "why", (), NOW)
    assert [each.type for each in made] == ["Ready", "Reconciling", "Stalled", "Complete", "Failed", "Suspended"]
    assert {each.reason for each in made} == {"Running"}
    assert {each.observed_generation for each in made} == {3}
    assert message_of(made) == "why"


def test_a_time_changes_only_with_its_state() -> None:
    first = conditions(Status(phase=Phase.STARTING), "a", (), NOW)
    second = conditions(Status(phase=Phase.RUNNING), "b", first, at(10))
    third = conditions(Status(phase=Phase.SUCCEEDED, reason=Reason.SAVED), "c", second, at(20))
    assert [each.last_transition_time for each in second] == [NOW] * 6
    changed = {each.type for each in third if each.last_transition_time == at(20)}
    assert changed == {"Ready", "Reconciling", "Complete"}


def test_every_reason_has_its_row() -> None:
    assert REASONS.keys() == set(Reason)
    for reason, meaning in REASONS.items():
        assert meaning.doc.endswith("."), reason
        if meaning.phase in {Phase.FAILED, Phase.CONFLICT}:
            assert meaning.advice.endswith("."), reason
        assert not (meaning.retriable and meaning.phase is not Phase.FAILED), reason


def test_which_reasons_another_attempt_may_help() -> None:
    assert {reason for reason, meaning in REASONS.items() if meaning.retriable} == {
        Reason.RANK_FAILED,
        Reason.RANK_HUNG,
        Reason.OUT_OF_MEMORY,
        Reason.WORKER_LOST,
        Reason.STORAGE_UNAVAILABLE,
        Reason.DEVICE_UNAVAILABLE,
    }


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (438_304_768, "418 MiB"),
        (1023 * 1024**2, "1.0 GiB"),
        (13 * 1024**4, "13 TiB"),
        (5000 * 1024**5, "5000 PiB"),
    ],
)
def test_bytes_for_people(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (72, "1m12s"), (3600, "1h00m"), (11_130, "3h05m"), (90_000, "25h00m")]
)
def test_durations_for_people(seconds: int, text: str) -> None:
    assert human_duration(seconds) == text


def test_ranks_for_people() -> None:
    assert human_ranks(Workers(num_nodes=2, num_proc_per_node=8)) == "16 (2x8)"


@pytest.mark.parametrize(("text", "whole"), [("boom", "boom."), ("boom! ", "boom!"), ("", ""), ("cut…", "cut…")])
def test_sentences(text: str, whole: str) -> None:
    assert sentence(text) == whole


@pytest.mark.parametrize(("number", "said"), [(0, "0 pods"), (1, "1 pod"), (2, "2 pods")])
def test_what_is_counted_is_said_as_people_say_it(number: int, said: str) -> None:
    assert counted(number, "pod") == said

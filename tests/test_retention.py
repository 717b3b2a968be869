"""Which checkpoints a retention keeps, and the words for it: against a model that was written apart from it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dcp_contract.durations import duration_text, parse_duration
from dcp_contract.retention import NO_RULE, Retained, Retention, judge
from hypothesis_profile import examples

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def at(step: int | None, hours_ago: float | None = 0, **more: Any) -> Retained:
    time = None if hours_ago is None else NOW - hours_ago * HOUR
    return Retained(url=f"s3://b/run/step-{step}", save_id=f"{step}", step=step, time=time, **more)


def of_steps(steps: list[int]) -> list[Retained]:
    return [at(step, hours_ago=100 - step / 1000) for step in steps]


RUN = of_steps([1000, 2000, 3000, 4000, 5000, 6000])


@pytest.mark.parametrize(
    ("retention", "checkpoints", "kept"),
    [
        pytest.param(Retention(), RUN, [6, 5, 4, 3, 2, 1], id="none keeps all"),
        pytest.param(Retention(last=2), RUN, [6, 5], id="the last"),
        pytest.param(Retention(last=9), RUN, [6, 5, 4, 3, 2, 1], id="more than there are"),
        pytest.param(Retention(every_steps=2000), RUN, [6, 4, 2], id="multiples"),
        pytest.param(Retention(every_steps=4000), RUN, [6, 4], id="the newest beside multiples"),
        pytest.param(Retention(last=1, every_steps=3000), RUN, [6, 3], id="any rule is enough"),
        pytest.param(Retention(within=timedelta(hours=96)), RUN, [6, 5, 4], id="within, to the second"),
        pytest.param(Retention(within=timedelta(hours=1)), RUN, [6], id="the newest is kept however old"),
        pytest.param(Retention(last=1), [], [], id="nothing there"),
    ],
)
def test_what_is_kept(retention: Retention, checkpoints: list[Retained], kept: list[int]) -> None:
    verdicts = judge(checkpoints, retention, NOW)
    assert [(each.checkpoint.step or 0) // 1000 for each in verdicts if each.kept] == kept


@pytest.mark.parametrize(
    ("checkpoint", "retention", "reasons"),
    [
        (at(1, 50), Retention(last=1), (NO_RULE,)),
        (at(2000, 50), Retention(last=2, every_steps=1000), ("one of the last 2", "step 2000 is a multiple of 1000")),
        (at(1, 50, pinned=True), Retention(last=1), ("pinned",)),
        (at(1, 50, readers=["b", "a"]), Retention(last=1), ("the live Load a reads it", "the live Load b reads it")),
        (at(1, 50, in_use_until=NOW + HOUR), Retention(last=1), ("in use until 2026-11-26 13:00:00 UTC",)),
        (at(1, 50, in_use_until=NOW), Retention(last=1), (NO_RULE,)),
        (at(1, 50), Retention(within=timedelta(days=3)), ("committed within 3d",)),
        (at(1, None), Retention(within=timedelta(days=3)), ("nobody knows when it was committed",)),
        (at(1, None), Retention(last=1), (NO_RULE,)),
        (at(1, -5), Retention(last=1), ("the one that was committed last",)),
        (at(9000, 50), Retention(last=1), ("the newest one", "the last one")),
        (at(0, 50), Retention(every_steps=7), ("step 0 is a multiple of 7",)),
        (at(None, 50), Retention(every_steps=7), (NO_RULE,)),
        (at(1, 50), Retention(), ("there is no rule of retention",)),
    ],
)
def test_the_reasons_are_said(checkpoint: Retained, retention: Retention, reasons: tuple[str, ...]) -> None:
    """Beside one of step 5000 that was committed an hour ago."""
    found = judge([at(5000, 1), checkpoint], retention, NOW)
    verdict = next(each for each in found if each.checkpoint is checkpoint)
    assert verdict.reasons == reasons
    assert verdict.kept is (reasons != (NO_RULE,))


CHECKPOINTS = st.lists(
    st.builds(
        at,
        st.none() | st.integers(0, 40),
        st.none() | st.integers(-3, 60),
        pinned=st.sampled_from([False] * 5 + [True]),
        readers=st.sampled_from([()] * 5 + [("a",)]),
        in_use_until=st.sampled_from([None, None, NOW - HOUR, NOW, NOW + HOUR]),
    ),
    max_size=12,
    unique_by=lambda each: each.url,
)
RETENTIONS = st.builds(
    Retention,
    last=st.none() | st.integers(1, 14),
    every_steps=st.none() | st.integers(1, 20),
    within=st.none() | st.integers(1, 70).map(lambda hours: hours * HOUR),
)


def naively_kept(all_of_them: list[Retained], retention: Retention) -> set[str]:
    """Ask of each alone why it might not go."""
    old = datetime(1, 1, 1, tzinfo=UTC)
    step_of = {one.url: one.step if one.step is not None else -1 for one in all_of_them}
    kept = set()
    for one in all_of_them:
        step, time = step_of[one.url], one.time or old
        newer = sum((step_of[each.url], each.time or old, each.url) > (step, time, one.url) for each in all_of_them)
        later = sum((each.time or old, step_of[each.url], each.url) > (time, step, one.url) for each in all_of_them)
        why = [
            newer == 0,
            later == 0,
            one.pinned,
            len(one.readers) > 0,
            one.in_use_until is not None and one.in_use_until > NOW,
            retention == Retention(),
            newer < (retention.last or 0),
            retention.every_steps and one.step in range(0, 1000, retention.every_steps),
            retention.within and (one.time is None or one.time + retention.within >= NOW),
        ]
        if any(why):
            kept.add(one.url)
    return kept


@settings(max_examples=examples(150, 20_000), deadline=None)
@given(CHECKPOINTS, RETENTIONS)
def test_a_verdict_is_that_of_a_naive_model(checkpoints: list[Retained], retention: Retention) -> None:
    """Kept is what any rule keeps, and never less than the newest; each has a verdict, and a reason."""
    verdicts = judge(checkpoints, retention, NOW)
    assert {each.checkpoint.url for each in verdicts if each.kept} == naively_kept(checkpoints, retention)
    assert sorted(each.checkpoint.url for each in verdicts) == sorted(each.url for each in checkpoints)
    assert all(each.reasons and (NO_RULE in each.reasons) is not each.kept for each in verdicts)


@settings(max_examples=examples(80, 5_000), deadline=None)
@given(CHECKPOINTS, RETENTIONS)
def test_what_was_removed_changes_no_other_verdict(checkpoints: list[Retained], retention: Retention) -> None:
    """A removal that is cut short, or repeated, never makes another one removable."""
    kept = [each.checkpoint for each in judge(checkpoints, retention, NOW) if each.kept]
    assert all(each.kept for each in judge(kept, retention, NOW))


def test_a_retention_is_one_in_python_and_in_yaml() -> None:
    """The training agent's `keep=` and a series' `spec.retention` are one model."""
    told = {"last": 3, "everySteps": 10_000, "within": "1d12h"}
    assert Retention.model_validate(told) == Retention(last=3, every_steps=10_000, within=timedelta(hours=36))
    assert Retention.model_validate(told).to_dict() == told
    assert Retention().keeps_all


@pytest.mark.parametrize(
    "told",
    [
        {"last": 0},
        {"everySteps": 0},
        {"within": "0s"},
        {"within": "soon"},
        {"within": ""},
        {"within": "-1h"},
        {"keep": 1},
    ],
)
def test_what_is_no_retention_is_refused(told: dict[str, Any]) -> None:
    """No typo may remove what a correct word would have kept."""
    with pytest.raises(ValidationError):
        Retention.model_validate(told)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("12h", 43_200), ("14d", 1_209_600), ("1d12h", 129_600), ("0s", 0)],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)
    assert parse_duration(duration_text(timedelta(seconds=seconds))) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "h", "1.5h", "12h1d", "1 h", "-5m", "1w", "99999999d"])
def test_what_is_no_duration_says_how_one_is_written(text: str) -> None:
    with pytest.raises(ValueError, match="write such as 90s"):
        parse_duration(text)

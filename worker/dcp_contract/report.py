"""The Report: what one pod has to say at its end, in the few bytes that a kubelet keeps."""

import json
from collections.abc import Iterator
from typing import Final, Self

from pydantic import (
    Field,
)

from dcp_contract import partial_json
from dcp_contract.checkpoint_info import CheckpointInfo, Conflict
from dcp_contract.environment import REPORT_LIMIT
from dcp_contract.message import Int, MaybeInt, Real, Text, Versioned, Wire
from dcp_contract.reasons import _REASONS, Reason

MAX_FAILED_RANKS: Final = 16
"""Failures listed in a Report and in status; the rest is a count."""


class RankFailure(Wire):
    """Why one rank failed. `time` is seconds since the epoch, so that the first cause can be told from its echoes."""

    # The order counts: where the message of a Report that was cut has begun, what comes before it is whole.
    rank: MaybeInt = None
    """None for a failure of the launcher or of the preflight, before any rank ran."""
    reason: Reason
    time: Real = 0.0
    exit_code: MaybeInt = None
    """Negative for a signal: -9 is SIGKILL."""
    retriable: bool | None = None
    """Whether another attempt can help, where the reason is newer than an operator may be."""
    message: Text = ""
    stage: Text = ""
    traceback: Text = ""
    """The last lines only."""


class Report(Versioned):
    """What one pod's launcher has to say at its end. Only node 0's holds `checkpoint` and `conflict`."""

    # The order counts: a Report that the kubelet cut is read as far as it goes.
    node: Int = 0
    terminated: bool = False
    """The launcher was told to stop (SIGTERM): preemption, drain, suspend or deletion."""
    result: Reason | None = None
    """`Saved`, `Loaded`, `Verified` or `Deleted`; None for a failed attempt."""
    conflict: Conflict | None = None
    failed_rank_count: Int = 0
    failures: list[RankFailure] = Field(default_factory=list)
    """By `Weight`, then by time: the first one alone would lead to the same decision."""
    checkpoint: CheckpointInfo | None = None
    warnings: list[Text] = Field(default_factory=list)
    """What did not change the result: replaced data that could not be removed, a store without an atomic refusal."""
    bytes_moved: Int = 0
    seconds: Real = 0.0

    def encode(self, limit: int = REPORT_LIMIT) -> str:
        """Return JSON of at most `limit` UTF-8 bytes, always whole; the least useful text goes first.

        Below 512 bytes it may be longer. Then it is cut, and still says how the attempt ended.
        """
        for report in _shorter(self):
            text = report.to_json()
            if len(text.encode()) <= limit:
                break
        return text

    @classmethod
    def decode(cls, text: str) -> Self | None:
        """Return the Report, one that was cut as far as it goes; None for an empty or foreign termination message."""
        try:
            # A worker image may be newer than the operator.
            return cls.model_validate_json(text, extra="ignore").of_its_version()
        except ValueError:
            told = partial_json.front(text)
        try:
            known = told and partial_json.with_known_reasons(told, _REASONS, Reason.RANK_FAILED)
            return cls.model_validate_json(json.dumps(known), extra="ignore").of_its_version() if known else None
        except ValueError:
            return None


_SHORTER: Final = ((16, 240, 800), (8, 160, 800), (4, 120, 600), (16, 80, 0), (4, 80, 0), (1, 120, 0), (1, 40, 0))
"""Failures kept, characters of a message (three times as many of the first), of the first one's traceback."""


def _shorter(report: Report) -> Iterator[Report]:
    """Yield versions of the report, each with less: echoes of the first cause go first, the result last."""
    count = max(report.failed_rank_count, len(report.failures))
    report = report.model_copy(update={"failed_rank_count": count, "failures": report.failures[:MAX_FAILED_RANKS]})
    yield report
    for keep, text, trace in _SHORTER:
        conflict = report.conflict
        if conflict is not None:
            conflict = conflict.model_copy(update={"message": cut(conflict.message, 2 * text)})
        update = {
            "failures": [_shortened(each, index, text, trace) for index, each in enumerate(report.failures[:keep])],
            "conflict": conflict,
            "warnings": [cut(warning, text) for warning in report.warnings[: max(1, keep // 4)]],
        }
        yield report.model_copy(update=update)
    last = report.model_copy(update=update | {"warnings": []})
    yield last
    if last.checkpoint is not None:
        # The operator knows the URL and the origin.
        yield last.model_copy(update={"checkpoint": last.checkpoint.model_copy(update={"url": "", "origin": None})})
    yield last.model_copy(update={"conflict": last.conflict and Conflict(), "checkpoint": None})


def _shortened(failure: RankFailure, index: int, text: int, trace: int) -> RankFailure:
    return failure.model_copy(
        update={
            "message": cut(failure.message, text if index else 3 * text),
            "traceback": failure.traceback[-trace:] if trace and not index else "",
            "stage": cut(failure.stage, 40),
        }
    )


def cut(text: str, length: int) -> str:
    """Return at most so many characters of a text; one that was shortened ends in an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"

"""One Report out of what the ranks of a pod said and what their launcher saw: pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.operations import Operation
from dcp_contract.reasons import Reason, Weight
from dcp_contract.report import MAX_FAILED_RANKS, RankFailure, Report
from dcp_contract.storage_options import CREDENTIAL_KEYS
from dcp_worker.operations import SAVING
from dcp_worker.rank.result import Outcome

_UNCERTAIN: Final = frozenset(
    {
        Reason.RANK_FAILED,
        Reason.RANK_HUNG,
        Reason.WORKER_LOST,
        Reason.OUT_OF_MEMORY,
        Reason.DEADLINE_EXCEEDED,
        Reason.STORAGE_UNAVAILABLE,
    }
)
_COMMITTED: Final = frozenset(each.traits.result for each in Operation if each.traits.writes)
_SECRET_ENDINGS: Final = ("_KEY", "_TOKEN", "_SECRET")
_SECRET_LENGTH: Final = 8
"""A shorter value is no secret, and would be found in innocent words."""


def report(node: int, world: int, outcomes: Sequence[Outcome], seen: Sequence[RankFailure]) -> Report:
    """Return a node's Report.

    Args:
        node: Which node's.
        world: How many ranks the node has.
        outcomes: What its ranks said at their end.
        seen: What the launcher saw of the others: signals, hangs, the deadline.
    """
    failures = causes([*seen, *(failure for outcome in outcomes for failure in outcome.failures)], seen)
    chief = next((each for each in outcomes if each.rank == 0 and each.result is not None), None)
    # What rank 0 says it committed is committed, whatever happened to a rank since.
    committed = chief is not None and chief.result in _COMMITTED
    succeeded = committed or (not failures and len(outcomes) == world)
    first = chief or next(iter(outcomes), None)
    return Report(
        node=node,
        result=first.result if first is not None and succeeded else None,
        checkpoint=chief.checkpoint if chief is not None and succeeded else None,
        conflict=next((each.conflict for each in outcomes if each.conflict is not None), None),
        failures=failures[:MAX_FAILED_RANKS],
        failed_rank_count=max([len(failures), *(each.failed_ranks for each in outcomes)]),
        warnings=_distinct(text for each in outcomes for text in each.warnings),
        bytes_moved=sum(each.bytes_moved for each in outcomes),
        seconds=max((each.seconds for each in outcomes), default=0.0),
    )


def may_be_committed(failed: Report) -> bool:
    """Return whether a Save may have been committed all the same: a rank ended in it, by no fault of the save's own."""
    return failed.result is None and any(
        failure.stage == SAVING and failure.reason in _UNCERTAIN for failure in failed.failures
    )


def committed(earlier: Report, found: CheckpointInfo, operation: Operation) -> Report:
    """Return the Report of an operation that turns out to be committed, though its ranks did not live to say so."""
    warning = "the ranks ended after the commit and before they reported it"
    return earlier.model_copy(
        update={
            "result": operation.traits.result,
            "checkpoint": found,
            "warnings": [*earlier.warnings, warning],
        }
    )


def causes(failures: Iterable[RankFailure], seen: Collection[RankFailure] = ()) -> list[RankFailure]:
    """Return one failure per rank, by its weight as a cause and then by time: the first one is what decides.

    An echo is a rank that lost its peer or was stopped. One that timed out in a collective is an echo as well, if the
    launcher has seen who hung.
    """
    named = any(each.reason is Reason.RANK_HUNG for each in seen)

    def order(failure: RankFailure) -> tuple[Weight, float]:
        waited = named and failure.reason is Reason.RANK_HUNG and failure not in seen
        return Weight.ECHO if waited else Weight.of(failure.reason), failure.time

    first: dict[int | None, RankFailure] = {}
    for failure in sorted(failures, key=order):
        first.setdefault(failure.rank, failure)
    return list(first.values())


def redacted(given: Report, environment: Mapping[str, str]) -> Report:
    """Return the Report without the secrets of this environment: a store's answer or a traceback may quote them."""
    names = {name for keys in CREDENTIAL_KEYS.values() for name in keys if name.endswith(_SECRET_ENDINGS)}
    secrets = [value for name in names if len(value := environment.get(name, "")) >= _SECRET_LENGTH]

    def hide(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, "***")
        return text

    return given.model_copy(
        update={
            "failures": [
                each.model_copy(update={"message": hide(each.message), "traceback": hide(each.traceback)})
                for each in given.failures
            ],
            "conflict": given.conflict and given.conflict.model_copy(update={"message": hide(given.conflict.message)}),
            "warnings": [hide(text) for text in given.warnings],
        }
    )


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))

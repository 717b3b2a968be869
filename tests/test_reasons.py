"""The table of reasons."""

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.reasons import REASONS
from dcp_operator.api.checkpoint.status import Phase


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

"""Trying again what a store failed to answer: bounded, with a growing pause and jitter."""

from collections.abc import Callable
from typing import Final, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from dcp_worker.engine.errors import StorageUnavailable, translate

_TRIES: Final = 6
_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 10.0
_T = TypeVar("_T")


def retried(step: Callable[[], _T]) -> _T:
    """Run a step that may be run twice, again where the store was unavailable; other errors are raised at once."""
    tries = Retrying(
        stop=stop_after_attempt(_TRIES),
        wait=wait_random_exponential(multiplier=_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS),
        retry=retry_if_exception(_transient),
        reraise=True,
    )
    return tries(step)


def _transient(error: BaseException) -> bool:
    if isinstance(error, FileNotFoundError | EOFError):
        return False
    return isinstance(translate(error), StorageUnavailable)

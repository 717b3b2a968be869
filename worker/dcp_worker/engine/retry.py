"""Trying again what a store failed to answer: bounded, with a growing pause and jitter."""

from collections.abc import Callable
from typing import Final, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from dcp_worker.engine.errors import StorageUnavailable, translate

TRIES: Final = 6
"""Tries of one step in all, where nobody says otherwise."""
_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 10.0
_ALL_SECONDS: Final = 180.0
_T = TypeVar("_T")


def retried(step: Callable[[], _T], tries: int = TRIES, *, on: Callable[[BaseException], bool] | None = None) -> _T:
    """Run a step that may be run twice, again on an error that `on` accepts; others are raised at once.

    By default these are the errors of a store that was unavailable.
    """
    retrying = Retrying(
        stop=stop_after_attempt(tries) | stop_after_delay(_ALL_SECONDS),
        wait=wait_random_exponential(multiplier=_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS),
        retry=retry_if_exception(on or _transient),
        reraise=True,
    )
    return retrying(step)


def _transient(error: BaseException) -> bool:
    if isinstance(error, FileNotFoundError | FileExistsError | EOFError):
        return False
    return isinstance(translate(error), StorageUnavailable)

"""Retries of a store's requests: a bounded number, with a growing pause and full jitter.

A throttled request was answered: the store asks for time. S3 takes minutes to split a prefix that many ranks begin to
write at once. So a throttled try is not counted, and is repeated until PATIENCE_SECONDS have passed. Any other failure
is tried as often as `tries` says.
"""

import logging
import re
from collections.abc import Callable
from typing import Final, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_any, stop_before_delay, wait_random_exponential
from tenacity.stop import stop_base

from dcp_engine.errors import StorageUnavailable
from dcp_engine.translate import is_bad_digest, translate

LOG = logging.getLogger("dcp_engine")
TRIES: Final = 6
"""Tries of one step in all, the first one included, where the caller gives no number."""
PATIENCE_SECONDS = 180.0
"""Seconds that one step may take with all its tries and pauses."""
LONGEST_PAUSE_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 0.2
_T = TypeVar("_T")

_THROTTLED: Final = re.compile(
    r"\b503 Service Unavailable|\b429 Too Many Requests|SlowDown|RequestLimitExceeded|ServerBusy|TooManyRequests"
    r"|RequestThrottled|ThrottlingException|rateLimitExceeded|\b(?:answered|code:) (?:503|429)\b"
)
"""The words of stores that throttle."""
_REFUSED: Final = re.compile(r"\b(?:answered|status code:) 4\d\d\b")
_PASSES: Final = re.compile(
    r"\b(?:answered|status code:) (?:408|425|429)\b|ConditionalRequestConflict|OperationAborted|RequestTimeout"
)
"""The answers of class 4xx that another try may change."""
_CREDENTIALS: Final = re.compile(r"169\.254\.169\.254|metadata\.google\.internal")
"""Where a node hands out credentials; if it does not answer, there are none to be had, or it is busy."""


def retried(step: Callable[[], _T], tries: int = TRIES, *, on: Callable[[BaseException], bool] | None = None) -> _T:
    """Run a step that may be run twice, again on an error that `on` accepts; others are raised at once.

    By default `on` accepts the errors of a store that was unavailable. Throttled tries cost time, and no try.
    """
    retrying = Retrying(
        stop=stop_any(_Tries(tries), stop_before_delay(PATIENCE_SECONDS)),
        wait=wait_random_exponential(multiplier=_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS),
        retry=retry_if_exception(on or transient),
        before_sleep=_tell,
        reraise=True,
    )
    return retrying(step)


def throttled(error: BaseException) -> bool:
    """Tell whether the store asks for fewer requests."""
    return bool(_THROTTLED.search(str(error)))


def transient(error: BaseException) -> bool:
    """Tell whether another try may end otherwise: what was unavailable, but not a request that was refused."""
    if isinstance(error, FileNotFoundError | FileExistsError | EOFError):
        return False
    text = str(error)
    if not isinstance(translate(error), StorageUnavailable) and not _CREDENTIALS.search(text):
        return False
    return not _REFUSED.search(text) or bool(_PASSES.search(text)) or is_bad_digest(error) or throttled(error)


class _Tries(stop_base):
    """Stops after a number of tries, those left out that were throttled."""

    def __init__(self, tries: int) -> None:
        self._left = tries

    def __call__(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if error is None or not throttled(error):
            self._left -= 1
        return self._left <= 0


def _tell(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    if error is not None and state.next_action:
        LOG.info("trying again in %.1f s: %s", state.next_action.sleep, translate(error))

"""obstore, behind one door: its calls never hang in a forked child, never panic, and never tell a secret.

obstore runs all of a process's requests in one pool of threads, which starts with the first request. A child that is
forked after that has the pool without its threads: every call there, by whatever client, would wait for ever.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

import obstore
from obstore import store

from dcp_engine import redact
from dcp_engine.errors import EngineError, InvalidOption

_P = ParamSpec("_P")
_R = TypeVar("_R")
_KEPT: Final = re.compile(
    r'message: "[^"]+"|TimedOut|IncompleteMessage|BadDigest|InvalidCertificate|non-partial response|CONTENT_RANGE'
    r"|416 Range Not Satisfiable|InvalidRange"
)
"""What is read in the details of an error; the rest quotes the request and the answer."""
_DETAILS: Final = "\n\nDebug source"
_asked: Final[set[int]] = set()
"""The process that made requests: this one, or the one that it was forked from."""


def refuse_after_fork() -> None:
    """Raise InvalidOption in a child that was forked after its parent used a store."""
    if _asked and os.getpid() not in _asked:
        raise InvalidOption(
            "this process was forked after its parent used an object store, and the threads that make the requests "
            "did not come with it: start it with multiprocessing's spawn or forkserver"
        )


def guarded(call: Callable[_P, _R], *, asks: bool = True) -> Callable[_P, _R]:
    """Return the call with its errors made fit to be told; `asks` if it makes requests."""

    @wraps(call)
    def within(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        refuse_after_fork()
        if asks:
            _asked.add(os.getpid())
        try:
            return call(*args, **kwargs)
        except BaseException as error:
            # A panic of Rust's code is no Exception, so that nobody else catches it either.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raised = error
        raise _told(raised)

    return within


def _told(error: BaseException) -> BaseException:
    """Return the error with what may be said of it."""
    if isinstance(error, EngineError):
        return error
    if not isinstance(error, Exception):
        # obstore panics over an address, a name or a key that can't be one.
        return InvalidOption(
            f"the storage library stopped over a URL, an option or a credential that can't be: {error}"
        )
    sentence, there, details = str(error).partition(_DETAILS)
    text = redact.sentence(sentence)
    if there:
        text += f"{_DETAILS}: " + redact.mask(", ".join(dict.fromkeys(_KEPT.findall(details))))
    elif text == sentence:
        return error
    try:
        return type(error)(text)
    except TypeError:  # an exception of somebody else's code, in an iterator that obstore was given
        return error


def _list(*args: Any, **kwargs: Any) -> Iterator[Any]:  # noqa: ANN401 - obstore's own types are not public
    pages = iter(guarded(obstore.list)(*args, **kwargs))
    following = guarded(lambda: next(pages, None))
    while (page := following()) is not None:
        yield page


def _folders(of: Any) -> Sequence[str]:  # noqa: ANN401 - as above
    return [*obstore.list_with_delimiter(of)["common_prefixes"]]


delete = guarded(obstore.delete)
from_url = guarded(store.from_url, asks=False)
get = guarded(obstore.get)
head = guarded(obstore.head)
folders = guarded(_folders)
list = _list  # noqa: A001 - obstore's own name
put = guarded(obstore.put)
sign = guarded(obstore.sign)

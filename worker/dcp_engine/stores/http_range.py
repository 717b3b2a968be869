"""Ranged GETs that receive straight into the destination: from the kernel's socket buffer to the tensor in one copy.

obstore signs the request, so this works for every store that has signed URLs; the client around it is the standard
library's. Retries are the caller's: whatever breaks off raises, and the connection is not used again.
"""

import http.client
import os
import ssl
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from dcp_engine import redact
from dcp_engine.errors import EngineError, RefusedSignature, StorageUnavailable
from dcp_engine.translate import is_missing_bucket, with_hint

_PIECE: Final = 256 << 10
"""Bytes received between two looks at them; they are still in the processor's cache then."""
_SIGNED_SECONDS: Final = 900
"""Credentials that a role or a token gives end within the hour, and with them what they signed."""
_REFUSALS: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_EXPIRED: Final = ("ExpiredToken", "RequestExpired", "AccessDenied", "TokenRefreshRequired", "InvalidToken")
"""What S3 answers with a 400."""
_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")


@dataclass(frozen=True)
class Network:
    """How to reach the store."""

    connect_seconds: float
    read_seconds: float
    ca_file: str | None = None


def proxied() -> bool:
    """Tell whether the environment asks for a proxy, which the standard library's client knows nothing of."""
    return any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES)


class RangedGet:
    """Keeps connections open between requests, and one signed URL per object while it is good."""

    def __init__(self, sign: Callable[[str, int], str], network: Network) -> None:
        self._sign = sign
        self._network = network
        self._signed: dict[str, tuple[float, str]] = {}
        self.succeeded = False
        """Whether any signed URL was good."""
        self._idle: list[http.client.HTTPConnection] = []
        weakref.finalize(self, _close, self._idle)

    def fill(self, path: str, offset: int, targets: Iterable[memoryview]) -> Iterator[memoryview]:
        """Fill the targets one after the other from a range of the object; see `Store.fill`."""
        views = [view for view in targets if view]
        length = sum(map(len, views))
        if not length:
            return
        try:
            yield from self._filled(path, offset, views, length)
        except RefusedSignature:  # which comes before the first piece; there may be newer credentials
            yield from self._filled(path, offset, views, length)

    def _filled(self, path: str, offset: int, views: list[memoryview], length: int) -> Iterator[memoryview]:
        url = urlsplit(self._url(path))
        with self._answering(path, url.netloc), self._connected(url.scheme, url.netloc) as connection:
            headers = {"Range": f"bytes={offset}-{offset + length - 1}"}
            connection.request("GET", f"{url.path}?{url.query}", headers=headers)
            response = connection.getresponse()
            _check(response, path, offset, length)
            self.succeeded = True
            for view in views:
                yield from _receive(response, view, path)
            if response.read(1) or response.will_close:
                connection.close()

    @contextmanager
    def _answering(self, path: str, host: str) -> Iterator[None]:
        """Name the object and the host in what the network raises; the other connections are likely broken, too."""
        try:
            yield
        except (FileNotFoundError, EOFError):
            raise
        except EngineError:
            self._signed.pop(path, None)
            raise
        except (OSError, http.client.HTTPException) as error:
            self._signed.pop(path, None)
            with suppress(IndexError):
                while True:
                    self._idle.pop().close()
            raise StorageUnavailable(f"{path}: no whole answer from {host}: {error or type(error).__name__}") from error

    @contextmanager
    def _connected(self, scheme: str, netloc: str) -> Iterator[http.client.HTTPConnection]:
        """Give a connection; keep it for the next request if it is still good."""
        connection = self._connection(scheme, netloc)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if connection.sock:
            self._idle.append(connection)

    def _url(self, path: str) -> str:
        until, url = self._signed.get(path, (0.0, ""))
        if time.monotonic() > until:
            url = self._sign(path, _SIGNED_SECONDS)
            self._signed[path] = (time.monotonic() + _SIGNED_SECONDS / 2, url)
        return url

    def _connection(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        with suppress(IndexError):
            return self._idle.pop()
        return connected(scheme, netloc, self._network)


def connected(scheme: str, netloc: str, network: Network) -> http.client.HTTPConnection:
    """Return an open connection to a host."""
    if scheme == "https":
        context = ssl.create_default_context(cafile=network.ca_file)
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(netloc, context=context)
    else:
        connection = http.client.HTTPConnection(netloc)
    connection.timeout = network.connect_seconds
    connection.connect()
    connection.sock.settimeout(network.read_seconds)
    return connection


def date_of(url: str, network: Network) -> datetime | None:
    """Send a HEAD for a signed URL; return the date of the answer, whatever that is."""
    parts = urlsplit(url)
    connection = connected(parts.scheme, parts.netloc, network)
    try:
        connection.request("HEAD", f"{parts.path}?{parts.query}")
        date = connection.getresponse().getheader("Date")
    finally:
        connection.close()
    found = parsedate_to_datetime(date) if date else None
    return found.replace(tzinfo=UTC) if found and found.tzinfo is None else found


def _close(connections: list[http.client.HTTPConnection]) -> None:
    for connection in connections:
        connection.close()


def _receive(response: http.client.HTTPResponse, view: memoryview, path: str) -> Iterator[memoryview]:
    while view:
        count = response.readinto(view[:_PIECE])
        if not count:
            raise StorageUnavailable(f"{path}: the connection ended in the middle of an answer")
        yield view[:count]
        view = view[count:]


def _check(response: http.client.HTTPResponse, path: str, offset: int, length: int) -> None:
    """Raise for any answer but the range that was asked for."""
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        given = response.headers.get("Content-Range", "")
        if not given.startswith(f"bytes {offset}-"):
            raise StorageUnavailable(  # as some caches answer
                f"{path}: the store answered with {given or 'an unnamed range'}, not with bytes from {offset} on"
            )
        if response.length is not None and response.length < length:
            raise EOFError(path)  # a store answers with what there is of the range
        return
    text = response.read(2000).decode(errors="replace")
    if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise EOFError(path)
    if response.status == HTTPStatus.NOT_FOUND and not is_missing_bucket(text):
        raise FileNotFoundError(path)
    raise refusal(response, path, text)


def refusal(response: http.client.HTTPResponse, path: str, text: str) -> EngineError:
    """Return the error for an answer that does not give what was asked for; `text` is the beginning of its body."""
    expired = response.status == HTTPStatus.BAD_REQUEST and any(f"<Code>{code}<" in text for code in _EXPIRED)
    refused = expired or response.status in _REFUSALS
    message = f"{path}: the store answered {response.status} {response.reason}: {redact.answer(text)}"
    return (RefusedSignature if refused else StorageUnavailable)(with_hint(message))

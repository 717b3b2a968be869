"""An HTTP proxy that answers 503, breaks off, stalls, flips a byte or gives other bytes where its rule says so."""

import http.client
import os
import random
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

from s3_server import S3Server

Fault = Literal["503", "403", "reset", "truncate", "stall", "flip", "flip sent", "lose answer", "shift"]


@dataclass(frozen=True)
class Answer:
    """An answer of the proxy's own."""

    status: int
    body: bytes = b""


Rule = Callable[[str, str], Fault | Answer | None]
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass
class FlakyProxy:
    """The proxy's address as a server, its rule, and how often it did what."""

    server: S3Server
    rule: Rule = lambda _method, _path: None
    faults: list[Fault | Answer] = field(default_factory=list)
    answered: list[tuple[str, str, int]] = field(default_factory=list)
    """Method, path and body bytes of every answer that went through."""
    stopped: threading.Event = field(default_factory=threading.Event)
    ignored: frozenset[str] = frozenset()
    """Headers, in lower case, that the server behind does not get to see."""
    unknown: frozenset[str] = frozenset()
    """Headers that are answered with 501."""


def sometimes(fault: Fault, probability: float, *, seed: int = 0, methods: str = "GET PUT POST HEAD") -> Rule:
    """Return a rule that fails requests at random, the same ones in every run of a single-threaded client."""
    chance = random.Random(seed)
    return lambda method, _path: fault if method in methods and chance.random() < probability else None


def once(fault: Fault, method: str, part: str) -> Rule:
    """Return a rule that fails the first request of a method whose path has `part` in it."""
    left = [fault]

    def rule(of: str, path: str) -> Fault | None:
        return left.pop() if left and of == method and part in path else None

    return rule


@contextmanager
def before(server: S3Server) -> Iterator[FlakyProxy]:
    """Put a proxy before a server."""
    upstream = urlsplit(server.endpoint).netloc

    class Handler(_Handler):
        target = upstream

    listener = _Listener(("127.0.0.1", 0), Handler)
    proxy = FlakyProxy(S3Server(f"http://127.0.0.1:{listener.server_address[1]}", server.bucket))
    Handler.proxy = proxy
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.stopped.set()
        listener.shutdown()
        listener.server_close()
        thread.join(5)


def killed_at(number: int, process: Any, flaky: FlakyProxy, killed: list[str]) -> bool:
    """Run a process and kill it at its n-th request; return whether it came so far.

    By turns the request does not get there, or its answer does not come back.
    """
    seen: list[str] = []
    began = threading.Event()

    def rule(method: str, path: str) -> Fault | None:
        seen.append(f"{method} {path.rpartition('/')[2].partition('&')[0].partition('?X-Amz')[0]}")
        if len(seen) != number + 1:
            return None
        began.wait(10)
        os.kill(process.pid, signal.SIGKILL)
        return "lose answer" if number % 2 else "reset"

    flaky.rule = rule
    process.start()
    began.set()
    process.join(60)
    assert process.exitcode in {0, -signal.SIGKILL}
    if process.exitcode:
        killed.append(seen[number])
    return bool(process.exitcode)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: broken connections are the point."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    target = ""
    proxy: FlakyProxy

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.proxy.unknown.isdisjoint(map(str.lower, self.headers)):
            self._answer(501, [], b"<Error><Code>NotImplemented</Code></Error>")
            return
        fault = self.proxy.rule(self.command, self.path)
        if fault:
            self.proxy.faults.append(fault)
        if isinstance(fault, Answer):
            self._answer(fault.status, [], fault.body)
        elif fault == "503":
            self._answer(503, [], b"<Error><Code>SlowDown</Code></Error>")
        elif fault == "403":
            self._answer(403, [], b"<Error><Code>AccessDenied</Code></Error>")
        elif fault == "reset":
            self._reset()
        elif fault == "stall":
            self.proxy.stopped.wait()
            self.close_connection = True
        else:
            self._forward(_flipped(body) if fault == "flip sent" else body, fault)

    def _forward(self, body: bytes, fault: Fault | None) -> None:
        upstream = http.client.HTTPConnection(self.target, timeout=60)
        headers = {
            key: value for key, value in self.headers.items() if key.lower() not in self.proxy.ignored | {"connection"}
        }
        if fault == "shift" and "Range" in headers:
            first, _, last = headers["Range"].removeprefix("bytes=").partition("-")
            headers["Range"] = f"bytes={int(first) + 1}-{int(last) + 1}"
        upstream.request(self.command, self.path, body or None, headers)
        response = upstream.getresponse()
        data = response.read()
        upstream.close()
        kept = [(key, value) for key, value in response.getheaders() if key.lower() not in _HOP]
        if fault == "lose answer":
            self._reset()
            return
        if fault == "flip":
            data = _flipped(data)
        self.proxy.answered.append((self.command, self.path, len(data)))
        length = int(response.getheader("Content-Length") or 0) if self.command == "HEAD" else len(data)
        self._answer(response.status, kept, data[: len(data) // 2] if fault == "truncate" else data, length)
        if fault == "truncate":
            self._reset()

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, length: int | None = None) -> None:
        self.send_response_only(status)
        for key, value in headers:
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
            self.wfile.flush()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, *args: Any) -> None: ...

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass  # noqa: N815 - names that the base class wants


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([byte ^ 1 for byte in data[middle : middle + 1]]) + data[middle + 1 :]

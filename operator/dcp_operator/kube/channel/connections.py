"""Connections of the channel: counted before the handshake, small, and closed where nothing comes.

asyncio gives each TLS connection a buffer of 256 KiB for what arrives. An agent sends a few KiB in half a minute, so
here it is 4 KiB, and more is read in pieces. A connection has `GRACE` seconds for its handshake and its first
request, and as many between two requests; while one is answered it has none to lose.
"""

import asyncio
import logging
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from dcp_operator.kube.client import metrics

logger = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 2000
MAX_PER_SOURCE: Final = 64
"""Of one address. A node's pods have addresses of their own; those behind one gateway share this many."""
GRACE: Final = 15.0
_HANDSHAKE: Final = 15
_SHUTDOWN: Final = 5
BACKLOG: Final = 512
_LOG_SECONDS: Final = 10.0
_SMALL: Final = 4 * 1024
_NO_FILES: Final = 1.0
"""Seconds without a new connection where the process may open no more files."""

AppProtocol = Callable[[], asyncio.Protocol]


class SmallTls(SSLProtocol):
    """asyncio's own TLS with a small buffer, which tells when its connection is gone."""

    max_size = _SMALL

    def __init__(self, protocol: asyncio.Protocol, context: ssl.SSLContext, gone: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        # Nobody waits for the handshake: a connection whose handshake fails is gone.
        shaken = loop.create_future()
        shaken.add_done_callback(lambda done: done.cancelled() or done.exception())
        super().__init__(
            loop,
            protocol,
            context,
            shaken,
            server_side=True,
            ssl_handshake_timeout=_HANDSHAKE,
            ssl_shutdown_timeout=_SHUTDOWN,
        )
        self._gone = gone

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count the connection no more."""
        super().connection_lost(exc)
        self._gone()


class Connections:
    """The connections of one listening socket.

    Args:
        context: The TLS server.
        protocol: Makes what speaks HTTP on a connection.
        most: How many there may be in all.
        most_per_source: Of one address.
        grace: Seconds for the next request.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        protocol: AppProtocol,
        *,
        most: int = MAX_CONNECTIONS,
        most_per_source: int = MAX_PER_SOURCE,
        grace: float = GRACE,
    ) -> None:
        self._context, self._protocol = context, protocol
        self._most, self._most_per_source, self._grace = most, most_per_source, grace
        self._by_source: Counter[str] = Counter()
        self._open: dict[asyncio.Protocol, tuple[asyncio.BaseTransport, asyncio.TimerHandle | None]] = {}
        self._accepting: asyncio.Task[None] | None = None
        self._listening: socket.socket | None = None
        self._silent_until = 0.0
        self.refused = 0
        """Connections that were closed before their handshake."""

    @property
    def count(self) -> int:
        """How many there are."""
        return self._by_source.total()

    def start(self, listening: socket.socket) -> None:
        """Accept what comes to a listening socket, which becomes ours."""
        listening.setblocking(False)
        self._listening = listening
        self._accepting = asyncio.create_task(self._accept(listening), name="channel")

    async def stop(self) -> None:
        """Accept nothing more, and break off what is left."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        if self._listening is not None:
            # Not by the task, which may have had no turn yet.
            self._listening.close()
        for transport, _ in list(self._open.values()):
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()

    def at_work(self, protocol: asyncio.BaseProtocol) -> None:
        """Note that a request of a connection is being answered: it takes as long as it takes."""
        self._set_timer(protocol, None)

    def at_rest(self, protocol: asyncio.BaseProtocol) -> None:
        """Note that a connection waits for its next request."""
        self._set_timer(protocol, self._grace)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:
                logger.warning("no connection is accepted for a moment: %s", error)
                await asyncio.sleep(_NO_FILES)
                continue
            source = str(address[0])
            if self.count >= self._most or self._by_source[source] >= self._most_per_source:
                connection.close()
                self._refuse(source)
            else:
                await self._begin(loop, connection, source)

    def _refuse(self, source: str) -> None:
        """Count a connection that was closed, and say so in the log, once in ten seconds."""
        self.refused += 1
        metrics.CHANNEL_REFUSALS.labels("connection").inc()
        now = asyncio.get_running_loop().time()
        if now >= self._silent_until:
            self._silent_until = now + _LOG_SECONDS
            limit = f"{self._most_per_source} of {source}" if self.count < self._most else f"{self._most} in all"
            logger.warning("channel: a connection is closed beyond %s; %d were so far", limit, self.refused)

    async def _begin(self, loop: asyncio.AbstractEventLoop, connection: socket.socket, source: str) -> None:
        protocol = self._protocol()

        def gone() -> None:
            self._by_source[source] -= 1
            if self._by_source[source] <= 0:
                del self._by_source[source]
            _, timer = self._open.pop(protocol, (None, None))
            if timer is not None:
                timer.cancel()

        self._by_source[source] += 1
        try:
            tls = SmallTls(protocol, self._context, gone)
            transport, _ = await loop.connect_accepted_socket(lambda: tls, connection)
        except (OSError, ssl.SSLError) as error:
            logger.debug("a connection of %s did not begin: %s", source, error)
            connection.close()
            gone()
            return
        if not transport.is_closing():
            self._open[protocol] = (transport, None)
            self.at_rest(protocol)

    def _set_timer(self, protocol: asyncio.BaseProtocol, seconds: float | None) -> None:
        found = self._open.get(protocol)  # type: ignore[call-overload]
        if found is None:
            return
        transport, timer = found
        if timer is not None:
            timer.cancel()
        loop = asyncio.get_running_loop()
        timer = None if seconds is None else loop.call_later(seconds, _abort, transport)
        self._open[protocol] = (transport, timer)  # type: ignore[index]


def _abort(transport: asyncio.BaseTransport) -> None:
    with suppress(AttributeError):
        transport.abort()  # type: ignore[attr-defined]


def listening_socket(port: int, host: str = "") -> socket.socket:
    """Return a socket that listens on a port, on both protocols where no address is named."""
    if host:
        return socket.create_server((host, port), backlog=BACKLOG)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    return socket.create_server(("", port), backlog=BACKLOG)

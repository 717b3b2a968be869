"""The port that agents post to: who calls, whether he may, what he says, and what he is answered.

A replica that does not lead says so and closes the connection: on a new one the agent meets another replica. The API
server asks about evictions on the same port, and gets an answer from any replica.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Final, TypeVar

from aiohttp import web

from dcp_contract.prefixes import is_under
from dcp_contract.training import MESSAGE_LIMIT, TRAINING_PATH, AgentState
from dcp_operator.kube.channel.admission_review import EVICTION_PATH, held, let_through, read_review
from dcp_operator.kube.channel.callers import Caller, Callers, RefusedCallError
from dcp_operator.kube.channel.certificate import Certificate
from dcp_operator.kube.channel.connections import GRACE, MAX_CONNECTIONS, MAX_PER_SOURCE, Connections, listening_socket
from dcp_operator.kube.channel.evictions import Evictions
from dcp_operator.kube.channel.hub import Hub, says_something
from dcp_operator.kube.client import metrics

logger = logging.getLogger(__name__)
_HTTP: Final = logging.getLogger(f"{__name__}.http")
_HTTP.setLevel(logging.CRITICAL)
"""aiohttp's own, which has a traceback for each request that is no HTTP: whoever sends many would fill the log."""

BODY_SECONDS: Final = 10.0
"""Within which a body has to be there."""
PER_SECOND: Final = 2.0
BURST: Final = 20
"""POSTs of a pod: so many at once, and then so many a second."""
UNKNOWN_PER_SECOND: Final = 5.0
UNKNOWN_BURST: Final = 50
"""The same of calls of an address whose token is good for nothing."""
EVICTIONS_PER_SECOND: Final = 50.0
EVICTIONS_BURST: Final = 200
"""Questions about evictions, of one address: a drain of a full node asks some hundred times in five seconds."""
_MOST_BUCKETS: Final = 10_000
_LOG_SECONDS: Final = 10.0

MessageT = TypeVar("MessageT")


@dataclass
class Buckets:
    """Rate limits, one bucket for each name: it fills with time, and each call takes one token out.

    Args:
        rate: Tokens a second.
        size: Tokens at most.
    """

    rate: float
    size: float
    _left: OrderedDict[object, tuple[float, float]] = field(default_factory=OrderedDict, init=False)

    def take(self, name: object, now: float) -> float:
        """Take a token; return 0, or the seconds until there is one."""
        left, at = self._left.get(name, (self.size, now))
        left = min(self.size, left + (now - at) * self.rate)
        self._left[name] = (max(0.0, left - 1), now)
        self._left.move_to_end(name)
        if len(self._left) > _MOST_BUCKETS:
            self._left.popitem(last=False)
        return 0.0 if left >= 1 else (1 - left) / self.rate

    def is_empty(self, name: object, now: float) -> float:
        """Return 0 if there is a token, else the seconds until there is one; take none."""
        left, at = self._left.get(name, (self.size, now))
        left = min(self.size, left + (now - at) * self.rate)
        return 0.0 if left >= 1 else (1 - left) / self.rate


@dataclass
class Channel:
    """The server.

    Args:
        callers: Tells who calls.
    """

    callers: Callers
    hub: Hub | None = None
    """None in a replica that does not lead."""
    connections: Connections | None = None
    evictions: Evictions | None = None
    """Answers the API server, whether this replica leads or not; None where evictions are none of its business."""
    _pods: Buckets = field(default_factory=lambda: Buckets(PER_SECOND, BURST), init=False)
    _unknown: Buckets = field(default_factory=lambda: Buckets(UNKNOWN_PER_SECOND, UNKNOWN_BURST), init=False)
    _asking: Buckets = field(default_factory=lambda: Buckets(EVICTIONS_PER_SECOND, EVICTIONS_BURST), init=False)
    _logged: OrderedDict[tuple[str, str], float] = field(default_factory=OrderedDict, init=False)

    @asynccontextmanager
    async def serving(
        self,
        certificate: Certificate,
        port: int,
        host: str = "",
        *,
        most: int = MAX_CONNECTIONS,
        most_per_source: int = MAX_PER_SOURCE,
        grace: float = GRACE,
    ) -> AsyncIterator[int]:
        """Serve while the context lasts; yield the port. The limits are those of `Connections`."""
        application = web.Application(client_max_size=MESSAGE_LIMIT)
        application.router.add_post(TRAINING_PATH, partial(self._post, answered=self._answered))
        if self.evictions is not None:
            application.router.add_post(EVICTION_PATH, partial(self._post, answered=self._evicted))
        runner = web.AppRunner(
            application,
            access_log=None,
            logger=_HTTP,
            handler_cancellation=True,
            auto_decompress=False,
            keepalive_timeout=3600.0,
            lingering_time=0.0,
            max_headers=32,
            read_bufsize=MESSAGE_LIMIT // 4,
        )
        await runner.setup()
        assert runner.server is not None  # noqa: S101 - setup makes it
        listening = listening_socket(port, host)
        self.connections = Connections(
            certificate.context, runner.server, most=most, most_per_source=most_per_source, grace=grace
        )
        self.connections.start(listening)
        try:
            yield listening.getsockname()[1]
        finally:
            await self.connections.stop()
            await runner.cleanup()

    async def _post(
        self, request: web.Request, answered: Callable[[web.Request], Awaitable[web.Response]]
    ) -> web.Response:
        if self.connections is not None:
            self.connections.at_work(request.protocol)
        try:
            return await answered(request)
        except RefusedCallError as error:
            return self._refusal(request, error)
        except Exception:
            logger.exception("channel: a call of %s failed", request.remote)
            line = "the operator failed at this call; its log says why"
            return self._refusal(request, RefusedCallError(HTTPStatus.INTERNAL_SERVER_ERROR, line))
        finally:
            if self.connections is not None:
                self.connections.at_rest(request.protocol)

    async def _answered(self, request: web.Request) -> web.Response:
        hub = self.hub
        if hub is None:
            line = "this replica of the operator stands by; come again on a new connection"
            raise RefusedCallError(HTTPStatus.SERVICE_UNAVAILABLE, line, 1.0)
        caller = await self._caller(request)
        state = await _read(request, AgentState.decode)
        try:
            check_urls(state)
        except ValueError as error:
            raise RefusedCallError(HTTPStatus.BAD_REQUEST, str(error)) from error
        # An agent that has nothing to report is believed nothing, and told nothing without another look.
        pod = await self.callers.alive(caller, now=bool(state.requests or state.ended))
        poll = hub.hear(caller, state, pod.labels)
        try:
            orders = await hub.orders(caller, poll)
        finally:
            hub.answered(caller, poll)
        if says_something(orders, state):
            try:
                await self.callers.alive(caller)
            except RefusedCallError as error:
                if error.status is HTTPStatus.FORBIDDEN:
                    hub.forget(caller)
                raise
        body = orders.model_copy(update={"grace_seconds": pod.grace}).encode()
        return web.Response(body=body, content_type="application/json")

    async def _caller(self, request: web.Request) -> Caller:
        source, now = str(request.remote), asyncio.get_running_loop().time()
        authorization = request.headers.get("Authorization", "")
        # Behind one address there may be others than the one that tries tokens.
        if not self.callers.was_good(authorization) and (wait := self._unknown.is_empty(source, now)) > 0:
            raise RefusedCallError(HTTPStatus.TOO_MANY_REQUESTS, "too many calls without a good token", wait)
        try:
            caller = await self.callers.of(authorization)
        except RefusedCallError as error:
            if error.status is HTTPStatus.UNAUTHORIZED:
                self._unknown.take(source, now)
            raise
        if (wait := self._pods.take(caller, now)) > 0:
            line = f"more than {PER_SECOND:.0f} calls a second of one pod"
            raise RefusedCallError(HTTPStatus.TOO_MANY_REQUESTS, line, wait)
        return caller

    async def _evicted(self, request: web.Request) -> web.Response:
        """Answer whether a pod may be evicted: in a replica that stands by, too."""
        assert self.evictions is not None  # noqa: S101 - else it has no path
        source, now = str(request.remote), asyncio.get_running_loop().time()
        if (wait := self._asking.take(source, now)) > 0:
            line = f"more than {EVICTIONS_PER_SECOND:.0f} evictions a second of one address"
            raise RefusedCallError(HTTPStatus.TOO_MANY_REQUESTS, line, wait)
        review = await _read(request, read_review)
        answer = await self.evictions.answer(review)
        body = held(review.uid, answer.line) if answer.line else let_through(review.uid, answer.warning)
        response = web.Response(body=body, content_type="application/json")
        # The API server takes a connection that is closed as it sends its next question for a webhook that failed.
        response.force_close()
        return response

    def _refusal(self, request: web.Request, error: RefusedCallError) -> web.Response:
        metrics.CHANNEL_REFUSALS.labels(str(error.status.value)).inc()
        self._log(str(request.remote), error)
        headers = {} if error.after is None else {"Retry-After": str(max(1, round(error.after)))}
        answer = web.Response(status=error.status, text=f"{error.line}\n", headers=headers)
        # A connection that was refused is of no use, and costs memory.
        answer.force_close()
        return answer

    def _log(self, source: str, error: RefusedCallError) -> None:
        """Log a refusal; of those of one address and status one in ten seconds."""
        if self.hub is None and error.status is HTTPStatus.SERVICE_UNAVAILABLE:
            return
        name, now = (source, str(error.status.value)), asyncio.get_running_loop().time()
        if now < self._logged.get(name, -_LOG_SECONDS) + _LOG_SECONDS:
            return
        self._logged[name] = now
        self._logged.move_to_end(name)
        if len(self._logged) > _MOST_BUCKETS:
            self._logged.popitem(last=False)
        logger.warning("channel: %s is refused with %d: %s", source, error.status, error.line)


async def _read(request: web.Request, decode: Callable[[bytes], MessageT]) -> MessageT:
    """Return the body of a request, decoded.

    Raises:
        RefusedCallError: It is too large, too slow, or can't be read.
    """
    if request.headers.get("Content-Encoding"):
        raise RefusedCallError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the body as it is, without encoding")
    if (request.content_length or 0) > MESSAGE_LIMIT:
        raise _too_large()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return decode(await request.read())
    except TimeoutError as error:
        line = f"the body did not come within {BODY_SECONDS:.0f} s"
        raise RefusedCallError(HTTPStatus.REQUEST_TIMEOUT, line) from error
    except web.HTTPRequestEntityTooLarge as error:
        raise _too_large() from error
    except ValueError as error:
        raise RefusedCallError(HTTPStatus.BAD_REQUEST, str(error)[:500]) from error


def _too_large() -> RefusedCallError:
    return RefusedCallError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {MESSAGE_LIMIT} bytes")


def check_urls(state: AgentState) -> None:
    """Check that each save that is reported stands under one of the agent's own prefixes.

    Raises:
        ValueError: In one line, which one does not.
    """
    for each in state.ended:
        for url in (each.url, each.checkpoint.url if each.checkpoint is not None else ""):
            if url and not any(is_under(url, prefix) for prefix in (state.prefix, *state.also)):
                raise ValueError(f"{url} is reported, and lies under none of the agent's prefixes")

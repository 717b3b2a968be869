"""A channel to trainings on loopback, with real TLS, and an agent that speaks its messages without torch.

The agent is a plain client over asyncio: what it posts is given by the test, or follows a small model of a training.
"""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

from dcp_contract.training import AUDIENCE, TRAINING_PATH, AgentOrders, AgentState
from dcp_operator.api.json_types import Body
from dcp_operator.kube.channel.callers import Callers
from dcp_operator.kube.channel.certificate import Certificate
from dcp_operator.kube.channel.evictions import Evictions
from dcp_operator.kube.channel.hub import Hub
from dcp_operator.kube.channel.server import Channel
from dcp_operator.kube.client.api import CHECKPOINTS, PODS, TOKEN_REVIEWS, ApiRequest, ObjectKey
from dcp_operator.kube.view.adopting_series import AdoptingSeries
from dcp_operator.kube.view.cache import Cache
from dcp_operator.kube.view.series_runs import SeriesRuns
from dcp_operator.kube.view.targeted_saves import TargetedSaves
from fake_api import FakeApi

IN_TIME = 10.0
STATE = AgentState(group="g1", world=2, prefix="s3://bucket/run", step=7, hold_seconds=0)


def token(name: str, audience: object = AUDIENCE) -> str:
    """Return what looks like a pod's token; whose it is, the fake API server says."""

    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part({'aud': audience, 'sub': name})}.c2ln"


class TokenApi(FakeApi):
    """An API server that knows the tokens of pods."""

    tokens: dict[str, Body]
    reviews: list[str]

    def __init__(self) -> None:
        super().__init__()
        for name, value in (("tokens", {}), ("reviews", [])):
            object.__setattr__(self, name, value)

    def run_pod(self, name: str, namespace: str = "team", labels: dict[str, str] | None = None, **spec: Any) -> str:
        """Have a pod run; return its token."""
        metadata = {"name": name, "namespace": namespace, "labels": labels or {}}
        pod = self.add(PODS, {"metadata": metadata, "spec": spec, "status": {"phase": "Running"}})
        found = token(f"{namespace}/{name}/{pod['metadata']['uid']}")
        self.tokens[found] = reviewed(namespace, name, pod["metadata"]["uid"])
        return found

    def end_pod(self, name: str, namespace: str = "team") -> None:
        """Have a pod be gone; its token stays good."""
        del self.objects[PODS.path(namespace, name)]

    async def _send(self, request: ApiRequest) -> bytes:
        if request.resource == TOKEN_REVIEWS and self.refuse(request) is None:
            asked = (request.body or {})["spec"]
            self.reviews.append(asked["token"])
            found = self.tokens.get(asked["token"], {"authenticated": False})
            return json.dumps({"status": found}).encode()
        return await super()._send(request)

    def _read(self, request: ApiRequest) -> Any:
        found = super()._read(request)
        wanted = dict(each.split("=") for each in filter(None, request.query.get("labelSelector", "").split(",")))
        if "items" in found and wanted:
            found["items"] = [
                each for each in found["items"] if wanted.items() <= (each["metadata"].get("labels") or {}).items()
            ]
        if "items" in found and request.query.get("fieldSelector") == "status.phase=Running":
            found["items"] = [each for each in found["items"] if each["status"]["phase"] == "Running"]
        return found


def reviewed(namespace: str, pod: str, uid: str, **changes: Any) -> Body:
    """Return the status of a TokenReview of a pod's token."""
    extra = {"authentication.kubernetes.io/pod-name": [pod], "authentication.kubernetes.io/pod-uid": [uid]}
    user = {"username": f"system:serviceaccount:{namespace}:default", "extra": extra}
    return {"authenticated": True, "audiences": [AUDIENCE], "user": user} | changes


@dataclass
class Rig:
    """A channel that serves."""

    api: TokenApi
    cache: Cache
    saves: TargetedSaves
    hub: Hub
    channel: Channel
    certificate: Certificate
    port: int = 0
    woken: list[ObjectKey] = field(default_factory=list)
    agents: list["FakeAgent"] = field(default_factory=list)

    def trusting(self) -> ssl.SSLContext:
        """Return the TLS of a client that trusts the channel."""
        return ssl.create_default_context(cadata=self.certificate.pem)

    def agent(self, bearer: str) -> "FakeAgent":
        """Return an agent that has a token."""
        self.agents.append(FakeAgent(self.port, self.trusting(), bearer))
        return self.agents[-1]


@asynccontextmanager
async def serving(api: TokenApi | None = None, **limits: Any) -> AsyncIterator[Rig]:
    """Serve a channel on a free port."""
    api = api or TokenApi()
    woken: list[ObjectKey] = []
    cache = Cache()
    saves = TargetedSaves(cache)
    runs = SeriesRuns(woken.append)
    hub = Hub(saves, AdoptingSeries(cache, runs), woken.append)
    channel = Channel(Callers(api), hub, evictions=Evictions(api))
    certificate = Certificate.make(["127.0.0.1", "localhost"])
    async with channel.serving(certificate, 0, "127.0.0.1", **limits) as port:
        rig = Rig(api, cache, saves, hub, channel, certificate, port, woken)
        try:
            yield rig
        finally:
            for each in rig.agents:
                await each.close()
            hub.close()


@dataclass
class Answer:
    """What the channel answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def orders(self) -> AgentOrders:
        """The orders of a good answer."""
        assert self.status == 200, (self.status, self.body)
        return AgentOrders.decode(self.body)

    @property
    def line(self) -> str:
        """The line of a refusal."""
        text = self.body.decode()
        assert text.endswith("\n"), text
        assert text.count("\n") == 1, text
        return text[:-1]


class FakeAgent:
    """A client that posts on one connection, and makes another one where that is closed."""

    def __init__(self, port: int, tls: ssl.SSLContext, bearer: str) -> None:
        self.port, self.tls, self.bearer = port, tls, bearer
        self.connected: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def post(self, state: AgentState | bytes, headers: dict[str, str] | None = None) -> Answer:
        """Post, and return the answer."""
        body = state if isinstance(state, bytes) else state.encode()
        return await self.post_to(TRAINING_PATH, body, {"Authorization": f"Bearer {self.bearer}", **(headers or {})})

    async def post_to(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> Answer:
        """Post to a path, and return the answer."""
        given = {"Host": "localhost", "Content-Length": str(len(body)), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        return await self.send(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body)

    async def send(self, raw: bytes) -> Answer:
        """Send what is given, and return the answer."""
        if self.connected is None:
            self.connected = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls)
        reader, writer = self.connected
        writer.write(raw)
        # What is refused before it has all come is answered while it is still being sent.
        with suppress(ConnectionError):
            await writer.drain()
        answer = await answer_of(reader)
        if answer.headers.get("connection") == "close":
            await self.close()
        return answer

    async def close(self) -> None:
        """Close the connection."""
        if self.connected is not None:
            writer = self.connected[1]
            self.connected = None
            writer.transport.abort()
            await asyncio.sleep(0)


async def answer_of(reader: asyncio.StreamReader) -> Answer:
    """Read one answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(head[0].split()[1]), headers, body)


def run(test: Callable[[Rig], Awaitable[None]], **limits: Any) -> None:
    async def go() -> None:
        async with asyncio.timeout(30), serving(**limits) as rig:
            await test(rig)

    asyncio.run(go())


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(IN_TIME):
        while not true():  # noqa: ASYNC110 - what is looked at tells of no event
            await asyncio.sleep(0.01)


def targeted(name: str = "save", group: str = "g1", *, version: int = 1, **status: Any) -> dict[str, Any]:
    """Return a Checkpoint that asks the training in Job `train`, as it stands in the cluster."""
    body: dict[str, Any] = {"runId": "", "phase": "Running", "target": {"group": group, "podUid": "uid-rank0"}}
    metadata = {
        "name": name,
        "namespace": "team",
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
        "generation": version,
        "creationTimestamp": "2026-11-26T20:00:00Z",
    }
    spec = {"operation": "Save", "target": {"kind": "Job", "name": "train"}}
    return {"metadata": metadata, "spec": spec, "status": body | status}


def put(rig: Rig, body: dict[str, Any]) -> None:
    """Have the watch bring a Checkpoint."""
    key = rig.cache.put(CHECKPOINTS, body)
    assert key is not None
    rig.saves.note(key, body)

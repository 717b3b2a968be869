"""The channel of operator processes before a real API server: tokens that it reviews, replicas, and their ends.

etcd and kube-apiserver are real, and the tokens are those of pods. Nothing runs in the pods: the test is the agent.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import pytest

from benchmarks.bench_channel import Api, administrator, pod_token
from channel_rig import STATE, FakeAgent
from dcp_contract.training import CHANNEL_CONFIG_MAP, EndedSave
from dcp_operator.kube.client.api import CONFIG_MAPS, PODS, ApiError
from e2e.kube import Kube, api_alone
from e2e.operator_process import OperatorProcess
from free_ports import free_port

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(300)]
IN_TIME = 60.0


@pytest.fixture(scope="module")
def kube() -> Iterator[Kube]:
    with api_alone() as kube:
        yield kube


def replica(kube: Kube, log: Path, *options: str) -> tuple[OperatorProcess, int]:
    port = free_port()
    url = "https://127.0.0.1:8443"
    return OperatorProcess(kube.kubeconfig, log, ("--channel-port", str(port), "--channel-url", url, *options)), port


@asynccontextmanager
async def connected(kube: Kube) -> AsyncIterator[Api]:
    api = await administrator(kube)
    try:
        yield api
    finally:
        await api.close()


async def until(true: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(IN_TIME):
        while not await true():  # noqa: ASYNC110 - what is looked at tells of no event
            await asyncio.sleep(0.2)


async def status_of(api: Api, port: int, bearer: str) -> int:
    """Return what an agent is answered that has the certificates of now; 0 where it could not connect."""
    try:
        published = await api.get(CONFIG_MAPS, "default", CHANNEL_CONFIG_MAP)
        tls = ssl.create_default_context(cadata=published["data"]["ca.crt"])
        async with FakeAgent(port, tls, bearer) as agent:
            return (await agent.post(STATE)).status
    except (ApiError, OSError):
        return 0


async def trusting(api: Api, port: int, bearer: str, status: int) -> ssl.SSLContext:
    """Wait until an agent is answered so, and return the TLS of a client that trusts all replicas."""

    async def answered() -> bool:
        return await status_of(api, port, bearer) == status

    await until(answered)
    published = await api.get(CONFIG_MAPS, "default", CHANNEL_CONFIG_MAP)
    return ssl.create_default_context(cadata=published["data"]["ca.crt"])


@pytest.mark.adversary
def test_only_the_token_of_a_living_pod_is_answered(kube: Kube, tmp_path: Path) -> None:
    async def test(port: int) -> None:
        async with connected(kube) as api:
            token = await pod_token(api, 1)
            tls = await trusting(api, port, token, 200)
            for bearer, status in (
                (token, 200),
                (token[:-4] + "AAAA", 401),
                (await pod_token(api, 2, audience="another"), 401),
                (await pod_token(api, 3, audience="https://kubernetes.default.svc"), 401),
            ):
                async with FakeAgent(port, tls, bearer) as agent:
                    assert (await agent.post(STATE)).status == status
            async with FakeAgent(port, tls, token) as agent:
                held = asyncio.create_task(agent.post(STATE.model_copy(update={"hold_seconds": 3})))
                await api.send("DELETE", f"{PODS.path('default', 'pod-1')}?gracePeriodSeconds=0")
                assert (await held).status == 200
                # The API server, and the operator's memory, still call the token good. A report is believed no more.
                told = STATE.model_copy(update={"ended": [EndedSave(id="x/")]})
                assert (await agent.post(told)).status in {401, 403}

    operator, port = replica(kube, tmp_path / "log", "--no-elect")
    with operator:
        operator.wait_in_service()
        asyncio.run(test(port))


def test_a_standby_sends_agents_elsewhere_and_takes_over_with_a_certificate_that_is_known(
    kube: Kube, tmp_path: Path
) -> None:
    first, first_port = replica(kube, tmp_path / "first")
    second, second_port = replica(kube, tmp_path / "second")

    async def test() -> None:
        async with connected(kube) as api:
            bearer = await pod_token(api, 10)
            tls = await trusting(api, second_port, bearer, 503)
            async with FakeAgent(first_port, tls, bearer) as agent:
                assert (await agent.post(STATE)).status == 200
                # A held answer does not keep the operator from ending in good order.
                held = asyncio.create_task(agent.post(STATE.model_copy(update={"hold_seconds": 25})))
                await asyncio.sleep(0.5)
                began = time.monotonic()
                assert await asyncio.to_thread(first.terminate) == 0
                assert time.monotonic() - began < 10
                await asyncio.gather(held, return_exceptions=True)

            # By the certificates that it had before.
            async def taken_over() -> bool:
                async with FakeAgent(second_port, tls, bearer) as again:
                    return (await again.post(STATE)).status == HTTPStatus.OK

            await until(taken_over)

    with first:
        first.wait_in_service()
        with second:
            asyncio.run(test())

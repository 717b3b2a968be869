"""A thousand agents on the operator's channel, against a real API server: `make bench-channel`.

etcd and kube-apiserver run on this machine. Each agent is a connection with the real token of a pod of its own, which
the API server reviews; it posts and is held as an idle training is. Prints a table and writes bench-channel.json.

idle      memory and processor of the operator without agents
connect   how long until all are connected and have been answered once
held      memory that they cost, and the share of a core that the operator takes, over some minutes
request   from `kubectl apply` of a targeted Save to the request at its agent, beside all the others
flood     connections beyond the limits at once: what the operator's memory comes to, and how long a good agent waits
"""

import argparse
import asyncio
import json
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.kube_config import load_kube_config

from channel_rig import STATE, Answer, FakeAgent
from dcp_contract.training import AUDIENCE, CHANNEL_CONFIG_MAP
from dcp_operator.kube.client.api import CONFIG_MAPS, PODS, ApiRequest
from dcp_operator.kube.client.cluster import Cluster
from e2e.kube import Kube, api_alone
from e2e.operator_process import OperatorProcess
from free_ports import free_port

MEBI = 1 << 20
AT_ONCE = 16
SECONDS = 250.0
"""Ten answers of an agent, and two reviews of its token: fewer would count a review too many or too few."""
PER_SOURCE = 50
"""Agents of one address: the operator takes 64."""
LABELS = {"batch.kubernetes.io/job-name": "train"}


class Api(Cluster):
    """The API server, as the administrator."""

    async def send(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request."""
        return await self._json(ApiRequest(method, PODS, path, body))


async def administrator(kube: Kube) -> Api:
    """Return a connection as the administrator."""
    configuration = Configuration()
    await load_kube_config(  # type: ignore[no-untyped-call]
        config_file=str(kube.kubeconfig), client_configuration=configuration
    )
    return Api(ApiClient(configuration))


async def pod_token(api: Api, number: int, audience: str = AUDIENCE) -> str:
    """Have a pod be there, and return its token."""
    name = f"pod-{number}"
    labels = LABELS if number == 0 else {}
    container = {"name": "train", "image": "train"}
    pod = {"metadata": {"name": name, "labels": labels}, "spec": {"containers": [container]}}
    made = await api.send("POST", PODS.path("default"), {"apiVersion": "v1", "kind": "Pod", **pod})
    running = {"status": {"phase": "Running"}, "metadata": {"name": name}, "apiVersion": "v1", "kind": "Pod"}
    await api.send("PUT", PODS.path("default", name, "status"), {**made, **running, "metadata": made["metadata"]})
    bound = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": made["metadata"]["uid"]}
    asked: dict[str, Any] = {"spec": {"audiences": [audience], "expirationSeconds": 3600, "boundObjectRef": bound}}
    asked |= {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
    answer = await api.send("POST", "/api/v1/namespaces/default/serviceaccounts/default/token", asked)
    return str(answer["status"]["token"])


class Held(FakeAgent):
    """An agent that is held, again and again."""

    def __init__(self, port: int, tls: ssl.SSLContext, bearer: str, number: int) -> None:
        super().__init__(port, tls, bearer)
        self.state = STATE.model_copy(update={"group": f"group-{number}"})
        self.source = f"127.0.{1 + number // PER_SOURCE}.1"
        self.first = asyncio.Event()
        self.asked: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Post for ever."""
        while True:
            try:
                answer = await self.next()
            except (OSError, asyncio.IncompleteReadError):
                # As a real agent: a handshake that takes too long on a busy machine is broken off.
                await self.close()
                await asyncio.sleep(1)
                continue
            if answer.status != 200:
                await asyncio.sleep(1)
                continue
            self.first.set()
            if answer.orders.requests and not self.asked.done():
                self.asked.set_result(time.monotonic())
                await asyncio.sleep(30)

    async def next(self) -> Answer:
        """Post once; the first answer comes at once."""
        if self.connected is None:
            self.connected = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=self.tls, local_addr=(self.source, 0), limit=1 << 14
            )
        hold = 25.0 if self.first.is_set() else 0.0
        return await self.post(self.state.model_copy(update={"hold_seconds": hold}))


def measured(operator: OperatorProcess, cpu: float, began: float) -> dict[str, float]:
    """Return the memory, and the share of a core since then."""
    share = (operator.cpu() - cpu) / (time.monotonic() - began)
    return {"resident_MiB": operator.resident() / MEBI, "cpu_share": share}


async def flood(port: int, count: int, agent: FakeAgent, operator: OperatorProcess) -> dict[str, float]:
    """Open connections that never say anything, from many addresses, while a good agent posts."""
    opened: list[asyncio.StreamWriter] = []
    waits: list[float] = []
    closed = 0

    async def some(numbers: Iterable[int]) -> None:
        nonlocal closed
        for number in numbers:
            try:
                _, writer = await asyncio.open_connection(
                    "127.0.0.1", port, local_addr=(f"127.1.{number % 200}.{1 + number // 200 % 200}", 0), limit=1 << 12
                )
            except OSError:
                closed += 1
            else:
                opened.append(writer)

    cpu, began = operator.cpu(), time.monotonic()
    flooding = asyncio.gather(*(some(range(first, count, AT_ONCE)) for first in range(AT_ONCE)))
    while not flooding.done() or len(waits) < 5:
        start = time.monotonic()
        await agent.post(STATE.model_copy(update={"group": "group-0", "hold_seconds": 0}))
        waits.append(time.monotonic() - start)
        await asyncio.sleep(0.6)
    await flooding
    found = measured(operator, cpu, began)
    for writer in opened:
        writer.transport.abort()
    counted = {"refused": operator.counter("dcp_channel_refusals_total", status="connection")}
    return (
        {"connections": count, "longest_wait_s": max(waits), "median_wait_s": statistics.median(waits)}
        | found
        | counted
    )


async def bench(kube: Kube, operator: OperatorProcess, port: int, agents: int, seconds: float) -> dict[str, Any]:
    """Return all rows."""
    api = await administrator(kube)
    rows: dict[str, Any] = {}
    try:
        cpu, began = operator.cpu(), time.monotonic()
        await asyncio.sleep(min(20.0, seconds))
        rows["idle"] = measured(operator, cpu, began)
        numbers = iter(range(agents))
        tokens: dict[int, str] = {}

        async def make() -> None:
            for number in numbers:
                tokens[number] = await pod_token(api, number)

        await asyncio.gather(*(make() for _ in range(AT_ONCE)))
        pem = (await api.get(CONFIG_MAPS, "default", CHANNEL_CONFIG_MAP))["data"]["ca.crt"]
        tls = ssl.create_default_context(cadata=pem)
        held = [Held(port, tls, tokens[number], number) for number in range(agents)]
        cpu, began = operator.cpu(), time.monotonic()
        tasks = [asyncio.create_task(each.run()) for each in held]
        await asyncio.gather(*(each.first.wait() for each in held))
        rows["connect"] = {"agents": agents, "seconds": time.monotonic() - began} | measured(operator, cpu, began)
        await asyncio.sleep(5)
        cpu, began = operator.cpu(), time.monotonic()
        await asyncio.sleep(seconds)
        rows["held"] = {"agents": agents, "seconds": seconds} | measured(operator, cpu, began)
        rows["held"]["cost_MiB"] = rows["held"]["resident_MiB"] - rows["idle"]["resident_MiB"]
        spec = {"operation": "Save", "target": {"kind": "Job", "name": "train"}}
        applied = {"apiVersion": "dcp-operator.io/v1alpha1", "kind": "Checkpoint", "metadata": {"name": "save"}}
        began = time.monotonic()
        await api.send(
            "POST", "/apis/dcp-operator.io/v1alpha1/namespaces/default/checkpoints", applied | {"spec": spec}
        )
        async with asyncio.timeout(60):
            rows["request"] = {"seconds": await held[0].asked - began}
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        good = Held(port, tls, tokens[0], 0)
        await good.post(good.state.model_copy(update={"hold_seconds": 0}))
        rows["flood"] = await flood(port, 10 * agents, good, operator)
        await good.close()
        for one in held:
            await one.close()
        rows["peak_MiB"] = operator.peak() / MEBI
    finally:
        await api.close()
    return rows


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--output", type=Path, default=Path("bench-channel.json"))
    options = parser.parse_args()
    with api_alone() as kube, tempfile.TemporaryDirectory() as folder:
        port = free_port()
        url = f"https://127.0.0.1:{port}"
        arguments = ("--no-elect", "--channel-port", str(port), "--channel-url", url)
        with OperatorProcess(kube.kubeconfig, Path(folder) / "log", arguments) as operator:
            operator.wait_in_service()
            rows = asyncio.run(bench(kube, operator, port, options.agents, options.seconds))
            sys.stdout.write(operator.log.read_text()[-2000:])
    for name, row in rows.items():
        shown = {key: round(value, 4) for key, value in row.items()} if isinstance(row, dict) else round(row, 1)
        print(f"{name:<9} {shown}")
    options.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

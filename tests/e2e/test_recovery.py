"""The operator killed between any two API calls, and before an API server that goes away or falls silent.

etcd and kube-apiserver are real; the test plays kubelet and Job controller by writing the status of pods and Jobs.
"""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

import pytest

from benchmarks.operator_load import Client, checkpoint
from e2e.api_proxy import ApiProxy, Kill, proxy
from e2e.kube import Kube, api_alone, until
from e2e.operator_process import OperatorProcess

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def api() -> Iterator[Kube]:
    with api_alone() as kube:
        yield kube


@pytest.fixture
def between(api: Kube) -> Iterator[ApiProxy]:
    with proxy(api.kubeconfig) as made:
        yield made


@pytest.fixture
def operator(between: ApiProxy, tmp_path: Path) -> Iterator[OperatorProcess]:
    with OperatorProcess(between.kubeconfig(tmp_path / "kubeconfig"), tmp_path / "operator.log") as process:
        yield process
        if not process.running():
            print(process.log.read_text()[-3000:])


class Kubelet:
    """Runs and ends the pods of every Job of one Checkpoint, in a thread."""

    def __init__(self, kubeconfig: Path, name: str) -> None:
        self.kubeconfig = kubeconfig
        self.name = name
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            asyncio.run(self._play())
        except BaseException as error:
            self.failure = error

    async def _play(self) -> None:
        pods: dict[str, list[Any]] = {}
        done: set[str] = set()
        async with Client.connect(self.kubeconfig) as client:
            while not self.stop.is_set():
                for job in await client.every("batch/v1", "jobs", "default"):
                    name = job["metadata"]["name"]
                    if job["metadata"]["labels"]["dcp-operator.io/checkpoint"] != self.name or name in done:
                        continue
                    if name not in pods:
                        pods[name] = await client.start_pods(job)
                    elif await self._running(client):
                        for pod in pods[name]:
                            await client.finish_pod(pod)
                        await client.finish_job(job)
                        done.add(name)
                await asyncio.sleep(0.1)

    async def _running(self, client: Client) -> bool:
        found = await client.every("dcp-operator.io/v1alpha1", "checkpoints", "default")
        return any(
            each["metadata"]["name"] == self.name and each.get("status", {}).get("phase") == "Running" for each in found
        )


@pytest.mark.alone
@pytest.mark.slow("the operator starts anew after each of a dozen writes")
@pytest.mark.parametrize("side", ["before", "after"])
def test_killed_at_every_write_of_a_save_it_ends_the_same(
    side: Literal["before", "after"], api: Kube, between: ApiProxy, operator: OperatorProcess
) -> None:
    number = 0
    while True:
        number += 1
        name = f"killed-{side}-{number}"
        between.writes.clear()
        kill = between.kill = Kill(number, side, operator.kill)
        if not operator.running():
            operator.start()
        api.apply(checkpoint(name, "default"))
        with Kubelet(api.kubeconfig, name):
            status = ended(api, operator, kill, name)
        assert (status["phase"], status["attempts"]) == ("Succeeded", 1), (number, status)
        selector = f"dcp-operator.io/checkpoint={name}"
        counts = [len(api.every(kind, selector)) for kind in ("job", "service", "networkpolicy")]
        assert counts == [1, 1, 1], (number, counts)
        if not kill.ended():
            break
    # Service, NetworkPolicy, Job; Starting, Running, Succeeded: each was a point of death, and some events too.
    assert number > 6


def ended(api: Kube, operator: OperatorProcess, kill: Kill, name: str) -> Any:
    """Wait for the end of a Checkpoint, starting the operator again once it was killed."""

    def look() -> Any:
        if kill.ended() and not operator.running():
            operator.start()
        return api.status(name)

    return until(look, lambda status: status.get("completionTime"), name, 180)


@pytest.mark.parametrize("side", ["before", "after"])
def test_killed_at_every_write_of_a_series_it_begins_each_run_once(
    side: Literal["before", "after"], api: Kube, between: ApiProxy, operator: OperatorProcess
) -> None:
    number = 0
    while True:
        number += 1
        name = f"series-{side}-{number}"
        between.writes.clear()
        kill = between.kill = Kill(number, side, operator.kill)
        if not operator.running():
            operator.start()
        api.apply(series_of(name))
        (run,) = begun(api, operator, kill, name)
        assert len(api.every("checkpoint", f"dcp-operator.io/series={name}")) == 1
        assert len(api.every("job", f"dcp-operator.io/checkpoint={run}")) == 1
        # The status tells of that very run, and counts none as missed.
        status = api.get("checkpointseries", name)["status"]
        assert (status["active"], status.get("missed")) == ([run], None), (number, status)
        if not kill.ended():
            break
    # The run, its Job with what belongs to that, and both statuses: each was a point of death.
    assert number > 5


def series_of(name: str) -> Any:
    """Return a series of which one run is due now, and the next one in an hour."""
    # A prefix of its own: two runs of one second would wait for each other's URL.
    body = checkpoint(name, "default")["spec"]
    storage = body.pop("storage")
    spec = {"every": "1h", "immediate": True, "storage": storage, "template": {"spec": body}}
    return {
        "apiVersion": "dcp-operator.io/v1alpha1",
        "kind": "CheckpointSeries",
        "metadata": {"name": name},
        "spec": spec,
    }


def begun(api: Kube, operator: OperatorProcess, kill: Kill, name: str) -> list[str]:
    """Wait until a series says that its run is under way and the run has its Job; return its active runs."""

    def look() -> list[str]:
        if kill.ended() and not operator.running():
            operator.start()
        active: list[str] = (api.get("checkpointseries", name).get("status") or {}).get("active") or []
        return [each for each in active if api.status(each).get("phase") == "Starting"]

    found: list[str] = until(look, bool, name, 120)
    return found


@pytest.mark.slow("a minute is longer than any pause of the operator and than a watch may be silent")
def test_an_api_server_that_is_away_for_a_minute(api: Kube, between: ApiProxy, operator: OperatorProcess) -> None:
    operator.wait_in_service()
    between.away = True
    away = threading.Event()
    assert not away.wait(60)
    api.apply(checkpoint("applied-meanwhile", "default"))
    assert operator.running()
    assert operator.page("/healthz")[0] == 200
    between.away = False
    api.until_phase("applied-meanwhile", "Starting", seconds=90)


def test_watches_that_fall_silent(api: Kube, between: ApiProxy, operator: OperatorProcess) -> None:
    operator.wait_in_service()
    between.silence()
    api.apply(checkpoint("in-silence", "default"))
    api.until_phase("in-silence", "Starting", seconds=90)


@pytest.mark.slow("the audit that finds it comes once a minute")
def test_a_job_that_vanished_while_the_watch_had_a_gap(api: Kube, between: ApiProxy, operator: OperatorProcess) -> None:
    operator.wait_in_service()
    api.apply(checkpoint("gap", "default"))
    status = api.until_phase("gap", "Starting")
    between.silence()
    api("delete", "job", status["jobRef"]["name"])
    between.expire()
    # The list that follows says nothing of what is gone; the audit does.
    found = api.until_status("gap", lambda seen: seen.get("attempts") == 2, 90)
    assert found["failure"]["reason"] == "WorkerLost"

"""Two ranks that train and save by themselves, their agent, an operator and an API server, all real: a series takes it.

Only the pods are made up: the ranks run here, with the token of a pod that the API server knows. The operator is killed
while they save.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dcp_engine
from benchmarks.bench_channel import LABELS, administrator, pod_token
from cluster.processes import DIE_WITH_PARENT
from dcp_contract.training import CHANNEL_CONFIG_MAP, CHANNEL_FOLDER_ENV
from e2e.kube import Body, Kube, api_alone, until
from e2e.operator_process import OperatorProcess
from free_ports import free_port

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(300)]
PROGRAM = Path(__file__).parent / "real_training.py"
STEPS, EVERY = 300, 50
RUN = "dcp-operator.io/series=run"


@pytest.fixture(scope="module")
def kube() -> Iterator[Kube]:
    with api_alone() as kube:
        yield kube


def series(prefix: Path) -> Body:
    """Return a series that takes what the training saves, and asks for nothing."""
    template = {"spec": {"operation": "Save", "target": {"selector": {"matchLabels": LABELS}}}}
    spec = {"storage": {"url": f"file://{prefix}"}, "historyLimit": {"successful": 100}, "template": template}
    kind = {"apiVersion": "dcp-operator.io/v1alpha1", "kind": "CheckpointSeries"}
    return kind | {"metadata": {"name": "run"}, "spec": spec}


async def token(kube: Kube) -> str:
    api = await administrator(kube)
    try:
        return await pod_token(api, 0)
    finally:
        await api.close()


def train(prefix: Path, channel: Path, log: Path) -> list[subprocess.Popen[bytes]]:
    """Start two ranks."""
    given = {"PREFIX": f"file://{prefix}", "STEPS": str(STEPS), "EVERY_STEPS": str(EVERY), "WORLD_SIZE": "2"}
    given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), CHANNEL_FOLDER_ENV: str(channel)}
    ranks = []
    for rank in range(2):
        with log.with_suffix(f".{rank}").open("wb") as out:
            command, environment = [*DIE_WITH_PARENT, sys.executable, str(PROGRAM)], os.environ | given
            ranks.append(subprocess.Popen(command, env=environment | {"RANK": str(rank)}, stdout=out, stderr=out))
    return ranks


def publish(kube: Kube, folder: Path, starts: int) -> None:
    """Have what so many starts of the operator have published where a pod would have it mounted."""

    def published() -> dict[str, str]:
        there = [each for each in kube.every("configmap") if each["metadata"]["name"] == CHANNEL_CONFIG_MAP]
        return there[0]["data"] if there else {}

    found = until(published, lambda data: data.get("ca.crt", "").count("BEGIN") == starts, "the certificates", 30)
    for name, text in found.items():
        (folder / name).write_text(text)


def told(kube: Kube) -> dict[int, Body]:
    """Return the Checkpoints that kubectl lists of the series and that have succeeded, by step."""
    found = [each.get("status") or {} for each in kube.every("checkpoint", RUN)]
    return {each["checkpoint"]["step"]: each for each in found if each.get("phase") == "Succeeded"}


@pytest.mark.alone
@pytest.mark.slow("a run of two ranks, of 300 steps, and two starts of the operator")
def test_what_ranks_save_by_themselves_is_listed_also_where_the_operator_is_killed(kube: Kube, tmp_path: Path) -> None:
    folder, run = tmp_path / "channel", tmp_path / "run"
    folder.mkdir()
    port = free_port()
    options = ("--no-elect", "--channel-port", str(port), "--channel-url", f"https://127.0.0.1:{port}")
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        with OperatorProcess(kube.kubeconfig, tmp_path / "first", options) as operator:
            operator.wait_in_service()
            kube.apply(series(run))
            (folder / "token").write_text(asyncio.run(token(kube)))
            publish(kube, folder, 1)
            ranks = train(run, folder, tmp_path / "log")
            until(lambda: told(kube), lambda found: len(found) >= 1, "the first save", 150)
            operator.kill()
        saved = len(dcp_engine.list_checkpoints(run))
        until(lambda: dcp_engine.list_checkpoints(run), lambda found: len(found) > saved, "a save without it", 60)
        with OperatorProcess(kube.kubeconfig, tmp_path / "second", options) as operator:
            operator.wait_in_service()
            publish(kube, folder, 2)
            found = until(lambda: told(kube), lambda found: len(found) == STEPS // EVERY, "all saves", 90)
            assert [each.wait(60) for each in ranks] == [0, 0]
            latest = kube.get("checkpointseries", "run")["status"]["latest"]
    finally:
        for each in ranks:
            each.kill()
            each.wait()
    stored = {each.step or 0: each.save_id for each in dcp_engine.list_checkpoints(run)}
    assert {step: each["checkpoint"]["saveId"] for step, each in found.items()} == stored
    assert sorted(stored) == list(range(EVERY, STEPS + 1, EVERY))
    assert len(kube.every("checkpoint", RUN)) == len(stored)
    assert (latest["step"], latest["url"]) == (STEPS, f"file://{run}/step-{STEPS}")
    assert all(each["checkpoint"]["worldSize"] == 2 and each["blockedSeconds"] < 5 for each in found.values())

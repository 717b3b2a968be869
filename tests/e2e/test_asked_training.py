"""Two ranks that train, their agent, an operator and an API server, all real: a Checkpoint asks, and the ranks save.

Only the pods are made up: the ranks run here, with the token of a pod that the API server knows. The losses of the run
that is asked are those of a run that is not, to the last bit.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.bench_channel import LABELS, administrator, pod_token
from cluster.processes import DIE_WITH_PARENT
from dcp_contract.training import CHANNEL_CONFIG_MAP, CHANNEL_FOLDER_ENV
from e2e.kube import Body, Kube, api_alone, until
from e2e.objects import checkpoint
from e2e.operator_process import OperatorProcess
from free_ports import free_port

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(300)]
PROGRAM = Path(__file__).parent / "real_training.py"
STEPS = 300
TARGET: Body = {"operation": "Save", "target": {"selector": {"matchLabels": LABELS}}}


@pytest.fixture(scope="module")
def kube() -> Iterator[Kube]:
    with api_alone() as kube:
        yield kube


def train(prefix: Path, channel: Path | None, log: Path) -> list[subprocess.Popen[bytes]]:
    """Start two ranks."""
    given = {"PREFIX": f"file://{prefix}", "STEPS": str(STEPS), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    given |= {"MASTER_PORT": str(free_port()), CHANNEL_FOLDER_ENV: str(channel or prefix / "none")}
    ranks = []
    for rank in range(2):
        with log.with_suffix(f".{rank}").open("wb") as out:
            command = [*DIE_WITH_PARENT, sys.executable, str(PROGRAM)]
            environment = os.environ | given | {"RANK": str(rank)}
            ranks.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
    return ranks


def losses(log: Path) -> dict[int, str]:
    lines = log.with_suffix(".0").read_text().splitlines()
    return {each["step"]: each["loss"] for each in (json.loads(line) for line in lines if line.startswith('{"step"'))}


async def token(kube: Kube) -> str:
    api = await administrator(kube)
    try:
        return await pod_token(api, 0)
    finally:
        await api.close()


@pytest.mark.slow("two runs of two ranks, each of 300 steps")
def test_ranks_that_train_save_where_they_are_asked_to_and_their_losses_stay_the_same(
    kube: Kube, tmp_path: Path
) -> None:
    folder, port = tmp_path / "channel", free_port()
    folder.mkdir()
    url = f"https://127.0.0.1:{port}"
    with OperatorProcess(
        kube.kubeconfig, tmp_path / "operator", ("--no-elect", "--channel-port", str(port), "--channel-url", url)
    ) as operator:
        operator.wait_in_service()
        (folder / "token").write_text(asyncio.run(token(kube)))
        kube.apply(checkpoint("save", TARGET))
        kube.until_status("save", lambda status: status.get("reason") == "TargetNotListening")
        published = until(lambda: kube.every("configmap"), lambda found: CHANNEL_CONFIG_MAP in str(found), "it", 30)
        data = next(each["data"] for each in published if each["metadata"]["name"] == CHANNEL_CONFIG_MAP)
        for name, text in data.items():
            (folder / name).write_text(text)
        asked = train(tmp_path / "run", folder, tmp_path / "asked")
        plain = train(tmp_path / "plain", None, tmp_path / "plain-log")
        try:
            first = kube.until_phase("save", "Succeeded", seconds=120)
            inside, outside = (f"file://{tmp_path}/{name}" for name in ("run/mine", "elsewhere"))
            saves = (("mine", inside), ("no", outside))
            kube.apply(*(checkpoint(name, {**TARGET, "storage": {"url": at}}) for name, at in saves))
            second = kube.until_phase("mine", "Succeeded", seconds=60)
            refused = kube.until_phase("no", "Failed", seconds=60)
            assert [each.wait(120) for each in (*asked, *plain)] == [0] * 4
        finally:
            for each in (*asked, *plain):
                each.kill()
                each.wait()
    step = first["checkpoint"]["step"]
    assert first["checkpoint"]["url"] == f"file://{tmp_path}/run/step-{step}"
    assert (first["checkpoint"]["worldSize"], first["ranks"], first["target"]["pod"]) == (2, "2", "pod-0")
    assert first["checkpoint"]["origin"]["name"] == "save"
    assert 0 <= first["blockedSeconds"] < 5
    assert (tmp_path / f"run/step-{step}/.metadata").exists()
    assert (second["checkpoint"]["url"], (tmp_path / "run/mine/.metadata").exists()) == (inside, True)
    assert (refused["reason"], (tmp_path / "elsewhere").exists()) == ("TargetRefused", False)
    found = losses(tmp_path / "asked")
    assert found == losses(tmp_path / "plain-log")
    assert [*found] == list(range(1, STEPS + 1))

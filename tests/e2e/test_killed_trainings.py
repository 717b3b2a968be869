"""Ranks that train, an operator and an API server, all real, and `kill -9` at each point of a request for a save.

The test plays Job controller and kubelet: it starts the ranks again once all have ended, and brings the channel's
ConfigMap. What `test_agent_kill.py` and `test_targeted_saves.py` show of one side is shown here of both.
"""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

import dcp_engine
from cluster.processes import DIE_WITH_PARENT
from dcp_contract.training import CHANNEL_CONFIG_MAP, CHANNEL_FOLDER_ENV
from e2e.kube import Body, Kube, until
from e2e.objects import checkpoint
from e2e.operator_process import OperatorProcess
from e2e.test_asked_training import PROGRAM, TARGET, token
from e2e.test_asked_training import kube as kube  # noqa: PLC0414 - a fixture
from free_ports import free_port

pytestmark = [pytest.mark.tier("e2e_long"), pytest.mark.timeout(900)]

POINTS: Final[dict[str, Callable[[Body], object]]] = {
    "applied": lambda _: True,
    "given to the ranks": lambda status: status.get("target"),
    "agreed on a step": lambda status: status.get("phase") in {"Running", "Succeeded", "Failed"},
    "ended": lambda status: status.get("completionTime"),
}
"""When to kill, each seen in the status; the last ones may be the same where a save is quick."""
VICTIMS: Final = ("first", "last", "operator")
LIKE_OTHERS: Final = {("last", "applied"), ("last", "ended")}
"""The last rank neither hears of a request nor tells of its end."""


@dataclass
class Job:
    """The ranks, started again whenever they have ended."""

    folder: Path
    channel: Path
    ranks: list[subprocess.Popen[bytes]] = field(default_factory=list)
    starts: int = 0

    def start(self, steps: int = 1_000_000, **more: str) -> None:
        """Start both ranks."""
        self.starts += 1
        given = {"PREFIX": f"file://{self.folder}/run", "STEPS": str(steps), "WORLD_SIZE": "2"}
        given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), CHANNEL_FOLDER_ENV: str(self.channel)}
        self.ranks = []
        for rank in range(2):
            with (self.folder / f"log-{self.starts}.{rank}").open("wb") as out:
                command = [*DIE_WITH_PARENT, sys.executable, str(PROGRAM)]
                environment = os.environ | given | more | {"RANK": str(rank)}
                self.ranks.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))

    def until_it_trains(self) -> None:
        """Wait for the first step: a rank that still joins waits half an hour for a peer that is gone."""
        log = self.folder / f"log-{self.starts}.0"
        until(log.read_text, lambda text: '{"step"' in text, "a step", 60)

    def wait(self) -> list[int]:
        """Wait until no rank is left, as a Job does before it starts others; return the exit codes."""
        return [each.wait(90) for each in self.ranks]

    def kill(self) -> None:
        """End what is left."""
        for each in self.ranks:
            each.kill()
            each.wait()

    def losses(self) -> dict[int, set[str]]:
        """Return the losses that each step has had in all runs."""
        found: dict[int, set[str]] = {}
        for log in self.folder.glob("log-*.0"):
            # A rank that is killed may leave a part of a line.
            for line in log.read_text().splitlines():
                if line.startswith('{"step"') and line.endswith("}"):
                    said = json.loads(line)
                    found.setdefault(said["step"], set()).add(said["loss"])
        return found


@contextmanager
def kubelet(kube: Kube, folder: Path) -> Iterator[None]:
    """Bring the channel's ConfigMap to the ranks whenever an operator has changed it."""
    ended = threading.Event()

    def bring() -> None:
        while not ended.wait(0.2):
            for each in kube.every("configmap"):
                if each["metadata"]["name"] == CHANNEL_CONFIG_MAP:
                    for name, text in each["data"].items():
                        (folder / f"{name}.new").write_text(text)
                        (folder / f"{name}.new").rename(folder / name)

    thread = threading.Thread(target=bring)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_whatever_is_killed_each_request_ends_and_nothing_is_saved_twice(kube: Kube, tmp_path: Path) -> None:
    folder, port = tmp_path / "channel", free_port()
    folder.mkdir()
    options = ("--no-elect", "--channel-port", str(port), "--channel-url", f"https://127.0.0.1:{port}")
    job = Job(tmp_path, folder)
    with OperatorProcess(kube.kubeconfig, tmp_path / "operator", options) as operator, kubelet(kube, folder):
        operator.wait_in_service()
        (folder / "token").write_text(asyncio.run(token(kube)))
        job.start()
        try:
            ends = [
                killed(kube, operator, job, f"{number}-{victim}", victim, POINTS[point])
                for number, (victim, point) in enumerate(itertools.product(VICTIMS, POINTS))
                if (victim, point) not in LIKE_OTHERS
            ]
            job.until_it_trains()
            for each in job.ranks:
                each.send_signal(signal.SIGTERM)
            assert set(job.wait()) == {143}
            last = max(job.losses())
        finally:
            job.kill()
    assert {end["reason"] for end in ends} <= {"Saved", "TargetEnded"}
    # What ended well is there, whole, and was saved for that Checkpoint alone.
    infos = dcp_engine.list_checkpoints(tmp_path / "run")
    saved = {
        f"step-{each['checkpoint']['step']}": each["checkpoint"]["saveId"] for each in ends if each["reason"] == "Saved"
    }
    assert saved.items() <= {f"step-{info.step}": info.save_id for info in infos}.items()
    for info in infos:
        dcp_engine.verify(info.url)
    asked = [info.origin.uid for info in infos if info.origin is not None and info.origin.uid]
    assert len(asked) == len(set(asked))
    # The last of a run that was killed at each point is the training that was never killed.
    assert all(len(found) == 1 for found in job.losses().values())
    plain = Job(tmp_path / "plain", folder / "none")
    (tmp_path / "plain").mkdir()
    plain.start(steps=last, STEP_SECONDS="0")
    assert plain.wait() == [0, 0]
    assert {step: job.losses()[step] for step in range(1, last + 1)} == plain.losses()


def killed(
    kube: Kube, operator: OperatorProcess, job: Job, name: str, victim: str, point: Callable[[Body], object]
) -> Any:
    """Ask for a save, kill at a point, have what was killed start again; return the status at the end."""
    job.until_it_trains()
    kube.apply(checkpoint(name, TARGET))
    kube.until_status(name, point, 60)
    if victim == "operator":
        operator.kill()
        operator.start()
    else:
        job.ranks[0 if victim == "first" else -1].kill()
        assert 0 not in job.wait()
        job.start()
    return kube.until_status(name, lambda status: status.get("completionTime"), 90)

"""The agent outside a test's ranks: under torchrun, in one process without a group, and with options that are wrong."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import dcp_engine
from dcp_agent import STOPPED_EXIT_CODE, Agent
from dcp_engine.errors import InvalidOption
from free_ports import free_port
from rank_group import in_own_processes, run_ranks, values
from test_agent import committed

pytestmark = pytest.mark.tier("ranks")

PROGRAM = """
import os, signal, sys
import torch, torch.distributed as dist
from dcp_agent import Agent
dist.init_process_group("gloo")
weights = torch.zeros(4)
with Agent(lambda: {"weights": weights}, sys.argv[1]) as agent:
    for step in range(agent.resume(), 40):
        gradient = torch.ones(4)
        dist.all_reduce(gradient)
        weights += gradient
        if step == 20 and dist.get_rank() == 1 and "stop" in sys.argv:
            os.kill(os.getpid(), signal.SIGTERM)
        agent.step(step + 1)
dist.destroy_process_group()
sys.stdout.write(f"{float(weights[0])}\\n")
"""


def test_torchruns_own_store_will_do(tmp_path: Path) -> None:
    """Under torchrun the store is held by torchrun, and no rank's end takes it away."""
    program = tmp_path / "train.py"
    program.write_text(PROGRAM)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    stopped = subprocess.run(
        [*torchrun, str(tmp_path / "run"), "stop"], capture_output=True, text=True, check=False, timeout=120
    )
    assert stopped.returncode != 0
    assert f"exitcode  : {STOPPED_EXIT_CODE}" in stopped.stderr
    [step] = committed(tmp_path / "run")
    assert 21 <= step < 40
    resumed = subprocess.run(
        [*torchrun, str(tmp_path / "run")], capture_output=True, text=True, check=False, timeout=120
    )
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.split() == ["80.0", "80.0"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"every_steps": 0}, "every_steps"),
        ({"wait": -1.0}, "wait"),
        ({"every": timedelta(0)}, "every"),
        ({"state": 5}, "state"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_option_is_named(tmp_path: Path, options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidOption, match=f"^{named}: "):
        Agent(options.pop("state", dict), tmp_path, signals=False, **options)


def test_one_process_without_a_group_saves_in_time(tmp_path: Path) -> None:
    weights = torch.zeros(2)
    agent = Agent({"weights": weights}, tmp_path, every=timedelta(seconds=0.2), signals=False)
    step = agent.resume()
    while len(committed(tmp_path)) < 3:
        weights += 1
        step += 1
        time.sleep(0.01)
        agent.step(step)
    last = agent.close()
    assert last
    assert last.step == step
    again = torch.zeros(2)
    assert Agent({"weights": again}, tmp_path, signals=False).resume() == step
    assert torch.equal(again, weights)


@pytest.mark.parametrize(("grace", "warns"), [("0.000001", True), ("3600", False), ("", False), ("soon", False)])
def test_a_grace_that_is_too_short_for_a_save_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, grace: str, *, warns: bool
) -> None:
    monkeypatch.setenv("DCP_GRACE_SECONDS", grace)
    with Agent({"weights": torch.zeros(2)}, tmp_path, every_steps=1, signals=False) as agent:
        for step in (1, 2):
            agent.step(step)
    told = [each for each in caplog.messages if "terminationGracePeriodSeconds" in each]
    assert len(told) == int(warns)


def test_a_poll_before_the_first_step_does_not_wait(tmp_path: Path) -> None:
    """As in an evaluation of what was resumed: no rank listens yet, so nobody would end the wait."""
    agent = Agent({"weights": torch.zeros(2)}, tmp_path, signals=False)
    agent.save_now()
    polling = threading.Thread(target=agent.poll, daemon=True)
    polling.start()
    polling.join(10)
    assert not polling.is_alive()
    agent.step(1)
    agent.close(save=False)
    assert committed(tmp_path) == [1]


def made_too_early(rank: int, prefix: str) -> str:
    dist.destroy_process_group()
    agent = Agent({"weights": torch.zeros(2)}, prefix, signals=False)
    dist.init_process_group("gloo", init_method=f"file://{prefix}.joined", rank=rank, world_size=2)
    # A rank that ends while the other one still connects to it would fail that one.
    dist.barrier()
    with pytest.raises(InvalidOption, match=r"made for 1 ranks, and the process group has 2: make the agent after"):
        agent.step(1)
    return "refused"


def closed_too_late(_rank: int, prefix: str) -> str:
    agent = Agent({"weights": torch.zeros(2)}, prefix, signals=False)
    agent.step(1)
    dist.barrier()
    dist.destroy_process_group()
    with pytest.raises(InvalidOption, match=r"made for 2 ranks, and the process group has 1: .* close it before"):
        agent.close()
    return "refused"


@pytest.mark.parametrize("program", [made_too_early, closed_too_late])
@in_own_processes
def test_ranks_that_do_not_know_of_one_another_save_nothing(tmp_path: Path, program: Callable[..., str]) -> None:
    """Each would save by itself, and the one that is first would commit its own part as the whole."""
    assert values(run_ranks(2, program, str(tmp_path / "run"))) == ["refused"] * 2
    assert committed(tmp_path / "run") == []


def test_a_run_resumes_from_one_checkpoint_until_it_has_trained(tmp_path: Path) -> None:
    """A stack asks where it stands before it makes what is loaded; another program may save in between."""
    weights = torch.zeros(2)
    for step in (3, 9):
        dcp_engine.save({"weights": torch.full((2,), float(step))}, tmp_path / f"step-{step}", step=step, no_dist=True)
        if step == 3:
            agent = Agent({"weights": weights}, tmp_path, signals=False)
            assert agent.resume() == 3
    assert (agent.resume(), weights.tolist()) == (3, [3.0, 3.0])
    agent.step(4)
    assert (agent.resume(), weights.tolist()) == (9, [9.0, 9.0])


def test_an_agent_takes_no_answer_from_the_life_before_it(tmp_path: Path) -> None:
    """A store may outlive the process group that it joined."""
    store = dist.TCPStore("127.0.0.1", free_port(), 1, is_master=True)  # type: ignore[attr-defined] # as in the agent
    for life in ("one", "two"):
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        agent = Agent({"weights": torch.zeros(2)}, tmp_path / life, signals=False)
        step = 0
        while not committed(tmp_path / life):
            step += 1
            if step == 3:
                agent.save_now()
            time.sleep(0.01)
            agent.step(step)
        agent.close()
        assert committed(tmp_path / life)[-1] == step
        dist.destroy_process_group()

"""The adapters, each in its own stack: a training that is stopped and resumed has the losses of one that was not.

`make test-stacks` makes an environment for each stack, in which the programs beside this file run.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

import dcp_engine
from dcp_agent import STOPPED_EXIT_CODE

pytestmark = [pytest.mark.tier("stacks"), pytest.mark.timeout(700)]

HERE: Final = Path(__file__).parent
RANKS: Final = {"transformers": 2, "accelerate": 2, "lightning": 2, "torchtitan": 2}
STOP: Final = 20
"""The step at which the last rank gets SIGTERM: in the middle of an epoch, and of the run of 64 steps."""
STEPS: Final = 64


def torchrun(stack: str, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program beside this file on two ranks of a stack's environment."""
    python = Path(os.environ["STACKS"], stack, "bin/python")
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS[stack]}"]
    done = subprocess.run(
        [python, *launcher, HERE / program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"},
    )
    sys.stderr.write(done.stderr)
    return done


def train(stack: str, prefix: Path, *, stop: int = 0) -> tuple[subprocess.CompletedProcess[str], Any]:
    """Run a stack's program; return how it ended, and the loss of each step that its run has had so far."""
    losses = prefix.with_suffix(f".{stop}.json")
    done = torchrun(stack, f"train_{stack}.py", prefix, losses, str(stop))
    return done, json.loads(losses.read_text()) if losses.exists() else None


def committed(prefix: Path) -> list[int]:
    return sorted(int(each.parent.name.removeprefix("step-")) for each in prefix.glob("step-*/.metadata"))


@pytest.mark.parametrize("stack", RANKS)
def test_a_resumed_training_has_the_losses_of_a_whole_one(stack: str, tmp_path: Path) -> None:
    done, whole = train(stack, tmp_path / "whole")
    assert done.returncode == 0
    assert len(whole) == STEPS
    assert committed(tmp_path / "whole") == [STEPS]

    stopped, _ = train(stack, tmp_path / "run", stop=STOP)
    # torchrun ends a rank that is still on its way out, once another one has left.
    assert str(STOPPED_EXIT_CODE) in re.findall(r"exitcode +: (\d+)", stopped.stderr)
    [step] = committed(tmp_path / "run")
    assert STOP <= step < STEPS

    done, resumed = train(stack, tmp_path / "run")
    assert done.returncode == 0
    assert f"resumed from {tmp_path}/run/step-{step}, after {step} steps" in done.stderr
    assert resumed == whole


@pytest.mark.parametrize("stack", ["accelerate"])
def test_a_stack_that_hard_wires_stock_writers_saves_by_the_engine(stack: str, tmp_path: Path) -> None:
    done = torchrun(stack, f"hard_wired_{stack}.py", tmp_path)
    assert done.returncode == 0
    [folder] = tmp_path.iterdir()
    info = dcp_engine.find(folder)
    assert info is not None
    assert info.save_id

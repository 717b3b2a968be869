"""The program that checks the engine on a GPU, where there is none: what needs no GPU passes, and the rest is said."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dcp_engine
from gpu import checks

pytestmark = pytest.mark.tier("ranks")

PROGRAM = Path(__file__).parent / "gpu/check.py"


@pytest.mark.adversary
@pytest.mark.parametrize("name", ["values", "in-place", "convert"])
def test_what_needs_no_gpu_passes_on_the_cpu(name: str, tmp_path: Path) -> None:
    assert checks.CHECKS[name]("cpu", tmp_path)


def test_a_check_that_finds_a_fault_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcp_engine, "load", lambda *_: None)
    with pytest.raises(AssertionError, match="came back otherwise"):
        checks.CHECKS["values"]("cpu", tmp_path)


@pytest.mark.adversary
def test_the_table_says_what_was_not_run_and_where() -> None:
    command = [sys.executable, str(PROGRAM), "--device", "cpu", "contexts", "side-stream"]
    environment = os.environ | {"PYTHONPATH": str(PROGRAM.parents[2] / "worker")}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "NOTHING OF THIS RAN ON A GPU" in ended.stdout
    table = [line.split() for line in ended.stdout.partition("check ")[2].splitlines()]
    assert ["contexts", "passed"] in [line[:2] for line in table]
    assert ["side-stream", "not", "run"] in [line[:3] for line in table]
    assert "torch 2." in ended.stdout
    assert "several GPUs" in ended.stdout

"""What is installed with which extra: the engine alone stays small, and what is missing is said in one line."""

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.tier("pods")
ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
BLOCK = """
import importlib.abc, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Block())
"""
ENGINE = """
import os, tempfile, torch
from datetime import timedelta
import dcp_engine
from dcp_engine.errors import InvalidOption

place = os.path.join(tempfile.mkdtemp(), "run")
dcp_engine.save({{"model": {{"weight": torch.arange(6.0)}}, "step": 3}}, place, step=3)
found = {{"model": {{"weight": torch.zeros(6)}}, "step": 0}}
dcp_engine.load(found, place)
assert found["step"] == 3 and torch.equal(found["model"]["weight"], torch.arange(6.0))
dcp_engine.async_save(found, place + "-2").wait()
assert dcp_engine.inspect(place).step == 3
assert dcp_engine.verify(place).tensors == 1
assert dcp_engine.find(place) is not None
assert dcp_engine.clean(place, older_than=timedelta(0)) == []
try:
    dcp_engine.find("memory://run")
except InvalidOption as error:
    print(error.message)
print(sorted(name for name in sys.modules if name.partition(".")[0] in {blocked!r}))
"""
LITTLE = {"typer", "rich", "yaml", "s3fs", "fsspec", "botocore", "aiobotocore", "aiohttp", "kopf", "kubernetes"}


def ran(program: str, blocked: set[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", (BLOCK + program).format(blocked=blocked)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )


@pytest.mark.adversary
def test_the_engine_works_without_the_command_line_and_fsspec() -> None:
    done = ran(ENGINE, LITTLE)
    assert done.returncode == 0, done.stderr
    memory, loaded = done.stdout.splitlines()
    assert memory == "memory:// needs more than is installed: pip install 'dcp-operator[fsspec]'"
    assert loaded == "[]"


def test_what_lists_uploads_says_what_to_install() -> None:
    program = """
from dcp_engine.errors import InvalidOption
from dcp_engine.stores.uploads import Uploads
try:
    Uploads("s3://bucket/run", {{}})
except InvalidOption as error:
    print(error.message)
"""
    done = ran(program, {"botocore"})
    assert done.stdout == (
        "the listing of stale uploads on S3 needs more than is installed: pip install 'dcp-operator[fsspec]'\n"
    ), done.stderr


@pytest.mark.parametrize("missing", ["typer", "rich", "yaml"])
def test_the_command_line_says_what_to_install(missing: str) -> None:
    done = ran("from dcp_operator.cli.main import main\nmain()", {missing})
    assert done.returncode == 2
    assert done.stderr == f"{missing} missing; install the command line: pip install 'dcp-operator[cli]'\n"


def test_the_contract_needs_pydantic_alone() -> None:
    done = ran("import dcp_contract.task", LITTLE | {"torch", "numpy", "obstore", "awscrt", "tenacity"})
    assert done.returncode == 0, done.stderr


def test_the_packages_are_typed() -> None:
    assert "Typing :: Typed" in PROJECT["classifiers"]
    for package in PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert (ROOT / package / "py.typed").is_file()


def required(extra: str = "") -> dict[str, Requirement]:
    """Return what an extra, or the distribution without one, asks for; with what the extras that it names ask for."""
    found: dict[str, Requirement] = {}
    for text in PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]:
        each = Requirement(text)
        if each.name == "dcp-operator":
            for other in each.extras:
                found |= required(other)
        else:
            found[each.name] = each
    return found


@pytest.mark.adversary
def test_the_extras_leave_room_for_what_training_stacks_pin() -> None:
    """F 1: torchtitan and datasets cap fsspec. `make check-stacks`, a step of CI, asks a resolver about the rest."""
    assert not required().keys() & LITTLE
    for name in ("fsspec", "s3fs"):
        assert "2025.3.0" in required("worker")[name].specifier
    spec = importlib.util.spec_from_file_location("stacks", ROOT / ".ci/stacks.py")
    assert spec is not None
    assert spec.loader is not None
    stacks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stacks)
    asked = {Requirement(text).name for stack in stacks.STACKS.values() for text in stack}
    assert asked >= {"torchtitan", "accelerate", "lightning", "datasets", "transformers"}
    assert "step check-stacks" in (ROOT / ".ci/run").read_text().splitlines()

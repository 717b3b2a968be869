"""What importing a package loads: the operator stays small, and no package shadows the standard library."""

import subprocess
import sys
from pathlib import Path

import pytest

import dcp_engine

ROOT = Path(__file__).parents[1]


def loaded(statement: str) -> set[str]:
    program = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    "statement",
    [
        "import dcp_contract.task, dcp_contract.report, dcp_operator.generate.crd",
        "import dcp_operator.controllers.checkpoint.decide, dcp_operator.objects.job",
    ],
    ids=["API", "control plane"],
)
def test_the_pure_modules_load_nothing_heavy(statement: str) -> None:
    assert not loaded(statement) & {"torch", "fsspec", "s3fs", "obstore", "numpy", "kopf", "kubernetes", "aiohttp"}


def test_the_standard_librarys_operator_is_not_shadowed() -> None:
    assert "_operator" in loaded("import operator; operator.itemgetter")


def test_no_module_takes_the_place_of_a_function_of_the_same_name() -> None:
    """An import of `dcp_engine.save` would make the name `save` of the package that module."""
    modules = {path.stem for path in (ROOT / "worker/dcp_engine").iterdir()}
    assert not modules & set(dcp_engine.__all__)

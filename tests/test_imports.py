"""What packages import, and what importing one loads: the operator stays small, and a launcher loads no torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

import dcp_engine
from dcp_contract.operations import Operation

ROOT = Path(__file__).parents[1]
OURS: Final = {"dcp_agent", "dcp_contract", "dcp_engine", "dcp_operator", "dcp_worker"}
MODEL: Final = {"pydantic", "pydantic_core"}
THIRD_PARTIES: Final = {
    "dcp_agent": {"torch"},
    "dcp_agent.adapters": {"numpy", "torch"},
    "dcp_agent.adapters.accelerate": {"accelerate", "torch"},
    "dcp_agent.adapters.lightning": {"lightning", "torch"},
    "dcp_agent.adapters.torchtitan": {"torchtitan"},
    "dcp_agent.adapters.transformers": {"transformers"},
    "dcp_agent.agreement": set[str](),
    "dcp_agent.orders": {"pydantic"},
    "dcp_contract": MODEL,
    "dcp_engine": {"awscrt", "numpy", "obstore", "tenacity", "torch"},
    "dcp_engine.errors": set[str](),
    "dcp_engine.format.sandbox": set[str](),
    "dcp_engine.sandboxed": set[str](),
    "dcp_engine.stores.fsspec_store": {"fsspec"},
    "dcp_engine.stores.botocore_s3": {"botocore"},
    "dcp_engine.stores.options": {"botocore"},
    "dcp_engine.stores.uploads": {"botocore"},
    "dcp_operator": set[str](),
    "dcp_operator.__main__": {"typer"},
    "dcp_operator.api": {"pydantic"},
    "dcp_operator.api.series": {"cronsim", "pydantic"},
    "dcp_operator.cli": {"rich", "typer", "yaml"},
    "dcp_operator.generate": {"kubernetes", "prometheus_client", "pydantic", "typer", "yaml"},
    "dcp_operator.kube.channel": {"aiohttp", "cryptography"},
    "dcp_operator.kube.channel.admission_review": {"pydantic"},
    "dcp_operator.kube.client": {"aiohttp", "kubernetes", "prometheus_client", "pydantic_core"},
    "dcp_operator.kube.kopf_seam": {"aiohttp", "kopf", "kubernetes"},
    "dcp_operator.kube.process": {"aiohttp", "kubernetes"},
    "dcp_operator.local": {"rich", "yaml"},
    "dcp_worker.cli": {"rich", "typer"},
    "dcp_worker.launcher": set[str](),
    "dcp_worker.operations": {"numpy", "torch"},
    "dcp_worker.rank": {"torch"},
    "dcp_worker.rank_context": {"torch"},
    "dcp_worker.training": {"torch"},
}
"""The packages of others that a package of ours may import, anywhere in its modules. The longest name counts."""
PURE: Final = ("dcp_contract", "dcp_operator.api", "dcp_operator.controllers", "dcp_operator.objects")
WITHOUT_IO: Final = {
    *(
        "collections",
        "contextlib",
        "copy",
        "dataclasses",
        "datetime",
        "difflib",
        "enum",
        "functools",
        "hashlib",
        "heapq",
    ),
    *("importlib", "ipaddress", "itertools", "json", "math", "operator", "posixpath", "re", "types", "typing"),
    *("urllib.parse", "zoneinfo"),
}
"""Modules of the standard library for what is pure: no clock, no network, no thread. importlib reads our own files, and
zoneinfo the tables of time zones."""


def loaded(statement: str) -> set[str]:
    program = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


@cache
def imported(package: str) -> list[tuple[str, str]]:
    """Return what the modules of a package import, in functions and for types too: the module, and what it imports."""
    return list(_imports(package))


def _imports(package: str) -> Iterator[tuple[str, str]]:
    (home,) = (each for each in (ROOT / "operator", ROOT / "worker") if (each / package).is_dir())
    for path in sorted((home / package).rglob("*.py")):
        module = ".".join(path.relative_to(home).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    yield from ((module, each.name) for each in names)
                case ast.ImportFrom(module=str(name), level=0):
                    yield module, name


def within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def allowed(module: str) -> set[str]:
    known = [each for each in THIRD_PARTIES if within(module, each)]
    return THIRD_PARTIES[max(known, key=len)] if known else set()


@pytest.mark.parametrize("package", sorted(OURS))
def test_a_package_of_others_is_imported_where_the_table_says(package: str) -> None:
    others = {
        (module, top)
        for module, name in imported(package)
        if (top := name.partition(".")[0]) not in sys.stdlib_module_names | OURS
    }
    assert {(module, top) for module, top in others if top not in allowed(module)} == set()
    used = {(each, top) for module, top in others for each in THIRD_PARTIES if within(module, each)}
    stale = {(each, top) for each, tops in THIRD_PARTIES.items() for top in tops if within(each, package)} - used
    assert stale == set()


def test_what_is_pure_imports_no_io_of_the_standard_library() -> None:
    found = [
        (module, name)
        for pure in PURE
        for module, name in imported(pure.partition(".")[0])
        if within(module, pure) and name.partition(".")[0] in sys.stdlib_module_names
    ]
    assert len(found) > 100
    assert [each for each in found if not {each[1], each[1].partition(".")[0]} & WITHOUT_IO] == []


def test_a_process_that_reads_what_strangers_wrote_has_the_standard_library_alone() -> None:
    ours = {name for module, name in imported("dcp_engine") if within(module, "dcp_engine.sandboxed")}
    assert {name for name in ours if within(name, "dcp_engine") or within(name, "dcp_contract")} == set()


def test_a_launcher_loads_no_torch() -> None:
    """Nor do the operations, whose preflight it calls."""
    halves = "".join(f", dcp_worker.operations.{each.module}" for each in Operation)
    assert "torch" not in loaded(f"import dcp_worker.launcher.main, dcp_worker.rank.process{halves}")


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

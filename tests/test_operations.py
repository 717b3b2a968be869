"""An operation is its lines in the registry and two modules of its name: one is added to a copy of the packages."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from dcp_contract.environment import MASTER_PORT_ENV, TASK_ENV, TERMINATION_LOG_ENV
from dcp_contract.operations import Operation
from dcp_contract.report import Report
from dcp_operator.api.checkpoint.operations import OperationRules, rules_of
from dcp_worker.operations import half_of
from free_ports import free_port

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ("operator/dcp_operator", "worker/dcp_contract", "worker/dcp_engine", "worker/dcp_worker")
REGISTRY: Final = Path("worker/dcp_contract/operations.py")
OPERATOR_HALF: Final = Path("operator/dcp_operator/api/checkpoint/operations/noop.py")
WORKER_HALF: Final = Path("worker/dcp_worker/operations/noop.py")

REGISTERED: Final = '    NOOP = "Noop", OperationTraits(result=Reason.VERIFIED)\n'
FIELDS: Final = """class NoopFields(Wire):
    bytes: int = Field(default=7, description="How many bytes of nothing.")


"""
MEMBER: Final = '    noop: NoopFields | None = Field(default=None, description="What a Noop does. For a Noop alone.")\n'
NOOP_RULES: Final = """
from dcp_operator.api.checkpoint.cel import Rule, kept, still
from dcp_operator.api.checkpoint.operations import OperationRules


def _problems(spec, site):
    if spec.parallelism.replicate > 1:
        yield "spec.parallelism: a Noop has no replicas; drop parallelism"


RULES = OperationRules(
    problems=_problems,
    cel=(
        Rule(("spec",), "self.operation != 'Noop' || self.parallelism.replicate == 1", "a Noop has no replicas"),
        kept(("spec",), "noop"),
        still(("spec", "noop"), "bytes"),
    ),
)
"""
NOOP_HALF: Final = """
from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine.errors import CheckpointNotFound


def preflight(task):
    if "nowhere" in task.storage.url:
        raise CheckpointNotFound("there is nothing to do nothing with")


def run(rank):
    with rank.stage("doing nothing", transfers=True):
        rank.on_progress(rank.task.noop.bytes, rank.task.noop.bytes)
    return CheckpointInfo(url=rank.task.storage.url)
"""
OPERATOR_PROGRAM: Final = """
import json, sys
from datetime import UTC, datetime
from dcp_contract.reasons import Reason
from dcp_contract.report import Report
from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.problems import SpecError
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.controllers.checkpoint.decide import decide
from dcp_operator.controllers.checkpoint.attempt_outcome import outcome_of
from dcp_operator.generate.__main__ import files
from dcp_operator.generate.crd import custom_resource_definition
from scenes import at, attempt, ended, observed

def manifest(**spec):
    spec = {"operation": "Noop", "noop": {"bytes": 9}, "storage": {"url": "s3://bucket/run/step-1"}, **spec}
    return {"metadata": {"name": "noop", "uid": "u-1"}, "spec": spec}

def problems(**spec):
    try:
        parse(manifest(**spec))
    except SpecError as error:
        return error.problems
    return []

checkpoint = parse(manifest())
pages = dict((path.name, text) for path, text in files())
schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
decision = decide(checkpoint, observed(), None, at(0))
done = Report(result=Reason.VERIFIED)
print(json.dumps({
    "enum": schema["properties"]["operation"]["enum"],
    "cel": [rule["rule"] for rule in schema["x-kubernetes-validations"] if "Noop" in rule["rule"]],
    "problems": [
        *problems(workload={"entrypoint": "a:B"}),
        *problems(workers={"numNodes": 2}),
        *problems(save={"steps": 1}),
        *problems(parallelism={"strategy": "hsdp", "replicate": 2}, workers={"numNodes": 4}),
    ],
    "of a Save": problems(operation="Save", workload={"entrypoint": "a:B"}),
    "unknown": problems(noop={"byte": 1}),
    "reference": [line for line in pages["spec.md"].splitlines() if "noop" in line or "Noop" in line],
    "member": schema["properties"]["noop"]["properties"]["bytes"],
    "actions": [type(each).__name__ for each in decision.actions],
    "ended": outcome_of(attempt(ended(0, done)), checkpoint.spec.operation, at(0)).reason,
    "believed": outcome_of(attempt(ended(0, Report(result=Reason.SAVED))), checkpoint.spec.operation, at(0)).reason,
    "task": checkpoint.task(1).to_json(),
}))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the packages, and add a Noop to the copy."""
    home = tmp_path_factory.mktemp("noop")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, home / package, ignore=shutil.ignore_patterns("__pycache__"))
    (home / OPERATOR_HALF).write_text(NOOP_RULES)
    (home / WORKER_HALF).write_text(NOOP_HALF)
    known = (home / REGISTRY).read_text()
    last = re.findall(r"^    [A-Z]+ = .*OperationTraits.*\n", known, re.MULTILINE)[-1]
    known = known.replace(last, last + REGISTERED)
    known = known.replace("class OperationMembers(", f"{FIELDS}class OperationMembers(")
    known = known.replace("    verify: VerifyFields", f"{MEMBER}    verify: VerifyFields")
    (home / REGISTRY).write_text(known)
    return home


def run(home: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join([str(home / "operator"), str(home / "worker"), str(ROOT / "tests")])
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def operator_says(home: Path) -> dict[str, Any]:
    ran = run(home, "-c", OPERATOR_PROGRAM)
    assert ran.returncode == 0, ran.stderr
    says: dict[str, Any] = json.loads(ran.stdout)
    return says


def test_a_noop_is_two_new_files_and_its_lines_of_the_registry(home: Path) -> None:
    def files(root: Path) -> dict[Path, bytes]:
        found = (each for package in PACKAGES for each in (root / package).rglob("*"))
        return {each.relative_to(root): each.read_bytes() for each in found if each.suffix in {".py", ".json"}}

    before, after = files(ROOT), files(home)
    assert after.keys() - before.keys() == {OPERATOR_HALF, WORKER_HALF}
    assert [path for path, text in before.items() if after[path] != text] == [REGISTRY]


def test_the_operator_knows_the_noop(operator_says: dict[str, Any]) -> None:
    assert operator_says["enum"] == ["Save", "Load", "Verify", "Delete", "Copy", "Validate", "Export", "Clean", "Noop"]
    assert "self.operation != 'Noop' || !has(self.workload)" in operator_says["cel"]
    assert "self.operation != 'Noop' || self.parallelism.replicate == 1" in operator_says["cel"]
    assert operator_says["problems"] == [
        "spec.workload: a Noop builds no model; drop workload, or write operation: Load",
        "spec.workers: a Noop runs as one process; write numNodes: 1 and numProcPerNode: 1",
        "spec.save: is for a Save, and this is a Noop; drop it, or write operation: Save",
        "spec.workers: a Noop runs as one process; write numNodes: 1 and numProcPerNode: 1",
        "spec.parallelism: a Noop has no replicas; drop parallelism",
    ]
    assert "!has(self.noop) || self.operation == 'Noop'" in operator_says["cel"]
    assert operator_says["of a Save"] == [
        "spec.noop: is for a Noop, and this is a Save; drop it, or write operation: Noop"
    ]
    assert operator_says["unknown"] == ["spec.noop.byte: unknown field; did you mean bytes?"]
    assert operator_says["member"]["description"] == "How many bytes of nothing. Immutable."
    assert "## spec.noop" in operator_says["reference"]
    assert operator_says["actions"] == ["CreateAttempt"]
    assert operator_says["ended"] == "Verified"
    assert operator_says["believed"] == "EntrypointError"


@pytest.mark.tier("pods")
def test_a_rank_does_nothing(home: Path, operator_says: dict[str, Any], tmp_path: Path) -> None:
    report = launched(home, operator_says["task"], tmp_path)
    assert (report.result, report.bytes_moved, report.failures) == (Operation.VERIFY.traits.result, 9, [])
    assert report.checkpoint is not None
    assert report.checkpoint.url == "s3://bucket/run/step-1"


def test_the_launcher_asks_first(home: Path, operator_says: dict[str, Any], tmp_path: Path) -> None:
    task = operator_says["task"].replace("s3://bucket/run/step-1", "s3://bucket/nowhere")
    [failure] = launched(home, task, tmp_path).failures
    assert (failure.reason, failure.stage) == ("CheckpointNotFound", "preflight")


def launched(home: Path, task: str, folder: Path) -> Report:
    log = folder / "report"
    ran = run(
        home,
        "-m",
        "dcp_worker",
        **{TASK_ENV: task, TERMINATION_LOG_ENV: str(log), MASTER_PORT_ENV: str(free_port())},
    )
    report = Report.decode(log.read_text()) if log.exists() else None
    assert report is not None, ran.stderr
    return report


@pytest.mark.parametrize("operation", Operation)
def test_each_operation_has_its_halves(operation: Operation) -> None:
    assert isinstance(rules_of(operation), OperationRules)
    half = half_of(operation)
    assert callable(half.preflight)
    assert callable(half.run)


def test_nothing_but_the_halves_compares_operations() -> None:
    apart = (REGISTRY, OPERATOR_HALF.parent, WORKER_HALF.parent)
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if not any(path.is_relative_to(ROOT / each) for each in apart)
        for line in path.read_text().splitlines()
        if re.search(r"\bOperation\.[A-Z]", line)
    ]
    assert found == []

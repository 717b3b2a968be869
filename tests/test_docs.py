"""What the README and the pages below docs say is so."""

import ast
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.main import get_command

from dcp_contract.reasons import Reason
from dcp_contract.report import Report
from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.json_types import Body
from dcp_operator.api.series.parsing import parse as parse_series
from dcp_operator.api.site import CLUSTER
from dcp_operator.api.store.parsing import parse as parse_store
from dcp_operator.cli.app import app
from dcp_operator.local import table
from scenes import at, attempt, checkpoint, decided, ended, failed, manifest, running, saved

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPERATOR = (ROOT / "docs/operator.md").read_text(encoding="utf-8")
MANIFESTS = ROOT / "manifests"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


PAGES = {
    path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
CHECKPOINTS = [
    pytest.param(text, id=f"{name}-{number}")
    for name, page in PAGES.items()
    for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    if "kind: Checkpoint" in text
]


PARSERS: dict[str, Any] = {"Checkpoint": parse, "CheckpointSeries": parse_series, "CheckpointStore": parse_store}


@pytest.mark.parametrize("text", CHECKPOINTS)
def test_every_manifest_is_valid_on_a_cluster(text: str) -> None:
    body: dict[str, Any]
    for body in yaml.safe_load_all(text):
        if body["kind"] in PARSERS:
            assert PARSERS[body["kind"]](body, site=CLUSTER).name


def test_every_command_line_of_the_first_steps_is_accepted(tmp_path: Path) -> None:
    lines = [line.partition("  ")[0] for line in PAGES["local.md"].splitlines() if line.startswith("dcp ")]
    group: Any = get_command(app)
    for line in lines:
        _, name, *words = re.sub(r"\[(.*) \.\.\.\]", r"\1", line).replace("FILE", str(tmp_path)).split()
        group.commands[name].make_context(name, words)
    assert len(lines) == 14


def ended_checkpoint(name: str, operation: str, report: Report, *, seconds: int, age: timedelta) -> Body:
    """Return a Checkpoint with the status that the operator writes once its two pods have ended so."""
    changes = {"metadata.name": name, "spec.operation": operation}
    of, status = checkpoint(changes), None
    pods = ((running(0), running(1)), (ended(0, report), ended(1, report)))
    for now, there in zip((at(2), at(seconds)), pods, strict=True):
        status = decided(of=of).status if status is None else status
        status = decided(attempt(*there, of=of), of=of, status=status, now=now).status
    body = manifest({**changes, "metadata.creationTimestamp": (datetime.now(UTC) - age).isoformat()})
    return {**body, "status": status}


def test_the_table_of_kubectl_is_what_the_operator_writes(capsys: pytest.CaptureFixture[str]) -> None:
    """kubectl prints the columns of the CRD, as `dcp run` does, with headings in capitals."""
    conflict = failed(Reason.OVERWRITE_CONFLICT)
    rows = [
        ended_checkpoint("step-1000", "Save", saved(), seconds=72, age=timedelta(minutes=5, seconds=30)),
        ended_checkpoint("step-1000-again", "Save", conflict, seconds=9, age=timedelta(minutes=3, seconds=30)),
        ended_checkpoint(
            "resume", "Load", failed(Reason.STATE_MISMATCH), seconds=41, age=timedelta(minutes=1, seconds=30)
        ),
    ]
    Console(width=200).print(table.results(rows, wide=False))
    heading, *lines = capsys.readouterr().out.splitlines()
    # kubectl leaves out the seconds of a full minute.
    printed = [re.sub(r"m\d\ds *$", "m", line.rstrip()) for line in [heading.upper(), *lines]]
    for name in ("README.md", "index.md"):
        shown = PAGES[name].partition("$ kubectl get checkpoints\n")[2].partition("```")[0].splitlines()
        assert shown == printed


def test_the_readme_installs_as_the_page_about_the_operator_does() -> None:
    (there,) = (each for each in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "images:" in each)
    assert there in OPERATOR
    (build,) = (each for each in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "docker build" in each)
    assert build in OPERATOR


def test_the_first_screen_says_what_never_ran() -> None:
    first = README.splitlines()[:30]
    assert any("**Nothing has run on" in line for line in first)
    assert "$ kubectl get checkpoints" in first
    assert len(README.splitlines()) <= 145


@pytest.mark.adversary
def test_the_install_names_images_where_the_manifests_take_them() -> None:
    (overlay,) = (
        found
        for text in re.findall(r"```yaml\n(.*?)```", OPERATOR, re.DOTALL)
        if "images" in (found := yaml.safe_load(text))
    )
    base = yaml.safe_load((MANIFESTS / "operator/kustomization.yaml").read_text())
    assert overlay["images"][0]["name"] == base["images"][0]["newName"]
    assert all((ROOT / each).is_dir() for each in overlay["resources"])
    patch = yaml.safe_load(overlay["patches"][0]["patch"])
    deployment = yaml.safe_load((MANIFESTS / "operator/deployment.yaml").read_text())
    assert (patch["kind"], patch["metadata"]["name"]) == (deployment["kind"], deployment["metadata"]["name"])
    (ours,), (theirs,) = (each["spec"]["template"]["spec"]["containers"] for each in (patch, deployment))
    assert ours["name"] == theirs["name"]
    assert {each["name"] for each in ours["env"]} <= {each["name"] for each in theirs["env"]}


@pytest.mark.adversary
def test_no_manifest_names_an_image_that_somebody_else_could_publish() -> None:
    text = "\n".join(path.read_text() for path in MANIFESTS.rglob("*.yaml"))
    named = re.findall(r"[\w.-]+/dcp-(?:operator|worker|examples)\b(?!\.)", text)
    assert {each.partition("/")[0] for each in named if "." in each.partition("/")[0]} == {"registry.invalid"}


@pytest.mark.parametrize("path", sorted((MANIFESTS / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_what_an_example_has_you_type_works_on_it_alone(path: Path) -> None:
    text = path.read_text()
    named = re.findall(r"^#.*kubectl apply -f (\S+)", text, re.MULTILINE)
    assert named in ([], [path.name])
    assert len([each for each in yaml.safe_load_all(text) if each["kind"] == "Checkpoint"]) <= 1
    listed = yaml.safe_load((MANIFESTS / "examples/kustomization.yaml").read_text())["resources"]
    assert path.name in {*listed, "kustomization.yaml"}


def defined(path: Path) -> set[str]:
    """Return the names that a module defines: functions, classes, constants, and what its classes define."""

    def walk(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    yield f"{prefix}{node.name}"
                case ast.ClassDef():
                    yield f"{prefix}{node.name}"
                    yield from walk(node.body, f"{prefix}{node.name}.")
                case ast.AnnAssign(target=ast.Name(id=name)):
                    yield f"{prefix}{name}"

    return set(walk(ast.parse(path.read_text(encoding="utf-8")).body, ""))


WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_every_name_of_a_page_is_defined_where_it_says(path: Path) -> None:
    named = re.findall(r"`(dcp_\w+/[\w/]+\.py)(?::([\w.]+))?`", path.read_text(encoding="utf-8"))
    missing = []
    for file, name in named:
        there = [ROOT / each / file for each in ("operator", "worker") if (ROOT / each / file).exists()]
        if not there or (name and name not in defined(there[0])):
            missing.append(f"{file}:{name}")
    assert missing == []
    assert len(named) > 30 or path.name != "architecture.md"


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_every_folder_and_package_of_a_page_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = [each.rstrip("/") for each in re.findall(r"`(dcp_\w+(?:/\w+)+/?)`", text)]
    assert [each for each in named if not any((ROOT / base / each).is_dir() for base in ("operator", "worker"))] == []


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_every_make_command_exists(path: Path) -> None:
    named = set(re.findall(r"`make ([a-z0-9-]+)", path.read_text(encoding="utf-8")))
    assert named <= set(" ".join(re.findall(r"^([a-z0-9 -]+):", MAKEFILE, re.MULTILINE)).split())
    assert named or path.name not in {"README.md", "CONTRIBUTING.md"}


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_every_linked_file_exists(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []
    assert links or path.name in {"threats.md", "benchmarks.md"}

"""What the README says is so."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.site import CLUSTER
from dcp_operator.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPERATOR = (ROOT / "docs/operator.md").read_text(encoding="utf-8")
MANIFESTS = ROOT / "manifests"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", README, re.DOTALL))
def test_every_manifest_is_valid_on_a_cluster(text: str) -> None:
    body: dict[str, Any]
    for body in yaml.safe_load_all(text):
        assert parse(body, site=CLUSTER).name


def test_every_command_line_of_the_first_steps_is_accepted(tmp_path: Path) -> None:
    lines = [line.partition("  ")[0] for line in README.splitlines() if line.startswith("dcp ")]
    group: Any = get_command(app)
    for line in lines:
        _, name, *words = re.sub(r"\[(.*) \.\.\.\]", r"\1", line).replace("FILE", str(tmp_path)).split()
        group.commands[name].make_context(name, words)
    assert len(lines) == 6


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


WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_every_make_command_exists(path: Path) -> None:
    named = set(re.findall(r"`make ([a-z0-9-]+)", path.read_text(encoding="utf-8")))
    assert named <= set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE))
    assert named or path.name == "operator.md"


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_every_linked_file_exists(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []
    assert links or path.name in {"CONTRIBUTING.md", "threats.md"}

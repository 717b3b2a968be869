"""What is generated is what is committed, and the reference tells of all that there is to tell of."""

from pathlib import Path

import pytest

from dcp_contract.reasons import Reason
from dcp_contract.storage_options import SPEC_OPTIONS
from dcp_operator.api.checkpoint.reasons import REASONS
from dcp_operator.api.checkpoint.status import Status
from dcp_operator.controllers.checkpoint.reporting import SPEC_CHANGED, conditions
from dcp_operator.generate.__main__ import files, main
from dcp_operator.generate.reference import FOLDER
from scenes import NOW


def page(name: str) -> list[str]:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8").splitlines()


def test_what_is_committed_is_what_is_generated() -> None:
    assert main(["--check"], files()) == 0


def test_nothing_else_stands_among_what_is_generated() -> None:
    """A page that is not generated any more would stay as it is."""
    generated = {path for path, _ in files()}
    folders = {FOLDER, *(path.parent for path in generated if path.parent.name == "crds")}
    assert len(folders) == 2
    assert {path for folder in folders for path in folder.iterdir() if path.name != "kustomization.yaml"} <= generated


def test_drift_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generated = [(tmp_path / "below" / "page.md", "# A page\n")]
    assert main(["--check"], generated) == 1
    assert "out of date; run `make reference`" in capsys.readouterr().err
    assert main([], generated) == 0
    assert main(["--check"], generated) == 0


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_explained_as_the_code_explains_it(reason: Reason) -> None:
    meaning = REASONS[reason]
    retried = "yes" if meaning.retriable else "no"
    assert f"| `{reason}` | {meaning.phase} | {retried} | {meaning.doc} | {meaning.advice} |" in page("reasons")


def test_every_condition_is_explained() -> None:
    there = {each.type for each in conditions(Status(), "", (), NOW)} | {SPEC_CHANGED}
    rows = page("reasons")
    rows = rows[rows.index("## Conditions") :]
    assert {row.split("`")[1] for row in rows if row.startswith("| `")} == there


def test_every_option_has_a_row() -> None:
    named = {row.split("`")[1] for row in page("options") if row.startswith("| `")}
    assert {name for known in SPEC_OPTIONS.values() for name in known} < named


@pytest.mark.parametrize("name", ["spec", "status"])
def test_every_link_to_a_section_has_one(name: str) -> None:
    lines = page(name)
    anchors = {"".join(filter(str.isalnum, line.lower())) for line in lines if line.startswith("## ")}
    linked = {line.partition("](#")[2].partition(")")[0] for line in lines if "](#" in line}
    assert linked <= anchors
    assert linked

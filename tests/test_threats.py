"""docs/threats.md and the tests marked `adversary` name one another: what attackers try, and what goes wrong."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
THREATS = (TESTS.parent / "docs/threats.md").read_text(encoding="utf-8")
ROWS = [line for line in THREATS.splitlines() if re.match(r"\|(?! *--)", line)]
NAMED = re.findall(r"`((?:e2e/)?test_\w+\.py::test_\w+)`", "\n".join(ROWS))
REVIEWED = (
    *(f"O S1-{number}" for number in range(1, 4)),
    *(f"O S2-{number}" for number in range(1, 13)),
    *(f"O S3-{number}" for number in (*range(1, 18), 20)),
    *(f"E-{letter}" for letter in ("C1", "S1", "S2", "S3", "M1", "M2", "M3", "M4", "M5", "M6", "M8", "G1")),
    *(f"E-Minor {what}" for what in ("bodies", "folders", "LINK", "blockSize", "modes", "Ctrl-C", "PeerHung")),
    "E-API WORLD_SIZE",
    *(f"B {number}" for number in (*range(1, 19), 21, 22, 24, 28)),
    "B list 14",
    *(f"F {number}" for number in (1, 2, 3, 5, 6, 7, 8, 11, 12)),
    *(f"T {letter}" for letter in ("F1", "F2", "F3", "F4", "G1", "tests")),
    "two-way Load",
    "dcp inspect",
    "dcp validate",
    "make cluster",
    "make demo",
    "kubectl wait",
)
"""Findings, by the numbers under which the tests and the rows name them: none may lose its row."""


def _is_adversary(node: ast.expr) -> bool:
    return any(isinstance(each, ast.Attribute) and each.attr == "adversary" for each in ast.walk(node))


def _tests(path: Path) -> tuple[set[str], set[str]]:
    """Return the tests of a file, and those of them that are marked, by themselves or with their module."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    everything = any(
        isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets)
        and _is_adversary(node.value)
        for node in body
    )
    found = [
        node
        for node in body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]
    name = path.relative_to(TESTS).as_posix()
    marked = [node for node in found if everything or any(map(_is_adversary, node.decorator_list))]
    return {f"{name}::{node.name}" for node in found}, {f"{name}::{node.name}" for node in marked}


FILES = [_tests(path) for path in sorted(TESTS.rglob("test_*.py"))]
EXISTING = set().union(*(found for found, _ in FILES))
MARKED = set().union(*(marked for _, marked in FILES))


def test_every_test_that_is_named_exists() -> None:
    assert NAMED
    assert set(NAMED) - EXISTING == set()


def test_every_test_that_is_named_is_marked() -> None:
    """`pytest -m adversary` runs all that the document leans on."""
    assert set(NAMED) & EXISTING - MARKED == set()


def test_every_marked_test_stands_in_a_row() -> None:
    assert MARKED - set(NAMED) == set()


def test_a_test_stands_in_a_row_once() -> None:
    for row in ROWS:
        assert [name for name, count in Counter(re.findall(r"`(\S+::\w+)`", row)).items() if count > 1] == []


@pytest.mark.parametrize("number", REVIEWED)
def test_each_number_has_a_row_with_a_test(number: str) -> None:
    rows = [row for row in ROWS if re.search(rf"\b{number}\b(?!\d)", row.split("|")[1])]
    assert rows
    assert all("::" in row for row in rows)


def test_every_row_names_a_test() -> None:
    """A threat that nothing is shown to hold against stands in the list of what is not defended."""
    threats = [row for row in ROWS if row.count("|") == 5 and not row.startswith("| id")]
    assert threats
    assert [row for row in threats if "::" not in row] == []

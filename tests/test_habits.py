"""What holds the tree and its commits in shape: the budget, the subject of a commit, the hooks."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


budget, subject = script("budget"), script("subject")


def test_functions_files_and_names_are_counted(tmp_path: Path) -> None:
    package = tmp_path / "worker" / "dcp_engine"
    package.mkdir(parents=True)
    body = "\n".join("        x = 1" for _ in range(60))
    (package / "one.py").write_text(f"class Twice:\n    def long(self):\n{body}\n\n\ndef short():\n    return 1\n")
    (package / "two.py").write_text("class Twice:\n    class Inner:\n        pass\n" + "\n" * 348)
    assert budget.measured(tmp_path) == {
        "functions": {"worker/dcp_engine/one.py:Twice.long": 61},
        "files": {"worker/dcp_engine/two.py": 351},
        "classes": {"Twice": 2},
    }


@pytest.mark.parametrize(
    ("number", "allowed", "said"),
    [
        (61, None, ["x: 61, and the budget is 60 lines"]),
        (61, 61, []),
        (62, 61, ["x: 62, and the budget is 61"]),
        (61, 70, []),
        (None, 61, []),
    ],
)
def test_an_exception_is_a_ceiling_and_is_named_once_it_is_not_needed(
    number: int | None, allowed: int | None, said: list[str]
) -> None:
    found = {"functions": {} if number is None else {"x": number}, "files": {}, "classes": {}}
    known = {} if allowed is None else {"functions": {"x": allowed}}
    assert list(budget.complaints(found, known)) == said
    gone = ["x: is within the budget by now; take it out of .ci/budget.toml"] if number is None else []
    assert list(budget.unneeded(found, known)) == gone


@pytest.mark.parametrize(
    ("message", "well"),
    [
        ("Name the levels of a spec by their bound\n\nWhy.\n", True),
        ("Mend\n", False),
        (f"{'a' * 72}\n", True),
        (f"{'a' * 73}\n", False),
        ("Name the levels of a spec\nby their bound\n", False),
        ("fixup! Name\n", True),
        ("# a comment of git's\nName the levels of a spec\n# another\n", True),
        ("", False),
    ],
)
def test_a_subject_has_up_to_72_characters(message: str, *, well: bool) -> None:
    assert (subject.problem(message) == "") is well


CHECKS = {
    ".venv/bin/ruff check",
    ".venv/bin/ruff format --check",
    ".venv/bin/mypy",
    ".venv/bin/lint-imports",
    ".venv/bin/python -m dcp_operator.generate --check",
    ".venv/bin/codespell",
    ".venv/bin/python .ci/budget.py",
}
"""What every commit must pass, without the files that each is given."""


def test_make_check_and_the_hooks_make_each_check() -> None:
    makefile = (ROOT / "Makefile").read_text()
    _, *lines = makefile.partition("\ncheck: ")[2].partition("\n\n")[0].splitlines()
    given = [line.strip().replace("$(PYTHON)", ".venv/bin/python").removesuffix(" $(SPELT)") for line in lines]
    assert {each.removesuffix(" .") for each in given} == CHECKS
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    hooks = {hook["entry"].replace(" --force-exclude", "") for hook in repository["hooks"]}
    assert hooks == CHECKS | {".venv/bin/python .ci/subject.py"}


def test_ci_makes_each_step() -> None:
    steps = [line.partition(" ")[2] for line in (ROOT / ".ci/run").read_text().splitlines() if line.startswith("step ")]
    assert steps == ["check", "docs", "check-stacks", "test", "test-faults", "e2e"]


SUITE = (
    '<testsuites><testsuite tests="{tests}" failures="0" errors="0" skipped="{skipped}" time="{time}"/></testsuites>'
)


@pytest.mark.parametrize(
    ("suites", "said"),
    [
        ({"test": (3, 1, 60)}, None),
        ({"test": (3, 1, 60), "more": (1, 0, 9000)}, None),
        ({"test": (3, 1, 121)}, "test took 2.0 min, more than the 2 of its ceiling"),
        ({"test": (3, 3, 60)}, "of test no test passed"),
        ({"more": (3, 1, 60)}, "of test no test passed"),
        ({}, "of test no test passed"),
    ],
    ids=["within", "no ceiling", "too long", "all skipped", "no report", "nothing"],
)
def test_a_tier_has_to_run_and_to_keep_its_ceiling(
    suites: dict[str, tuple[int, int, int]], said: str | None, tmp_path: Path
) -> None:
    for name, (tests, skipped, seconds) in suites.items():
        (tmp_path / f"{name}.xml").write_text(SUITE.format(tests=tests, skipped=skipped, time=seconds))
    done = subprocess.run(
        [sys.executable, ROOT / ".ci/count.py", tmp_path, "test=2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == (0 if said is None else 1), done.stdout + done.stderr
    assert said is None or said in done.stdout.splitlines()

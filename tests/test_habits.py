"""What holds the tree and its commits in shape: the subject of a commit, the hooks."""

import importlib.util
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


subject = script("subject")


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


def test_the_hooks_are_what_make_check_does() -> None:
    makefile = (ROOT / "Makefile").read_text()
    check = makefile.partition("\ncheck: ")[2].partition("\n\n")[0].replace("$(PYTHON)", ".venv/bin/python")
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["entry"].startswith(".venv/bin/")
        if hook.get("stages") != ["commit-msg"]:
            assert " ".join(hook["entry"].replace(" --force-exclude", "").split()[:2]) in check

"""What the README says is so."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dcp_operator.checkpoint.conditions import REASONS
from dcp_operator.checkpoint.spec import CLUSTER, parse
from dcp_worker.contract import Reason

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_explained_as_the_code_explains_it(reason: Reason) -> None:
    meaning = REASONS[reason]
    row = f"| `{reason}` | {meaning.phase} | {'yes' if meaning.retriable else 'no'} | {meaning.doc} |"
    assert row in README.splitlines()


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", README, re.DOTALL))
def test_every_manifest_is_valid_on_a_cluster(text: str) -> None:
    body: dict[str, Any]
    for body in yaml.safe_load_all(text):
        assert parse(body, site=CLUSTER).name


def test_every_make_command_exists() -> None:
    named = set(re.findall(r"`make ([a-z0-9-]+)`", README))
    assert named
    assert named <= set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE))


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []

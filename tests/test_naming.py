"""What an attempt's objects are called: a name that every kind of them may have."""

import re

import pytest

from dcp_operator.api.naming import NAME_LIMIT, job_name
from scenes import UID

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
"""What a Service's name must match; a Job's and a NetworkPolicy's may begin with a digit too."""
HIGHEST_INDEX = 4095
HIGHEST_ATTEMPT = 999


@pytest.mark.adversary
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("save-1000", id="letters first"),
        pytest.param("1000-step", id="O S2-4: a digit first"),
        pytest.param("2026-11-26-nightly", id="O S2-4: a date"),
        pytest.param("1000", id="O S2-4: digits alone"),
        pytest.param("7", id="O S2-4: one digit"),
        pytest.param("1000-x8f2k", id="O S2-4: of generateName 1000-"),
        pytest.param("a" * NAME_LIMIT, id="as long as it may be"),
        pytest.param("1" * NAME_LIMIT, id="O S2-4: digits, as long as it may be"),
        pytest.param("1" * 35 + "-" + "b" * 27, id="O S2-4: cut at a hyphen"),
        pytest.param("a" * 39 + "-" + "b" * 23, id="cut behind a hyphen"),
    ],
)
@pytest.mark.parametrize("attempt", [1, HIGHEST_ATTEMPT])
def test_every_name_of_a_checkpoint_gives_names_that_a_service_and_a_pod_may_have(name: str, attempt: int) -> None:
    made = job_name(name, UID, "", attempt)
    assert DNS_1035.fullmatch(made)
    assert len(f"{made}-{HIGHEST_INDEX}") <= 63
    assert made.endswith(f"-{attempt}")


def test_a_name_that_begins_with_a_letter_stands_as_it_is() -> None:
    assert job_name("save-1000", UID, "", 1) == "save-1000-f82cba4b-1"


def test_two_names_never_share_a_job_of_one_run() -> None:
    assert job_name("1000", UID, "", 1) != job_name("dcp-1000", UID.replace("6", "7"), "", 1)

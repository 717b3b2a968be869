"""The check `wait_for_url`. Who waits for whom, and which goes first, are tables of test_url_claims.py."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dcp_operator.api.checkpoint.status import Status
from dcp_operator.controllers.checkpoint.checks.url_in_use import wait_for_url
from dcp_operator.controllers.checkpoint.url_conflicts import UrlClaim
from scenes import NOW, URL, at, attempt, checkpoint, inputs, running

MADE = UrlClaim.of(checkpoint({"metadata.name": "older", "metadata.uid": "0"}), Status())
assert MADE is not None
OLDER = replace(MADE, created=at(-1))
LOAD = checkpoint({"spec.operation": "Load"})


@pytest.mark.parametrize(
    ("rival", "text", "seconds"),
    [
        pytest.param(OLDER, f"Checkpoint older is saving to the same URL ({URL})", 60, id="a live Save"),
        pytest.param(
            replace(OLDER, ending=True), f"pods of Checkpoint older still run on the same URL ({URL})", 5, id="its end"
        ),
    ],
)
def test_how_long_it_waits_and_for_whom(rival: UrlClaim, text: str, seconds: int) -> None:
    found = wait_for_url(inputs(rivals=(rival,)))
    assert found is not None
    assert (found.status.phase, found.status.reason, found.actions) == ("Pending", "UrlInUse", ())
    assert (text in found.message, found.wake_at) == (True, NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({}, id="no other Save"),
        pytest.param({"rivals": (replace(OLDER, place="elsewhere"),)}, id="another URL"),
        pytest.param({"rivals": (replace(OLDER, created=at(1), uid="z"),)}, id="a younger Save"),
        pytest.param({"rivals": (OLDER,), "of": LOAD}, id="a Load"),
        pytest.param({"rivals": (OLDER,), "attempts": (attempt(running(0)),)}, id="an attempt under way"),
    ],
)
def test_who_waits_for_nobody(given: dict[str, Any]) -> None:
    others = {name: each for name, each in given.items() if name != "attempts"}
    assert wait_for_url(inputs(*given.get("attempts", ()), **others)) is None

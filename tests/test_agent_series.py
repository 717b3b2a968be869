"""A real agent, the real channel and a series of its training: its own saves become Checkpoints, and one removes.

Real TLS, real saves in a folder; the API server is in memory.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import dcp_engine
from agent_rig import Reached, ThreadedOperator, training, until
from dcp_agent import Keep, channel, rank_zero
from dcp_contract.training import CHANNEL_FOLDER_ENV
from dcp_operator.api.json_types import Body
from dcp_operator.kube.client.api import CHECKPOINTS, SERIES
from report_rig import CERTIFICATE, LABELS, Api, Operator, operating, told
from report_scenes import ADOPTS
from series_scenes import series_manifest

pytestmark = pytest.mark.tier("ranks")


class Service(ThreadedOperator[Api]):
    """An operator of series, and the series of a training."""

    def __init__(self, folder: Path, prefix: Path) -> None:
        super().__init__(folder, Api(), LABELS)
        self.prefix = prefix
        self.operator: Operator

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Reached]:
        """Serve, and look at everything again and again."""
        async with operating(self.api) as self.operator:
            yield Reached(f"https://127.0.0.1:{self.operator.port}", CERTIFICATE.pem)

    async def work(self) -> None:
        """Look at everything once."""
        await self.operator.work()

    def series(self, **changes: Any) -> None:
        """Apply the series of the training."""
        storage = {"url": f"file://{self.prefix}", "credentialsSecretRef": {"name": "s3"}}
        self.api.add(
            SERIES, series_manifest({**ADOPTS, "metadata.creationTimestamp": None, "spec.storage": storage, **changes})
        )

    @property
    def status(self) -> Body:
        """The status of the series."""
        found: Body = self.api.objects[SERIES.path("team", "nightly")].get("status") or {}
        return found

    def succeeded(self) -> dict[int, Body]:
        """Return the Checkpoints that tell of a save that succeeded, by step."""
        found = [each.get("status") or {} for each in told(self.api)]
        return {each["checkpoint"]["step"]: each for each in found if each.get("phase") == "Succeeded"}

    def doomed(self) -> list[str]:
        """Return what is to be removed by the retention."""
        there = [each for each in list(self.api.objects.values()) if each["kind"] == CHECKPOINTS.kind]
        return sorted(each["spec"]["storage"]["url"] for each in there if each["spec"]["operation"] == "Delete")


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    found = Service(tmp_path / "channel", tmp_path / "run")
    monkeypatch.setenv(CHANNEL_FOLDER_ENV, str(found.folder))
    monkeypatch.setattr(channel, "LONGEST_PAUSE", 0.5)
    yield found
    found.stop()


def stored(prefix: Path) -> dict[int, str]:
    """Return the saves that stand in the store, by step."""
    return {each.step or 0: each.save_id for each in dcp_engine.list_checkpoints(prefix)}


def test_what_it_saves_becomes_checkpoints_also_where_the_operator_was_away(service: Service) -> None:
    service.series()
    service.start()
    with training(service.prefix) as agent:
        assert agent._zero
        book = agent._zero._book
        agent.save_now()
        until(lambda: len(service.succeeded()) == 1)
        until(lambda: not book.has_news)
        service.stop()
        agent.save_now()
        until(lambda: len(stored(service.prefix)) == 2)
        assert book.has_news
        service.start()
        until(lambda: len(service.succeeded()) == 2)
        until(lambda: not book.has_news)
        agent.save_now()
        until(lambda: len(service.succeeded()) == 3)
    found = service.succeeded()
    assert {step: each["checkpoint"]["saveId"] for step, each in found.items()} == stored(service.prefix)
    assert {each["checkpoint"]["url"] for each in found.values()} == {
        f"file://{service.prefix}/step-{step}" for step in found
    }
    assert all(each["blockedSeconds"] > 0 for each in found.values())
    assert len(told(service.api)) == 3
    until(lambda: service.status["latest"]["step"] == max(found))


def test_with_a_retention_the_series_removes_and_the_agents_keep_is_off(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.series(**{"spec.retention": {"last": 2}})
    service.start()
    caplog.set_level("INFO", "dcp_agent")
    with training(service.prefix, keep=Keep(last=1)) as agent:
        for number in (1, 2, 3):
            agent.save_now()
            until(lambda number=number: len(service.succeeded()) == number)  # type: ignore[misc] # mypy sees no default
        first = min(service.succeeded())
        until(service.doomed)
        until(lambda: service.status["retention"].get("keepOff"))
        # It goes on while the operator is away.
        service.stop()
        agent.save_now()
        until(lambda: len(stored(service.prefix)) == 4)
        service.start()
        until(lambda: len(service.succeeded()) == 4)
    assert len(stored(service.prefix)) == 4, "no worker pod is here that would remove anything, and the agent does not"
    assert f"file://{service.prefix}/step-{first}" in service.doomed()
    said = [each.message for each in caplog.records if "keep" in each.message]
    assert said == ["keep is off: the retention of series nightly removes"]


def test_before_the_first_answer_nothing_is_removed_for_a_while(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with training(service.prefix, keep=Keep(last=1)) as agent:
        for number in (1, 2):
            agent.save_now()
            until(lambda number=number: len(stored(service.prefix)) == number)  # type: ignore[misc] # as above
        assert agent._zero
        assert not agent._zero._removes()
        monkeypatch.setattr(rank_zero, "SILENT_SECONDS", 0.0)
        agent.save_now()
        until(lambda: len(stored(service.prefix)) == 1)
        # An operator without such a series lets the agent go on.
        service.series()
        service.start()
        agent.save_now()
        until(service.succeeded)
        until(lambda: len(stored(service.prefix)) == 1)

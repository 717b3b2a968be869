"""An agent and the operator's channel, over real TLS: what is asked is saved once, and what was saved is heard of."""

import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import dcp_engine
from agent_rig import Reached, ThreadedOperator, training, until
from channel_rig import Rig, TokenApi, put, serving, targeted
from dcp_agent import Agent, channel
from dcp_agent.agreement import Wish
from dcp_agent.requests import RequestBook
from dcp_contract.checkpoint_info import Origin
from dcp_contract.reasons import Reason
from dcp_contract.training import CHANNEL_FOLDER_ENV, AgentOrders, AgentState, EndedSave, SaveRequest
from dcp_operator.kube.channel.callers import Caller

pytestmark = pytest.mark.tier("ranks")


class Operator(ThreadedOperator[TokenApi]):
    """An operator that only answers; tests look at what it knows."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, TokenApi())
        self.rig: Rig

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Reached]:
        """Serve a channel."""
        async with serving(self.api) as self.rig:
            yield Reached(f"https://localhost:{self.rig.port}", self.rig.certificate.pem)

    @property
    def heard(self) -> AgentState | None:
        agents = self.call(lambda: self.rig.hub.agents("team"))
        return agents[0].state if agents else None

    def ask(self, *names: str, **spec: Any) -> None:
        """Ask the training at once, as Checkpoints with a target that were given to its process group do."""
        state = self.heard
        assert state is not None
        bodies = [targeted(name, state.group) for name in names]
        for body in bodies:
            body["spec"] |= spec

        def put_all() -> None:
            for body in bodies:
                put(self.rig, body)

        self.call(put_all)

    def settle(self, name: str) -> None:
        """Have the outcome stand in the Checkpoint's status."""
        body = targeted(name, "", version=2, phase="Succeeded", completionTime="2026-11-26T21:00:00Z")
        self.call(lambda: put(self.rig, body))

    def ended_save(self, name: str) -> EndedSave:
        """Wait until the save of a Checkpoint has ended."""
        until(lambda: name in self.ended())
        return self.ended()[name]

    def ended(self) -> dict[str, EndedSave]:
        """Return the saves that were asked for and have ended, by the name of their Checkpoints."""
        state = self.heard
        requested = [each for each in (state.ended if state else []) if each.requested]
        return {each.id.removeprefix("uid-").rstrip("/"): each for each in requested}


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    found = Operator(tmp_path / "channel")
    monkeypatch.setenv(CHANNEL_FOLDER_ENV, str(found.folder))
    monkeypatch.setattr(channel, "FAREWELL_SECONDS", 0.5)  # most of these tests acknowledge nothing
    found.start()
    yield found
    found.stop()


def test_a_request_is_saved_once_and_heard_of_until_it_is_acknowledged(operator: Operator, tmp_path: Path) -> None:
    with training(tmp_path / "run"):
        until(lambda: operator.heard is not None)
        operator.ask("one")
        until(lambda: "one" in operator.ended())
        ended = operator.ended()["one"]
        assert ended.checkpoint
        assert ended.url == f"{tmp_path}/run/step-{ended.step}"
        assert ended.checkpoint.origin == Origin(namespace="team", name="one", uid="uid-one")
        assert 0 < ended.blocked_seconds <= ended.seconds
        operator.settle("one")
        until(lambda: not operator.ended())
    assert [each.step for each in dcp_engine.list_checkpoints(tmp_path / "run")] == [ended.step]


def test_an_operator_that_restarts_hears_of_what_was_saved_meanwhile(operator: Operator, tmp_path: Path) -> None:
    with training(tmp_path / "run") as agent:
        until(lambda: operator.heard is not None)
        operator.ask("one")
        operator.stop()
        agent.save_now()
        until(lambda: bool(dcp_engine.list_checkpoints(tmp_path / "run")))
        operator.start()
        until(lambda: operator.heard is not None)
        operator.ask("one")
        until(lambda: "one" in operator.ended())
        assert operator.ended()["one"].checkpoint


def test_requests_for_one_place_share_a_save_and_others_follow(operator: Operator, tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", f"file://{tmp_path}/elsewhere/a"
    with training(run, also=[f"{tmp_path}/elsewhere"]):
        until(lambda: operator.heard is not None)
        operator.ask("other", storage={"url": elsewhere})
        operator.ask("one", "two")
        until(lambda: len(operator.ended()) == 3)
        one, two, other = (operator.ended()[name] for name in ("one", "two", "other"))
    assert all(each.checkpoint for each in (one, two, other))
    assert other.url == elsewhere
    assert (one.step, one.checkpoint) == (two.step, two.checkpoint)
    assert [each.step for each in dcp_engine.list_checkpoints(run)] == [one.step]


@pytest.mark.parametrize(
    ("url", "if_exists", "reason"),
    [
        ("file://{0}/foreign/a", "Fail", Reason.TARGET_REFUSED),
        ("file://{0}/run", "Fail", Reason.TARGET_REFUSED),
        ("file://{0}/run/taken", "Fail", Reason.OVERWRITE_CONFLICT),
        ("file://{0}/run/taken", "Replace", Reason.OVERWRITE_CONFLICT),
    ],
)
def test_a_request_is_refused(operator: Operator, tmp_path: Path, url: str, if_exists: str, reason: Reason) -> None:
    dcp_engine.save({"theirs": torch.ones(1)}, tmp_path / "run" / "taken", no_dist=True)
    with training(tmp_path / "run"):
        until(lambda: operator.heard is not None)
        operator.ask("one", storage={"url": url.format(tmp_path)}, save={"ifExists": if_exists})
        until(lambda: bool(operator.ended()))
        failure = operator.ended()["one"].failure
    assert failure
    assert failure.reason is reason
    assert str(tmp_path) in failure.message
    assert dcp_engine.read(tmp_path / "run" / "taken", no_dist=True) == {"theirs": torch.ones(1)}
    assert not (tmp_path / "foreign").exists()


@pytest.mark.parametrize("wish", [Wish.STOP, Wish.SAVE])
def test_a_request_for_another_place_takes_no_save_from_the_run(tmp_path: Path, wish: Wish) -> None:
    """A run that is stopped while an operator wants its state elsewhere still has a checkpoint to go on from."""
    elsewhere = f"file://{tmp_path}/elsewhere/a"
    agent = Agent({"weights": torch.zeros(2)}, tmp_path / "run", also=[f"{tmp_path}/elsewhere"], signals=False)
    assert agent._zero
    agent._zero._book.take(AgentOrders(requests=[SaveRequest(id="x/", url=elsewhere, origin=Origin(uid="x"))]))
    agent.step(1)
    agent._ask(wish, "a test")
    with suppress(SystemExit):
        for step in range(2, 200):
            time.sleep(0.01)
            agent.step(step)
        agent.close(save=False)
    (kept,) = dcp_engine.list_checkpoints(tmp_path / "run")
    sent = dcp_engine.find(elsewhere)
    assert sent
    assert (sent.step, sent.origin) == (kept.step, Origin(uid="x"))


def test_what_the_training_has_saved_itself_is_replaced(operator: Operator, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/run/latest"
    with training(tmp_path / "run"):
        until(lambda: operator.heard is not None)
        steps = []
        for name in ("one", "two"):
            operator.ask(name, storage={"url": url}, save={"ifExists": "Replace"})
            ended = operator.ended_save(name)
            assert ended.checkpoint, ended.failure
            steps.append(ended.step or 0)
    assert 0 < steps[0] < steps[1]
    found = dcp_engine.find(url)
    assert found
    assert found.step == steps[1]


def test_a_training_that_ends_says_so_and_what_it_saved(operator: Operator, tmp_path: Path) -> None:
    states: list[AgentState] = []
    hear = operator.rig.hub.hear

    def heard(caller: Caller, state: AgentState, labels: Mapping[str, str]) -> int:
        states.append(state)
        return hear(caller, state, labels)

    operator.rig.hub.hear = heard  # type: ignore[method-assign]
    with training(tmp_path / "run") as agent:
        until(lambda: operator.heard is not None)
        operator.ask("one")
        until(lambda: agent._saves._place is not None)
    assert states[-1].ends
    assert "uid-one/" in {each.id for each in states[-1].ended}


def test_a_new_training_tells_what_it_resumed_from(operator: Operator, tmp_path: Path) -> None:
    origin = Origin(namespace="team", name="lost", uid="uid-lost")
    dcp_engine.save({"weights": torch.ones(4)}, tmp_path / "run" / "step-7", step=7, origin=origin, no_dist=True)
    with training(tmp_path / "run"):
        until(lambda: operator.heard is not None)
        state = operator.heard
        assert state
        assert state.resumed_from
        assert (state.resumed_from.step, state.resumed_from.origin) == (7, origin)


def test_without_a_token_there_is_no_channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHANNEL_FOLDER_ENV, str(tmp_path / "nothing"))
    with training(tmp_path / "run") as agent:
        agent.save_now()
        until(lambda: bool(dcp_engine.list_checkpoints(tmp_path / "run")))
        assert "dcp-agent-channel" not in {each.name for each in threading.enumerate()}


def test_only_what_a_rule_keeps_stays(tmp_path: Path) -> None:
    from dcp_agent import Keep

    weights = torch.zeros(4)
    with Agent({"weights": weights}, tmp_path, every_steps=1, keep=Keep(last=2, every_steps=4), signals=False) as agent:
        for step in range(1, 10):
            agent.step(step)
            agent._saves.finish()
            time.sleep(0.01)
    kept = [each.step for each in dcp_engine.list_checkpoints(tmp_path)]
    assert kept[:2] == [9, 8]
    assert 4 in kept
    until(lambda: [each.step for each in dcp_engine.list_checkpoints(tmp_path)] == [9, 8, 4])


class Vanishing:
    """A connection that the posting thread closes between two looks at it."""

    def __init__(self, sock: socket.socket) -> None:
        self._found = iter([sock])

    @property
    def sock(self) -> socket.socket | None:
        return next(self._found, None)


def test_news_that_meet_a_connection_that_ends_do_not_end_the_training(tmp_path: Path) -> None:
    """Training itself tells them, where all ranks begin a save."""
    client = channel.ChannelClient(RequestBook("s3://b/run", [], 1, lambda _: None), tmp_path, lambda: 0, lambda: None)
    with socket.socket() as sock:
        client._connection = Vanishing(sock)  # type: ignore[assignment] # what of it tell looks at
        client.tell()
    client._connection = None
    client.close()


@pytest.mark.parametrize("seconds", ["99999999999", "1e300"])
def test_a_pause_without_end_does_not_end_the_channel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: str
) -> None:
    told = threading.Event()

    def answer(*_: object) -> AgentOrders:
        told.set()
        return AgentOrders(wait_seconds=float(seconds))

    monkeypatch.setattr(channel.ChannelClient, "_post", answer)
    (tmp_path / "url").write_text("https://localhost")
    client = channel.ChannelClient(RequestBook("s3://b/run", [], 1, lambda _: None), tmp_path, lambda: 0, lambda: None)
    assert told.wait(10)
    client.join(0.5)
    assert client.is_alive()
    client.close()

"""What becomes of the agent's channel where a pod's files, or its own code, fail in a way that nobody thought of."""

import logging
import threading
from pathlib import Path

import pytest

from dcp_agent import channel
from dcp_agent.requests import RequestBook
from dcp_contract.training import CHANNEL_FOLDER_ENV, AgentOrders

pytestmark = pytest.mark.tier("ranks")


def begun(tmp_path: Path) -> channel.ChannelClient:
    return channel.ChannelClient(RequestBook("s3://b/run", [], 1, lambda _: None), tmp_path, lambda: 0, lambda: None)


def test_a_fault_of_its_own_does_not_end_the_channel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    posts, again = list[int](), threading.Event()

    def post(*_: object) -> AgentOrders:
        posts.append(1)
        if len(posts) == 1:
            raise ZeroDivisionError
        again.set()
        return AgentOrders(wait_seconds=60)

    monkeypatch.setattr(channel.ChannelClient, "_post", post)
    monkeypatch.setattr(channel, "LONGEST_PAUSE", 0.0)
    (tmp_path / "url").write_text("https://localhost")
    client = begun(tmp_path)
    assert again.wait(10)
    client.close()
    assert [each.message for each in caplog.records if each.levelno == logging.ERROR] == [
        "the channel to the operator failed, and goes on"
    ]


def test_files_that_can_not_be_looked_for_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as in a folder that the training's user may not enter."""

    def exists(_: Path) -> bool:
        raise PermissionError

    monkeypatch.setenv(CHANNEL_FOLDER_ENV, str(tmp_path))
    monkeypatch.setattr(Path, "exists", exists)
    assert channel.folder() is None
    client = begun(tmp_path)
    client.join(0.2)
    assert client.is_alive()
    client.close()

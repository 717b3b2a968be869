"""Signals once an agent is closed: whoever has taken them over meanwhile may still call the agent's handler."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcp_agent.signals import SignalThread

HEARD: list[tuple[str, int]] = []


@pytest.fixture(autouse=True)
def _as_they_were() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    for number in before:
        signal.signal(number, lambda number, _: HEARD.append(("the program", number)))
    HEARD.clear()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_after_the_end_is_the_programs_and_goes_into_no_other_file(tmp_path: Path) -> None:
    """Two agents that end in the order in which they began leave the first one's handler behind."""
    first, second = (SignalThread(lambda number: HEARD.append(("an agent", number))) for _ in range(2))
    first.close()
    second.close()
    files = [(tmp_path / str(each)).open("wb") for each in range(8)]
    signal.raise_signal(signal.SIGTERM)
    for file in files:
        file.close()
    assert HEARD == [("the program", signal.SIGTERM)]
    assert not any(Path(file.name).read_bytes() for file in files)


def test_an_end_that_is_told_twice_closes_no_other_file() -> None:
    thread = SignalThread(lambda _: None)
    thread.close()
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]
    thread.close()
    for each in taken:
        os.close(each)

"""Numbers and sentences as people read them."""

import pytest

from dcp_contract.sections import Workers
from dcp_contract.sizes import human_bytes
from dcp_operator.api.checkpoint.text import counted, human_duration, human_ranks, sentence


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (438_304_768, "418 MiB"),
        (1023 * 1024**2, "1.0 GiB"),
        (13 * 1024**4, "13 TiB"),
        (5000 * 1024**5, "5000 PiB"),
    ],
)
def test_bytes_for_people(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (72, "1m12s"), (3600, "1h00m"), (11_130, "3h05m"), (90_000, "25h00m")]
)
def test_durations_for_people(seconds: int, text: str) -> None:
    assert human_duration(seconds) == text


def test_ranks_for_people() -> None:
    assert human_ranks(Workers(num_nodes=2, num_proc_per_node=8)) == "16 (2x8)"


@pytest.mark.parametrize(("text", "whole"), [("boom", "boom."), ("boom! ", "boom!"), ("", ""), ("cut…", "cut…")])
def test_sentences(text: str, whole: str) -> None:
    assert sentence(text) == whole


@pytest.mark.parametrize(("number", "said"), [(0, "0 pods"), (1, "1 pod"), (2, "2 pods")])
def test_what_is_counted_is_said_as_people_say_it(number: int, said: str) -> None:
    assert counted(number, "pod") == said

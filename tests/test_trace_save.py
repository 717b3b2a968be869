"""How `make trace-save` counts."""

from pathlib import Path

import pytest

from trace_save import Route, Tree, calls_up, collapsed, is_up, traced

HERE = Tree(Path(__file__).resolve().parents[1])


@pytest.mark.parametrize(
    ("items", "left"),
    [
        ("", ""),
        ("abc", "abc"),
        ("aaab", "ab"),
        ("abababc", "abc"),
        ("abcabcabd", "abcabd"),
        ("xabcabcy", "xabcy"),
    ],
)
def test_loops_are_collapsed(items: str, left: str) -> None:
    assert "".join(collapsed(items)) == left


def test_packages_are_of_the_second_level() -> None:
    assert HERE.package("dcp_engine.transfer.writer") == "dcp_engine.transfer"
    assert HERE.package("dcp_operator.kube.client.api") == "dcp_operator.kube"
    assert HERE.package("dcp_engine.errors") == "dcp_engine"


def test_moves_are_calls_between_names_without_loops() -> None:
    here, there = "dcp_engine.transfer.writer", "dcp_engine.format.digest"
    calls = [("", here, "save"), *[(here, there, "update")] * 3, (here, "dcp_engine.transfer.meter", "Meter.add")]
    route = Route("a save", [calls])
    assert route.moves() == [(here, there), (here, "dcp_engine.transfer.meter")]
    assert route.moves(HERE.package) == [("dcp_engine.transfer", "dcp_engine.format")]


def test_a_callback_is_a_call_up() -> None:
    levels = HERE.levels()
    assert is_up(levels, "dcp_engine.transfer.meter", "dcp_worker.rank_context")
    assert is_up(levels, "dcp_engine.format.layout", "dcp_engine.transfer.writer")
    assert not is_up(levels, "dcp_engine.transfer.writer", "dcp_engine.format.layout")
    assert not is_up(levels, "dcp_worker.rank.run", "dcp_contract.task")


@pytest.mark.tier("pods")
def test_a_save_is_traced_from_the_object_to_the_commit() -> None:
    operator, launcher, rank = traced(HERE)
    assert "dcp_operator.controllers.checkpoint.decide" in operator.modules()
    assert "dcp_worker.launcher.supervisor" in launcher.modules()
    assert ("dcp_engine.commit", "dcp_engine.stores") in rank.moves(HERE.package)
    # The page about the architecture says why each of them has to be.
    assert calls_up(HERE, [operator, launcher, rank]) == {
        ("dcp_engine.ranks", "dcp_engine.saving"),
        ("dcp_engine.stores.local_store", "dcp_engine.transfer.file_stream"),
        ("dcp_engine.transfer.meter", "dcp_worker.rank_context"),
    }

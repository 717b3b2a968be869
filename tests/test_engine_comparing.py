"""Two checkpoints compared: by values, whatever their types and however they are sharded; and removed by hand."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dcp_engine
import engine_programs as programs
from dcp_engine import comparing
from dcp_engine.errors import CheckpointReplaced, StateMismatch
from dcp_worker.cli import app as cli
from rank_group import run_ranks, values

pytestmark = [pytest.mark.tier("ranks"), pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]

NAN = float("nan")
INF = float("inf")


def saved(path: Path, **values: Any) -> Path:
    dcp_engine.save(dict(values), path, no_dist=True)
    return path


def as_type(dtype: torch.dtype) -> Callable[..., torch.Tensor]:
    return lambda *values: torch.tensor(values, dtype=dtype)


floats, halves, longs = as_type(torch.float32), as_type(torch.bfloat16), as_type(torch.int64)
CHANGES = {
    "nothing": (floats(1, 2), floats(1, 2), None),
    "a value": (floats(3, 4), floats(3, 4.5), (2, 1, 0.5, 0.1)),
    "no number is alike": (floats(NAN, 1), floats(NAN, 1), None),
    "a number became none": (floats(1, 2), floats(NAN, 2), (2, 1, None, 0.0)),
    "infinite": (floats(INF, 2), floats(-INF, 2), (2, 1, None, 0.0)),
    "the sign of zero": (floats(0.0), floats(-0.0), None),
    "another type, the same values": (floats(1, 2), halves(1, 2), (2, 0, None, 0.0)),
    "another type, rounded": (
        floats(1, 1.001),
        halves(1, 1.001),
        (2, 1, pytest.approx(0.001, 0.01), pytest.approx(0.0007, 0.1)),
    ),
    "integers that float64 has not": (longs(2**53), longs(2**53 + 1), (1, 1, 1.0, pytest.approx(1e-16, 0.2))),
    "another shape": (floats(1, 2), floats(1, 2).reshape(2, 1), (0, 0, None, None)),
    "no elements": (floats(), floats(), None),
    "float8": (
        floats(1, 2).to(torch.float8_e4m3fn),
        floats(1, 4).to(torch.float8_e4m3fn),
        (2, 1, 2.0, pytest.approx(0.894, 0.01)),
    ),
}


@pytest.mark.parametrize(("first", "second", "measured"), CHANGES.values(), ids=CHANGES)
def test_a_tensor_is_compared_by_its_values(
    tmp_path: Path, first: torch.Tensor, second: torch.Tensor, measured: tuple[Any, ...] | None
) -> None:
    found = dcp_engine.diff(saved(tmp_path / "a", w=first), saved(tmp_path / "b", w=second))
    change = found.changed.get("w")
    got = change and (change.elements, change.differing, change.largest, change.relative)
    assert got == measured
    assert found.same == int(measured is None)
    assert bool(found) == bool(measured)


OBJECTS = {
    "numbers": (3, 3, True),
    "another number": (3, 4, False),
    "a number and a truth": (1, True, False),
    "nested": ({"a": [1, (2, "x")]}, {"a": [1, (2, "x")]}, True),
    "a list that grew": ([1], [1, 2], False),
    "an object became a tensor": (3, torch.tensor(3), False),
}


@pytest.mark.parametrize(("first", "second", "alike"), OBJECTS.values(), ids=OBJECTS)
def test_an_object_is_compared_by_its_class_and_value(tmp_path: Path, first: Any, second: Any, *, alike: bool) -> None:
    found = dcp_engine.diff(saved(tmp_path / "a", v={"x": first}), saved(tmp_path / "b", v={"x": second}))
    assert bool(found) == (not alike)


def test_ranks_do_not_matter_and_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "AT_ONCE", 1)  # each entry is read by itself
    values(run_ranks(2, programs.save, str(tmp_path / "two")))
    whole = programs.full_state()
    whole["wide"] = whole["wide"].clone()
    whole["wide"][2, 699] += 1  # of the second rank
    one = saved(tmp_path / "one", **whole, more=torch.ones(1))
    found = dcp_engine.diff(tmp_path / "two", one)
    assert (found.only_first, found.only_second) == (("extra.names", "extra.step", "plain", "replica"), ("more",))
    assert ({name: change.differing for name, change in found.changed.items()}, found.same) == ({"wide": 1}, 6)
    assert not dcp_engine.diff(tmp_path / "two", one, keys=["layer", "[ci]*s"])
    with pytest.raises(StateMismatch, match="chosen by weight"):
        dcp_engine.diff(tmp_path / "two", one, keys=["layer", "weight"])


def test_one_that_is_replaced_meanwhile_is_not_compared_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = saved(tmp_path / "a", w=floats(1), x=floats(1)), saved(tmp_path / "b", w=floats(1), x=floats(1))
    monkeypatch.setattr(comparing, "AT_ONCE", 1)
    real = comparing._change

    def replace(*arguments: Any) -> Any:
        dcp_engine.save({"w": floats(2), "x": floats(2)}, second, overwrite=True, no_dist=True)
        return real(*arguments)

    monkeypatch.setattr(comparing, "_change", replace)
    with pytest.raises(CheckpointReplaced):
        dcp_engine.diff(first, second)


class Typed(io.StringIO):
    """A terminal at which somebody answers."""

    def isatty(self) -> bool:
        return True


def test_the_commands_list_compare_and_remove(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dcp(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(arguments)
        return (code, *capsys.readouterr())

    one, two = (f"file://{saved(tmp_path / f'step-{step}', w=floats(step))}" for step in (1, 2))
    code, out, _ = dcp("ls", f"file://{tmp_path}")
    assert (code, [line.split()[0] for line in out.splitlines()]) == (0, ["Step", "2", "1"])
    listed = json.loads(dcp("ls", f"file://{tmp_path}", "-o", "json")[1])
    assert [each["url"] for each in listed] == [two, one]
    assert "No checkpoint is committed under" in dcp("ls", f"{two}/none")[2]

    assert dcp("diff", one, one)[0] == 0
    code, out, _ = dcp("diff", one, two)
    assert (code, "1 of 1" in out, "1 differ, 0 are alike" in out) == (1, True, True)
    assert json.loads(dcp("diff", one, two, "-o", "json")[1])["changed"]["w"]["largest"] == 1.0
    code, _, err = dcp("diff", one, f"{one}/none")
    assert (code, "CheckpointNotFound" in err) == (2, True)

    monkeypatch.setattr(sys, "stdin", io.StringIO())
    code, _, err = dcp("rm", one)
    assert (code, "add --yes" in err) == (2, True)
    monkeypatch.setattr(sys, "stdin", Typed("n\n"))
    assert dcp("rm", one)[0] == 1
    assert dcp("rm", one, "--save-id", listed[0]["saveId"], "--yes")[0] == 1
    assert len(dcp_engine.list_checkpoints(tmp_path)) == 2
    code, out, _ = dcp("rm", one, "--save-id", listed[1]["saveId"], "--yes")
    assert (code, out.startswith(f"Removed {one}: save ")) == (0, True)
    assert dcp("rm", one, "--yes")[0] == 1
    monkeypatch.setattr(sys, "stdin", Typed("y\n"))
    assert dcp("rm", two)[0] == 0
    assert dcp_engine.list_checkpoints(tmp_path) == []

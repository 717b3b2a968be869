"""What a load takes and leaves: types, both sides of strict, and the counts of what became of each entry."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

import dcp_engine
import value_programs as programs
from dcp_engine.errors import StateMismatch
from rank_pool import Pool, joined

pytestmark = pytest.mark.tier("ranks")

INT, NAN, INF = torch.int64, float("nan"), float("inf")

SAME: list[tuple[list[Any], torch.dtype, torch.dtype]] = [
    ([1.5, NAN, INF, -0.0], torch.float32, torch.float64),
    ([1.5, NAN, INF, -INF], torch.float32, torch.bfloat16),
    ([1.1, 65504.0, 1e-9], torch.float32, torch.float16),
    ([1.1, 448.0, -460.0, NAN], torch.float32, torch.float8_e4m3fn),
    ([1.5, INF], torch.float64, torch.complex64),
    ([1 + 2j, complex(INF, NAN)], torch.complex128, torch.complex64),
    ([1, -(2**31)], INT, torch.int32),
    ([7, 0], INT, torch.uint8),
    ([7, 2**62], INT, torch.uint64),
    ([1, 2**53 + 1], INT, torch.float32),
    ([True, False], torch.bool, torch.int8),
    ([255], torch.uint8, torch.int16),
]
OTHER: list[tuple[list[Any], torch.dtype, torch.dtype, str]] = [
    ([0.9, -1.7, 3e9, NAN], torch.float32, torch.int32, r"x \(float32 to int32\)"),
    ([1.0], torch.float32, torch.bool, r"x \(float32 to bool\)"),
    ([1, 0], INT, torch.bool, r"x \(int64 to bool\)"),
    ([1 + 2j], torch.complex64, torch.float32, r"x \(complex64 to float32\)"),
    ([1, 2**31], INT, torch.int32, "holds 2147483648 as int64, which int32 can't hold"),
    ([300], INT, torch.uint8, "holds 300 as int64, which uint8 can't hold"),
    ([-1], INT, torch.uint64, "holds -1 as int64, which uint64 can't hold"),
    ([200], torch.uint8, torch.int8, "holds 200 as uint8, which int8 can't hold"),
    ([1.0, 7e4], torch.float32, torch.float16, "holds 70000.0 as float32, which float16 can't hold"),
    ([1e39], torch.float64, torch.float32, "holds 1e[+]39 as float64, which float32 can't hold"),
    ([500.0], torch.float32, torch.float8_e4m3fn, "holds 500.0 as float32, which float8_e4m3fn can't hold"),
    ([INF], torch.float32, torch.float8_e4m3fn, "holds inf as float32, which float8_e4m3fn can't hold"),
    ([-2.0], torch.float32, torch.float8_e8m0fnu, "holds -2.0 as float32, which float8_e8m0fnu can't hold"),
    ([10**6], INT, torch.float16, "holds 1000000 as int64, which float16 can't hold"),
]


@pytest.fixture(params=["ours", "stock"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "ours":
        return lambda state: dcp_engine.save(state, tmp_path)
    return lambda state: dcp.save(state, checkpoint_id=tmp_path, no_dist=True)


@pytest.mark.adversary
@pytest.mark.parametrize(("values", "there", "wanted"), SAME, ids=str)
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_values_are_converted_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, saved: Any, values: list[Any], there: Any, wanted: Any
) -> None:
    held = torch.tensor(values, dtype=there)
    saved({"x": held, "same": torch.ones(2)})
    found = {"x": torch.zeros(len(values), dtype=wanted), "same": torch.zeros(2)}
    with caplog.at_level(logging.WARNING, "dcp_engine"):
        info = dcp_engine.load(found, tmp_path)
    expected = held.to(wanted)
    assert torch.equal(found["x"].view(torch.uint8), expected.view(torch.uint8))
    assert info.entries is not None
    assert (info.entries.loaded, info.entries.left_out, info.entries.converted) == (2, 0, 1)
    [record] = [each for each in caplog.records if each.name.startswith("dcp_engine")]
    assert record.message.startswith("loaded with a conversion: x (")
    with pytest.raises(StateMismatch, match=r"convert is false: x \("):
        dcp_engine.load(found, tmp_path, convert=False)


@pytest.mark.adversary
@pytest.mark.parametrize(("values", "there", "wanted", "message"), OTHER, ids=str)
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_values_that_would_become_others_are_refused(
    tmp_path: Path, saved: Any, values: list[Any], there: Any, wanted: Any, message: str
) -> None:
    saved({"x": torch.tensor(values, dtype=there)})
    with pytest.raises(StateMismatch, match=message):
        dcp_engine.load({"x": torch.zeros(len(values), dtype=wanted)}, tmp_path)


@pytest.mark.adversary
def test_all_entries_that_can_not_be_converted_are_named(tmp_path: Path) -> None:
    dcp_engine.save({"a": torch.ones(2), "b": {"c": torch.ones(2)}}, tmp_path)
    wanted: dict[str, Any] = {"a": torch.zeros(2, dtype=torch.int8), "b": {"c": torch.zeros(2, dtype=torch.bool)}}
    with pytest.raises(StateMismatch, match=r"a \(float32 to int8\), b\.c \(float32 to bool\)"):
        dcp_engine.load(wanted, tmp_path)


@pytest.mark.adversary
def test_an_object_in_place_of_a_tensor_is_counted_as_a_conversion(tmp_path: Path) -> None:
    dcp_engine.save({"step": 3}, tmp_path)
    found: dict[str, Any] = {"step": torch.zeros(())}
    info = dcp_engine.load(found, tmp_path)
    assert found == {"step": 3}
    assert info.entries is not None
    assert info.entries.converted == 1
    with pytest.raises(StateMismatch, match=r"convert is false: step \(an object to float32\)"):
        dcp_engine.load({"step": torch.zeros(())}, tmp_path, convert=False)


def _layers(count: int) -> dict[str, Any]:
    return {f"layers.{number}.weight": torch.full((3,), float(number)) for number in range(count)}


BOTH: list[tuple[str, dict[str, Any], dict[str, Any], str | None]] = [
    ("equal", {"model": _layers(2)}, {"model": _layers(2)}, None),
    ("six layers into five", {"model": _layers(6)}, {"model": _layers(5)}, r"model\.layers\.5\.weight, which no rank"),
    ("the same without a nest", _layers(6), _layers(5), r"layers\.5\.weight, which no rank"),
    ("a part not asked for", {"model": _layers(1), "optim": _layers(1)}, {"model": _layers(1)}, None),
    ("parts of like names", {"optim": _layers(1), "optimal": _layers(1)}, {"optim": _layers(1)}, None),
    ("an object", {"extra": {"a": 1, "b": "x"}}, {"extra": {"a": 0}}, r"extra\.b, which no rank"),
]


@pytest.mark.adversary
@pytest.mark.parametrize(("name", "there", "here", "message"), BOTH, ids=[case[0] for case in BOTH])
def test_strict_on_both_sides(
    tmp_path: Path, name: str, there: dict[str, Any], here: dict[str, Any], message: str | None
) -> None:
    dcp_engine.save(there, tmp_path)
    if message is None:
        assert dcp_engine.load(here, tmp_path, strict="both").entries is not None
    else:
        with pytest.raises(StateMismatch, match=message):
            dcp_engine.load(here, tmp_path, strict="both")
    info = dcp_engine.load(here, tmp_path)
    assert info.entries is not None
    count = sum(len(part) if isinstance(part, dict) else 1 for part in here.values())
    total = sum(len(part) if isinstance(part, dict) else 1 for part in there.values())
    assert (info.entries.loaded, info.entries.left_out) == (count, total - count)


@pytest.mark.adversary
def test_ranks_ask_for_both_sides_together(pool: Pool, tmp_path: Path) -> None:
    dcp_engine.save(_layers(4), tmp_path)
    found = [result.value for result in pool.call(2, joined, programs.load_halves, str(tmp_path))]
    assert found == [(4, 0, "the checkpoint holds layers.3.weight, which no rank asks for")] * 2

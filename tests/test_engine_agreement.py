"""Values of one name on several ranks: by rank, equal, or refused; never a mixture without a word."""

import argparse
import collections
import copy
import datetime as dt
import decimal
import enum
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dcp_engine
import value_programs as programs
from dcp_engine.errors import StateMismatch, UnsavableState
from dcp_engine.transfer import fingerprint
from rank_group import values
from rank_pool import Pool, joined

pytestmark = pytest.mark.tier("ranks")


@pytest.mark.adversary
@pytest.mark.parametrize("background", [False, True])
def test_every_rank_gets_its_own_values_back(pool: Pool, tmp_path: Path, *, background: bool) -> None:
    values(pool.call(3, joined, programs.save_by_rank, str(tmp_path), background))
    assert values(pool.call(3, joined, programs.load_by_rank, str(tmp_path), "refuse")) == [
        (rank, rank, True) for rank in range(3)
    ]
    found = values(pool.call(2, joined, programs.load_by_rank, str(tmp_path), "refuse"))
    [name, message] = found[0]
    assert found == [(name, message)] * 2
    assert name == "StateMismatch"
    assert "was saved by 3 ranks, a value for each; now there are 2" in message
    assert "dcp_engine.per_rank(..., resize='keep')" in message
    assert values(pool.call(2, joined, programs.load_by_rank, str(tmp_path), "keep")) == [
        (100, 100, False),
        (101, 101, False),
    ]


@pytest.mark.adversary
def test_what_was_saved_for_all_is_not_taken_for_a_ranks_own(tmp_path: Path) -> None:
    dcp_engine.save({"rng": torch.ones(2)}, tmp_path)
    with pytest.raises(StateMismatch, match="rng was saved once for all ranks, not by rank"):
        dcp_engine.load({"rng": dcp_engine.per_rank(torch.ones(2))}, tmp_path)


@pytest.mark.adversary
def test_by_rank_stands_at_the_top(tmp_path: Path) -> None:
    with pytest.raises(UnsavableState, match=r"top level of a state dict, not at extra\.rng"):
        dcp_engine.save({"extra": {"rng": dcp_engine.per_rank(1)}}, tmp_path)


REPLICAS = "replicas differ between ranks"
DIFFERENT: list[tuple[str, str, str, str]] = [
    (
        "objects",
        "warn",
        "ranks have different values under one name: pos (other on rank 1, 2), rng.numpy (other on",
        "",
    ),
    ("order", "warn", "saved", ""),
    ("tensor", "warn", "saved", f"{REPLICAS}, and each is saved from one rank alone: m.w (other on rank 2). Make them"),
    ("tensor", "refuse", f"UnsavableState: {REPLICAS}, and drift is 'refuse': m.w (other on rank 2)", ""),
    ("tensor", "ignore", "saved", ""),
    ("hsdp", "warn", "saved", f"{REPLICAS}, and each is saved from one rank alone: w (other on rank 2). Make them"),
    ("bits", "refuse", "saved", ""),
    ("sharded", "refuse", "saved", ""),
    ("own keys", "refuse", "saved", ""),
]


@pytest.mark.adversary
@pytest.mark.parametrize(("kind", "drift", "ended", "said"), DIFFERENT)
def test_what_differs_between_ranks_is_refused_or_named(
    pool: Pool, tmp_path: Path, kind: str, drift: str, ended: str, said: str
) -> None:
    found = values(pool.call(3, joined, programs.save_different, str(tmp_path), kind, drift))
    assert all(ended in result for result, _ in found), found
    assert [bool(texts) for _, texts in found] == [bool(said), False, False]
    assert all(said in text for text in found[0][1])
    assert (dcp_engine.find(tmp_path) is not None) == (ended == "saved")


REFUSED = {
    "class": ("no load takes this without `allow`: ", "list the classes in `allow`"),
    "lambda": ("this state can't be saved: ", "can't be pickled"),
    "sparse": ("this state can't be saved: ", "layout sparse_coo"),
}


@pytest.mark.adversary
@pytest.mark.parametrize(("kind", "words"), REFUSED.items(), ids=REFUSED)
def test_what_each_rank_refuses_of_its_own_is_named_at_once(
    pool: Pool, tmp_path: Path, kind: str, words: tuple[str, str]
) -> None:
    found = values(pool.call(3, joined, programs.save_odd_entries, str(tmp_path), kind))
    assert found == [found[0]] * 3
    begin, end = words
    assert found[0].startswith(f"{begin}of0 ")
    assert end in found[0]
    assert all(f"of{rank} " in found[0] for rank in range(3))
    assert dcp_engine.find(tmp_path) is None


def _refused(make: Any, fault: str) -> UnsavableState:
    made = make({fault: "is odd"})
    assert isinstance(made, UnsavableState)
    return made


def test_the_errors_of_ranks_that_refuse_for_one_reason_become_one() -> None:
    first, same = _refused(UnsavableState.not_loadable, "a"), _refused(UnsavableState.not_loadable, "b")
    first.rank, first.stage, first.failures = 1, "writing", (first, StateMismatch("else"), same)
    made = UnsavableState.of_ranks(first)
    assert (made.message, made.rank, made.stage) == (
        UnsavableState.not_loadable({"a": "is odd", "b": "is odd"}).message,
        1,
        "writing",
    )
    assert list(made.faults) == ["a", "b"]
    first.failures = (first, StateMismatch("else"))
    assert UnsavableState.of_ranks(first) is first, "there is nothing to add"
    unnamed = UnsavableState("replicas differ")
    unnamed.failures = (unnamed, same)
    assert UnsavableState.of_ranks(unnamed) is unnamed, "it is for another reason"


@pytest.mark.adversary
@pytest.mark.parametrize("background", [False, True])
def test_what_is_still_being_computed_is_waited_for_before_it_is_compared(
    pool: Pool, tmp_path: Path, *, background: bool
) -> None:
    """E-G1: else equal values look as if they differed, in tensors and in objects that hold some."""
    found = values(pool.call(2, joined, programs.save_late, str(tmp_path), background))
    assert found == [[1.0, 1.0, 1.0]] * 2


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def _slow() -> Any:
    made = random.Random(3)
    made.random()
    return made.getstate()


EQUAL: list[tuple[Any, Any]] = [
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({1, 2, "x"}, {"x", 2, 1}),
    ([float("nan")], [-float("nan")]),
    (0.0, -0.0),
    (complex(0.0, -0.0), 0j),
    (["ab", "ab"], ["ab", "ABab"[2:]]),
    (_slow(), _slow()),
    (np.arange(6).reshape(2, 3).T, np.arange(6).reshape(2, 3).T.copy()),
    (torch.ones(2, 3).t(), torch.ones(3, 2)),
    (argparse.Namespace(a=1, b=[2]), argparse.Namespace(b=[2], a=1)),
    (collections.OrderedDict(a=1), collections.OrderedDict(a=1)),
    (collections.deque([1], 3), collections.deque([1], 3)),
    (io.BytesIO(b"x"), io.BytesIO(b"x")),
    (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
    (Colour.RED, Colour.RED),
    (np.random.RandomState(3).get_state(), np.random.RandomState(3).get_state()),
    (decimal.Decimal("1.5"), decimal.Decimal("1.5")),
    (copy.deepcopy, copy.deepcopy),
    (10**40, 10**40),
]
UNLIKE: list[tuple[Any, Any]] = [
    (1, 2),
    (1, True),
    (1, "1"),
    ([1, 2], [2, 1]),
    ([[1], [2]], [[1, 2]]),
    ("ab", b"ab"),
    ({"a": 1}, {"a": 2}),
    ({"a": "b"}, {"b": "a"}),
    (float("nan"), 0.0),
    (torch.float32, torch.float64),
    (torch.ones(2), torch.zeros(2)),
    (torch.ones(2), torch.ones(2, dtype=torch.int32)),
    (np.float32(1), np.float64(1)),
    (np.array(["a", None]), np.array(["b", None])),
    (Colour.RED, Colour.BLUE),
    (int, str),
    (argparse.Namespace(a=1), argparse.Namespace(a=2)),
    (collections.deque([1], 3), collections.deque([1], 4)),
    (io.BytesIO(b"x"), io.BytesIO(b"y")),
    (copy.deepcopy, copy.copy),
]


def _id(value: Any) -> str:
    """Name a value without its address and without a set's order: two processes must give a test the same name."""
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__} of {len(value)}"
    return repr(value).partition(" at 0x")[0][:30]


@pytest.mark.adversary
@pytest.mark.parametrize(("one", "other"), EQUAL, ids=_id)
def test_equal_values_raise_no_alarm(one: Any, other: Any) -> None:
    assert fingerprint.of_object(one) == fingerprint.of_object(other)


@pytest.mark.adversary
@pytest.mark.parametrize(("one", "other"), UNLIKE, ids=_id)
def test_other_values_are_told_apart(one: Any, other: Any) -> None:
    assert fingerprint.of_object(one) != fingerprint.of_object(other)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 4097])
@pytest.mark.parametrize("offset", [0, 3])
def test_sums_on_a_device_see_every_byte_and_its_place(size: int, offset: int) -> None:
    values = torch.randint(0, 255, (offset + size,), dtype=torch.uint8)[offset:]
    first = fingerprint.sums(values)
    assert fingerprint.sums(values.clone()) == first
    for at in range(0, size, 997):
        other = values.clone()
        other[at] ^= 1
        assert fingerprint.sums(other) != first
    if size >= 16 and not torch.equal(values[:8], values[8:16]):
        assert fingerprint.sums(torch.cat([values[8:16], values[:8], values[16:]])) != first


def test_ranks_are_compared_with_the_first_that_has_a_name() -> None:
    def prints(**pairs: int) -> fingerprint.Prints:
        rows = [(ord(name), value) for name, value in pairs.items()]
        return np.array(rows, dtype=np.uint64).reshape(-1, 2)

    ranks = [prints(b=1, a=1), prints(), prints(a=2, c=5, b=1), prints(c=5), prints(a=1, c=6), prints(a=3)]
    assert fingerprint.differing(ranks) == {ord("a"): [2, 5], ord("c"): [4]}
    assert fingerprint.differing([prints(), prints()]) == {}

"""What a nested state may say, whoever made it."""

from typing import Any

import pytest

from dcp_engine.format.nested import Nest, need_bounded

MOST = 1 << 20


class Tensor:
    """A value that is no plain one."""


def model(layers: int) -> dict[str, Any]:
    """Return the state of a training as trainings keep it."""
    names = [f"layers.{layer}.self_attn.{each}_proj.weight" for layer in range(layers) for each in "qkvo"]
    moments = {name: {"step": Tensor(), "exp_avg": Tensor(), "exp_avg_sq": Tensor()} for name in names}
    groups = [{"lr": 0.1, "betas": (0.9, 0.95), "params": names}]
    return {"model": dict.fromkeys(names, Tensor()), "optim": {"state": moments, "param_groups": groups}, "epoch": 3}


def shared(levels: int, join: Any) -> dict[str, Any]:
    """Return a state that holds two of what is one level below it, at each level."""
    value: Any = Tensor()
    for _ in range(levels):
        value = join(value)
    return {"state": value}


def within_itself() -> dict[str, Any]:
    state: dict[str, Any] = {}
    state["state"] = state
    return state


def nested_key(levels: int) -> dict[str, Any]:
    key: frozenset[Any] = frozenset((1,))
    for level in range(levels):
        key = frozenset((key, frozenset((key, level))))
    return {"state": {key: 1}}


HARMFUL: dict[str, tuple[dict[str, Any], str]] = {
    "dicts": (shared(60, lambda below: {"a": below, "b": below}), "far more than it has bytes"),
    "lists": (shared(60, lambda below: [below, below]), "far more than it has bytes"),
    "tuples": (shared(60, lambda below: (below, below)), "far more than it has bytes"),
    "a long key": ({"states": [dict.fromkeys(["k" * 1000], Tensor())] * 2000}, "far more than it has bytes"),
    "a list given to many": (dict.fromkeys(map(str, range(2000)), [1] * 1000), "far more than it has bytes"),
    "itself": (within_itself(), "nested more than 200 levels"),
    "deep": (shared(300, lambda below: [below]), "nested more than 200 levels"),
    "a nested key": (nested_key(60), "a key in it is nested"),
}


@pytest.mark.adversary
@pytest.mark.timeout(10)
@pytest.mark.parametrize(("state", "words"), HARMFUL.values(), ids=HARMFUL)
def test_what_is_held_once_and_stands_everywhere_is_refused(state: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        need_bounded(state, MOST)


@pytest.mark.parametrize(
    "state",
    [
        model(500),
        {"order": list(range(1 << 19)), "pairs": [[1, 2]] * 10_000},
        {("a", 1): Tensor(), 3: 1, None: 2, b"x": 3},
        Tensor(),
    ],
    ids=["a training", "long lists", "keys", "no dict"],
)
def test_what_trainings_keep_is_within_the_limit(state: Any) -> None:
    need_bounded(state, MOST)


def test_entries_come_to_stand_where_they_stood() -> None:
    nest = Nest(4)
    for path, value in (
        (("a",), 1),
        (("b", 2, "c"), 2),
        (("b", 0), 3),
        (("b", 2, "d", 1), 4),
    ):
        nest.put(path, value)
    assert nest.state == {"a": 1, "b": [3, None, {"c": 2, "d": [None, 4]}]}


PATHS: dict[str, tuple[list[tuple[str | int, ...]], str]] = {
    "a list without end": ([("a", 1 << 60)], "far longer than what is in them"),
    "many long lists": ([(str(number), 500_000) for number in range(5)], "far longer than what is in them"),
    "before the first": ([("a", -1)], "no such place"),
    "in a value": ([("a",), ("a", "b")], "no such place"),
    "a name in a list": ([("a", 0), ("a", "b")], "no such place"),
    "none": ([()], "no path"),
}


@pytest.mark.adversary
@pytest.mark.parametrize(("paths", "words"), PATHS.values(), ids=PATHS)
def test_a_path_that_no_state_has_is_refused(paths: list[tuple[str | int, ...]], words: str) -> None:
    nest = Nest(len(paths))

    def put_all() -> None:
        for path in paths:
            nest.put(path, 1)

    with pytest.raises(ValueError, match=words):
        put_all()

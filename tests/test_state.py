"""What a Load fills, leaves and refuses; models that are built without memory; optimizers before their first step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rank_pool
import state_programs as programs
from dcp_contract.operations import Operation
from dcp_contract.reasons import Reason
from dcp_contract.sections import Strategy
from rank_group import values
from rank_pool import Pool
from tasks import Cell, failures, succeed, task

pytestmark = pytest.mark.tier("ranks")

SHARDED = [Cell(Strategy.FSDP2, 2), Cell(Strategy.FSDP1, 2), Cell(Strategy.HSDP, 4)]
EVERY = [*SHARDED, Cell(Strategy.DDP, 2), Cell(Strategy.NONE, 2)]
ONE = Cell(Strategy.NONE, 1)
THERE = {"steps": 0, "ranks": 1}


@pytest.fixture(scope="module")
def saved(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that saves a workload from one rank, once."""
    places: dict[str, Path] = {}

    def save(workload: str = "Seed", steps: int = 0, **args: Any) -> Path:
        key = f"{workload} {steps} {args}"
        if key not in places:
            folder = tmp_path_factory.mktemp("saved")
            succeed(pool.work(task(Operation.SAVE, folder, ONE, workload, steps=steps, **args)))
            places[key] = folder
        return places[key]

    return save


# Models on the meta device


@pytest.mark.parametrize("cell", EVERY, ids=str)
def test_a_model_without_memory_has_its_buffers_and_ties_after_a_load(
    pool: Pool, saved: Callable[..., Path], cell: Cell
) -> None:
    succeed(pool.work(task(Operation.LOAD, saved("AwkwardSeed"), cell, "MetaAwkward", expect=THERE, meta=True)))


@pytest.mark.parametrize(
    ("saver", "loader", "cell"),
    [
        *(("AwkwardSeed", "AwkwardSeed", cell) for cell in EVERY),
        *(("Seed", "Looks", cell) for cell in SHARDED),
        *(("Holds", "Holds", cell) for cell in EVERY),
        # FSDP1 insists that each parameter is in the state dict.
        *(("Adapted", "Adapted", cell) for cell in EVERY if cell.strategy is not Strategy.FSDP1),
    ],
    ids=str,
)
def test_a_model_is_built_in_memory_where_a_load_would_leave_something_empty(
    pool: Pool, saved: Callable[..., Path], saver: str, loader: str, cell: Cell
) -> None:
    succeed(pool.work(task(Operation.LOAD, saved(saver), cell, loader, expect=THERE, meta=False)))


@pytest.mark.parametrize("cell", EVERY, ids=str)
def test_a_buffer_that_is_neither_loaded_nor_filled_fails_the_load(
    pool: Pool, saved: Callable[..., Path], cell: Cell
) -> None:
    found = failures(pool.work(task(Operation.LOAD, saved("AwkwardSeed"), cell, "Forgetful")))
    assert len(found) == cell.ranks
    assert {failure.reason for failure in found} == {Reason.STATE_MISMATCH}
    assert {failure.message for failure in found} == {"neither loaded nor filled by init_buffers(): mask"}


def test_a_stop_while_a_model_is_built_without_memory_is_heeded(pool: Pool, saved: Callable[..., Path]) -> None:
    [found] = failures(pool.work(task(Operation.LOAD, saved(), ONE, "Interrupted")))
    assert (found.reason, found.stage) == (Reason.WORKER_LOST, "building the model")


# What is loaded


@pytest.mark.parametrize("cell", [ONE, *SHARDED], ids=str)
@pytest.mark.parametrize(
    ("load", "kept"),
    [
        ({"strict": False}, ["*.net5.*"]),
        ({"exclude": ["*.net5.*"]}, ["*.net5.*"]),
        ({"exclude": ["*.net5.*", "model.net3.*"]}, ["*.net5.*", "model.net3.*"]),
        ({"include": ["model.net1.*"]}, ["model.net[2-5]*", "optim.*"]),
        ({"include": ["model.*"], "exclude": ["model.net5.*"]}, ["model.net5.*", "optim.*"]),
        ({"include": ["model.net[45].*"], "strict": False}, ["model.net[1235].*", "optim.*"]),
    ],
    ids=str,
)
def test_what_is_not_selected_or_not_there_stays_as_it_was_built(
    pool: Pool, saved: Callable[..., Path], load: dict[str, Any], kept: list[str], cell: Cell
) -> None:
    url = saved("Seed", 1, exact=True)
    succeed(pool.work(task(Operation.LOAD, url, cell, "Constant", kept=kept, load=load)))


@pytest.mark.parametrize("cell", [ONE, *SHARDED[:2]], ids=str)
@pytest.mark.parametrize(
    ("workload", "load", "reason", "words"),
    [
        ("Constant", {}, Reason.STATE_MISMATCH, ["net5."]),
        ("Constant", {"include": ["model.*"]}, Reason.STATE_MISMATCH, ["model.net5."]),
        ("Reshaped", {}, Reason.STATE_MISMATCH, ["net3.", "65"]),
        ("Reshaped", {"strict": False}, Reason.STATE_MISMATCH, ["net3.", "65"]),
        ("Seed", {"include": ["module.*"]}, Reason.INVALID_SPEC, ["spec.load.include: 'module.*' matches no entry"]),
        ("Seed", {"include": ["model.*", "extra.*"]}, Reason.INVALID_SPEC, ["'extra.*' matches no entry; there are"]),
        ("Seed", {"include": ["count.*"], "exclude": ["count.*"]}, Reason.INVALID_SPEC, ["leave nothing to load"]),
        ("Constant", {"include": ["model.net5.*"], "strict": False}, Reason.STATE_MISMATCH, ["holds nothing of what"]),
        ("Seed", {"exclude": ["optim.state.net9.*"]}, Reason.INVALID_SPEC, ["spec.load.exclude:", "there are count"]),
    ],
    ids=str,
)
def test_what_can_not_be_loaded_is_named(
    pool: Pool,
    saved: Callable[..., Path],
    workload: str,
    load: dict[str, Any],
    reason: Reason,
    words: list[str],
    cell: Cell,
) -> None:
    found = failures(pool.work(task(Operation.LOAD, saved(), cell, workload, load=load)))
    assert {failure.reason for failure in found} == {reason}
    assert all(word in found[0].message for word in words), found[0].message


@pytest.mark.parametrize("cell", [ONE, *SHARDED[:2]], ids=str)
def test_what_the_checkpoint_alone_has_can_be_excluded_and_not_included(pool: Pool, tmp_path: Path, cell: Cell) -> None:
    succeed(pool.work(task(Operation.SAVE, tmp_path, ONE, "Retyped")))
    succeed(pool.work(task(Operation.LOAD, tmp_path, cell, load={"exclude": ["model.scale"]})))
    [found, *_] = failures(pool.work(task(Operation.LOAD, tmp_path, cell, load={"include": ["model.scale"]})))
    assert found.reason is Reason.INVALID_SPEC
    assert "spec.load.include: 'model.scale' matches no entry; there are count" in found.message


@pytest.mark.parametrize("cell", [ONE, Cell(Strategy.FSDP2, 2)], ids=str)
def test_a_conversion_is_said(pool: Pool, tmp_path: Path, cell: Cell) -> None:
    succeed(pool.work(task(Operation.SAVE, tmp_path, ONE, "Retyped")))
    assert succeed(pool.work(task(Operation.LOAD, tmp_path, cell, "Retyped"))).warnings == ()
    rounded = succeed(pool.work(task(Operation.LOAD, tmp_path, cell, "Retyped", parameters="bfloat16")))
    [text] = rounded.warnings
    assert text.startswith("loaded with a conversion: model.net1.0.bias (float32 to bfloat16), ")
    assert text.endswith(" more")
    found = failures(pool.work(task(Operation.LOAD, tmp_path, cell, "Retyped", scale="int64")))
    assert {failure.reason for failure in found} == {Reason.STATE_MISMATCH}
    assert found[0].message == "the checkpoint's values can't be converted: model.scale (float32 to int64)"


def test_replicas_that_do_not_divide_the_ranks_are_refused(pool: Pool, tmp_path: Path) -> None:
    found = failures(pool.work(task(Operation.SAVE, tmp_path, Cell(Strategy.HSDP, 3))))
    assert {failure.reason for failure in found} == {Reason.INVALID_SPEC}
    assert found[0].message == "parallelism.replicate 2 does not divide the 3 ranks"


def comes_back(pool: Pool, folder: Path, cell: Cell, workload: str) -> None:
    """Save a workload after a step; compare what comes back in the same cell and on one rank with the reference."""
    succeed(pool.work(task(Operation.SAVE, folder, cell, workload, steps=1, exact=True)))
    expect = {"steps": 1, "ranks": cell.trainers}
    for loader in (cell, ONE):
        succeed(pool.work(task(Operation.LOAD, folder, loader, workload, exact=True, expect=expect)))


# Optimizers


@pytest.mark.parametrize("cell", EVERY, ids=str)
def test_an_optimizer_without_state_comes_back(pool: Pool, tmp_path: Path, cell: Cell) -> None:
    comes_back(pool, tmp_path, cell, "Stateless")


@pytest.mark.parametrize("cell", EVERY, ids=str)
def test_a_model_that_is_not_trained_comes_back(pool: Pool, tmp_path: Path, cell: Cell) -> None:
    succeed(pool.work(task(Operation.SAVE, tmp_path, cell, "Frozen")))
    succeed(pool.work(task(Operation.LOAD, tmp_path, cell, "Frozen")))


def test_an_optimizer_that_can_not_step_is_the_workloads_fault(pool: Pool, tmp_path: Path) -> None:
    found = failures(pool.work(task(Operation.SAVE, tmp_path, ONE, "Stalled")))
    assert [failure.reason for failure in found] == [Reason.ENTRYPOINT_ERROR]
    assert "no step without a batch" in found[0].message


def test_an_optimizer_over_other_parameters_is_the_workloads_fault(pool: Pool, tmp_path: Path) -> None:
    [found] = failures(pool.work(task(Operation.SAVE, tmp_path, ONE, "Stray")))
    assert (found.reason, found.stage) == (Reason.ENTRYPOINT_ERROR, "making the optimizer")
    assert "parameter 8 of group 0, of shape (2, 3), is none of the model's" in found.message


@pytest.mark.parametrize("name", programs.GROUPS)
def test_groups_of_an_optimizer(pool: Pool, name: str) -> None:
    assert values(pool.call(1, programs.group_mismatch, name)) == [programs.GROUPS[name][-1]]


@pytest.mark.parametrize("groups", [["net1*"], ["net2*", "net1*"], ["net[123]*", "net4*"]], ids=str)
def test_groups_are_those_of_the_checkpoint_or_nothing_is_loaded(
    pool: Pool, saved: Callable[..., Path], groups: list[str]
) -> None:
    url = saved("Grouped", groups=["net1*", "net2*"])
    work = task(Operation.LOAD, url, ONE, "Grouped", groups=groups, rates=[1.0, 0.5] if len(groups) > 1 else [1.0])
    outcomes = pool.work(work)
    if "net4*" not in groups:
        succeed(outcomes)
        return
    [found] = failures(outcomes)
    assert found.reason is Reason.STATE_MISMATCH
    assert "the checkpoint's optimizer has no settings for net3.bias, net3.weight, net4.1.bias" in found.message


@pytest.mark.parametrize("name", programs.OPTIMIZERS)
def test_state_that_is_made_before_the_first_step_changes_nothing(pool: Pool, name: str) -> None:
    assert values(pool.call(1, programs.early_state, name)) == [[]]


def test_only_parameters_without_state_get_one(pool: Pool) -> None:
    assert values(pool.call(1, programs.late_state)) == [[]]


# Training


def test_a_save_may_start_from_a_part_of_a_checkpoint(pool: Pool, saved: Callable[..., Path], tmp_path: Path) -> None:
    start = {"url": f"file://{saved()}"}
    part = start | {"exclude": ["optim.*"]}
    succeed(pool.work(task(Operation.SAVE, tmp_path / "part", ONE, from_=part)))
    wrong = start | {"include": ["module.*"]}
    [found] = failures(pool.work(task(Operation.SAVE, tmp_path / "wrong", ONE, from_=wrong)))
    assert found.stage == "loading save.from"
    assert "spec.save.from.include: 'module.*' matches no entry" in found.message


@pytest.mark.parametrize("cell", [Cell(Strategy.FSDP2, 2), Cell(Strategy.FSDP1, 2), Cell(Strategy.DDP, 2)], ids=str)
def test_a_save_goes_on_where_another_ended(pool: Pool, tmp_path: Path, cell: Cell) -> None:
    """Two steps in one go, or one and then another from its checkpoint: the same to the last bit."""
    succeed(pool.work(task(Operation.SAVE, tmp_path / "two", cell, steps=2)))
    succeed(pool.work(task(Operation.SAVE, tmp_path / "first", cell, steps=1)))
    start = {"url": f"file://{tmp_path / 'first'}"}
    second = succeed(pool.work(task(Operation.SAVE, tmp_path / "second", cell, steps=1, from_=start)))
    assert second.checkpoint is not None
    assert second.checkpoint.step == 2
    found = pool.call(1, programs.unequal_entries, *(str(tmp_path / name) for name in ("two", "second", "first")))
    [(same, changed)] = values(found)
    assert same == []
    assert "model.net1.0.weight" in changed
    assert "count.steps" in changed


@pytest.mark.parametrize(("first", "more"), [(2, None), (1, 1), (2, 0)], ids=["trained", "trained on", "passed on"])
def test_extra_state_is_that_after_the_steps(pool: Pool, tmp_path: Path, first: int, more: int | None) -> None:
    succeed(pool.work(task(Operation.SAVE, tmp_path / "0", ONE, "Plain", steps=first)))
    if more is not None:
        start = {"url": f"file://{tmp_path / '0'}"}
        succeed(pool.work(task(Operation.SAVE, tmp_path / "1", ONE, "Plain", steps=more, from_=start)))
    last = tmp_path / ("0" if more is None else "1")
    succeed(pool.work(task(Operation.LOAD, last, ONE, "Plain", count=2)))


@pytest.mark.parametrize("kind", ["arrays", "scalars", "python", "numbers", "deque"])
def test_extra_state_comes_back(pool: Pool, tmp_path: Path, kind: str) -> None:
    succeed(pool.work(task(Operation.SAVE, tmp_path, ONE, "Extra", kind=kind)))
    succeed(pool.work(task(Operation.LOAD, tmp_path, ONE, "Extra", kind=kind, blank=True)))


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("objects", "extra holds numpy.dtype.O8, which can't be read even if it is in `spec.workload.allow`. Save"),
        ("function", "extra holds builtins.len. Save"),
        ("local", "extra can't be pickled: "),
    ],
    ids=["objects", "function", "local"],
)
@pytest.mark.parametrize("cell", [ONE, Cell(Strategy.FSDP2, 2)], ids=str)
def test_extra_state_that_no_load_would_accept_is_not_saved(
    pool: Pool, tmp_path: Path, kind: str, words: str, cell: Cell
) -> None:
    found = failures(pool.work(task(Operation.SAVE, tmp_path, cell, "Extra", kind=kind)))
    assert found[0].reason is Reason.ENTRYPOINT_ERROR
    assert words in found[0].message
    assert not (tmp_path / ".metadata").exists()


def test_the_values_of_a_model_are_drawn_from_the_same_seeds(pool: Pool, tmp_path: Path) -> None:
    succeed(pool.work(task(Operation.SAVE, tmp_path, ONE, "Drawing")))
    succeed(pool.work(task(Operation.LOAD, tmp_path, ONE, "Drawing")))


def test_the_step_is_unknown_where_that_of_the_start_is(pool: Pool, tmp_path: Path) -> None:
    """Stock DCP keeps no step."""
    stock = tmp_path / "stock"
    values(pool.call(1, programs.save_stock, str(stock)))
    start = {"url": f"file://{stock}"}
    info = succeed(pool.work(task(Operation.SAVE, tmp_path / "on", ONE, steps=1, from_=start))).checkpoint
    assert info is not None
    assert info.step is None


def test_extra_state_that_fails_after_the_steps_is_named(pool: Pool, tmp_path: Path) -> None:
    [found] = failures(pool.work(task(Operation.SAVE, tmp_path, ONE, "Plain", steps=1, fails=True)))
    assert (found.reason, found.stage) == (Reason.ENTRYPOINT_ERROR, "asking for extra state")
    assert found.message == "extra_state() raised KeyError: 'epoch'"


def test_the_reference_is_exact(pool: Pool) -> None:
    """Gradients of the tests' models, summed in any order and divided by any number of ranks, are not rounded."""
    assert values(pool.call(1, programs.rounded_gradients)) == [[]]


def test_replicas_are_made_those_of_rank_0(pool: Pool) -> None:
    seen = values(pool.call(3, rank_pool.joined, programs.drifted_replicas))
    assert seen == [[], [], []]


def test_buffers_of_every_type_are_made_those_of_rank_0(pool: Pool) -> None:
    assert values(pool.call(2, rank_pool.joined, programs.drifted_types)) == [[], []]


@pytest.mark.parametrize("cell", EVERY, ids=str)
def test_buffers_of_every_type_are_saved_under_every_strategy(pool: Pool, tmp_path: Path, cell: Cell) -> None:
    succeed(pool.work(task(Operation.SAVE, tmp_path, cell, "Small", steps=1)))


# Units of sharding


def test_what_is_noted_on_a_parameter_stays(pool: Pool) -> None:
    assert values(pool.call(1, programs.noted)) == [True]


@pytest.mark.parametrize("cell", EVERY, ids=str)
def test_a_module_with_two_names_is_saved_and_loaded(pool: Pool, tmp_path: Path, cell: Cell) -> None:
    comes_back(pool, tmp_path, cell, "Twice")


@pytest.mark.parametrize("name", programs.LAYOUTS)
def test_units(pool: Pool, name: str) -> None:
    [(found, wanted)] = values(pool.call(1, programs.layout, name))
    assert found == wanted

"""What a Load does where checkpoint and workload are not quite alike, and what a Save says of what can't come back."""

from pathlib import Path
from typing import Any

import pytest

from dcp_contract.checkpoint_info import LoadSummary
from dcp_contract.operations import Operation
from dcp_contract.reasons import Reason
from dcp_contract.sections import Strategy
from dcp_worker.rank.result import Outcome
from rank_pool import Pool
from tasks import Cell, failures, succeed, task

pytestmark = pytest.mark.tier("ranks")

ONE = Cell(Strategy.NONE, 1)
FSDP2 = Cell(Strategy.FSDP2, 2)
FSDP1 = Cell(Strategy.FSDP1, 2)
DDP = Cell(Strategy.DDP, 2)


def run(pool: Pool, operation: Operation, url: Path, cell: Cell, workload: str, **fields: Any) -> list[Outcome]:
    return pool.work(task(operation, url, cell, f"state_workloads:{workload}", **fields))


def save(pool: Pool, url: Path, cell: Cell = ONE, workload: str = "Layered", **fields: Any) -> Outcome:
    return succeed(run(pool, Operation.SAVE, url, cell, workload, **fields))


def load(pool: Pool, url: Path, cell: Cell = ONE, workload: str = "Layered", **fields: Any) -> Outcome:
    return succeed(run(pool, Operation.LOAD, url, cell, workload, **fields))


def entries(outcome: Outcome) -> LoadSummary:
    assert outcome.checkpoint is not None
    assert outcome.checkpoint.entries is not None
    return outcome.checkpoint.entries


# A checkpoint with more than the workload


LARGER = {
    "a layer more": ({"layers": 3}, ["model.layers.2.bias", "model.layers.2.weight"]),
    "a part of the optimizer more": ({"layers": 3}, ["optim.state.layers.2.bias.exp_avg"]),
    "a key more in the extra state": ({"plain": {"data": {"epoch": 1, "position": 2}}}, ["data.position"]),
}


@pytest.mark.adversary
@pytest.mark.parametrize("cell", [ONE, FSDP2, FSDP1], ids=str)
@pytest.mark.parametrize(("saved", "named"), LARGER.values(), ids=LARGER)
def test_what_only_the_checkpoint_has_of_a_part_fails_a_load(
    pool: Pool, tmp_path: Path, cell: Cell, saved: dict[str, Any], named: list[str]
) -> None:
    save(pool, tmp_path, **saved)
    own = {"plain": {"data": {"epoch": 0}}} if "plain" in saved else {}
    found = failures(run(pool, Operation.LOAD, tmp_path, cell, "Layered", **own))
    assert {failure.reason for failure in found} == {Reason.STATE_MISMATCH}
    assert any(name in found[0].message for name in named), found[0].message


SELECTED: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "excluded": ({}, {"load": {"exclude": ["*.layers.2.*"]}}, 8),
    "not included": ({}, {"load": {"include": ["*.layers.[01].*"]}}, 8),
    "not strict": ({}, {"load": {"strict": False}}, 8),
    "a part that the workload has not": ({"layers": 2, "plain": {"data": {"epoch": 1}}}, {}, 1),
    "no optimizer here": ({"layers": 2}, {"trained": False}, 12),
}


@pytest.mark.adversary
@pytest.mark.parametrize("cell", [ONE, FSDP2], ids=str)
@pytest.mark.parametrize(("saved", "own", "left"), SELECTED.values(), ids=SELECTED)
def test_what_may_be_left_out_is_counted(
    pool: Pool, tmp_path: Path, cell: Cell, saved: dict[str, Any], own: dict[str, Any], left: int
) -> None:
    save(pool, tmp_path, **({"layers": 3} | saved))
    found = entries(load(pool, tmp_path, cell, **own))
    assert found.loaded > 0
    assert found.converted == 0
    assert left <= found.left_out <= left + 16, found


# What the optimizer may leave behind


@pytest.mark.adversary
@pytest.mark.parametrize("cell", [ONE, FSDP2, FSDP1], ids=str)
def test_state_of_what_is_frozen_later_is_left_out_and_said(pool: Pool, tmp_path: Path, cell: Cell) -> None:
    save(pool, tmp_path / "trained", steps=1)
    again = save(pool, tmp_path / "frozen", cell, frozen=[1], from_={"url": f"file://{tmp_path / 'trained'}"})
    [text] = again.warnings
    assert text == "frozen here, so its optimizer state is left out: layers.1.bias, layers.1.weight"
    found = load(pool, tmp_path / "trained", cell, frozen=[1])
    assert found.warnings == again.warnings
    assert entries(found).left_out == 6


@pytest.mark.adversary
@pytest.mark.parametrize("cell", [ONE, FSDP2], ids=str)
def test_settings_that_the_optimizer_here_has_not_are_said(pool: Pool, tmp_path: Path, cell: Cell) -> None:
    save(pool, tmp_path, scheduled=True)
    [text] = load(pool, tmp_path, cell).warnings
    assert text == "left out, since the optimizer here has no such setting: optim.param_groups.0.initial_lr"
    assert load(pool, tmp_path, cell, scheduled=True).warnings == ()


@pytest.mark.adversary
@pytest.mark.parametrize("cell", [ONE, FSDP2, FSDP1, DDP], ids=str)
def test_an_optimizers_state_keeps_its_types(pool: Pool, tmp_path: Path, cell: Cell) -> None:
    packed = cell is not FSDP1  # it takes no two types of state beside one parameter
    save(pool, tmp_path, cell, "Typed", steps=1, packed=packed)
    assert load(pool, tmp_path, cell, "Typed", packed=packed).warnings == ()


@pytest.mark.adversary
@pytest.mark.parametrize("cell", [ONE, DDP], ids=str)
@pytest.mark.parametrize("steps", [0, 2])
def test_an_optimizer_that_searches_goes_on_where_it_was(pool: Pool, tmp_path: Path, cell: Cell, steps: int) -> None:
    save(pool, tmp_path, cell, "Searching", steps=steps)
    load(pool, tmp_path, cell, "Searching", args={"steps": steps})


# Names and what modules keep beside their parameters


@pytest.mark.adversary
@pytest.mark.parametrize("cell", [ONE, FSDP2], ids=str)
def test_a_wrapper_changes_no_name(pool: Pool, tmp_path: Path, cell: Cell) -> None:
    save(pool, tmp_path / "wrapped", cell, wrapped=True, steps=1)
    save(pool, tmp_path / "plain", cell, steps=1)
    for place in ("wrapped", "plain"):
        for wrapped in (True, False):
            assert entries(load(pool, tmp_path / place, cell, wrapped=wrapped)).left_out == 0


@pytest.mark.adversary
@pytest.mark.parametrize("cell", [ONE, FSDP2], ids=str)
@pytest.mark.parametrize("form", ["tensor", "stream", "none"])
def test_a_modules_own_state_comes_back_as_it_was(pool: Pool, tmp_path: Path, cell: Cell, form: str) -> None:
    save(pool, tmp_path, cell, "Stated", form=form, length=9)
    expect = None if form == "none" else 9
    for own in ("tensor", "stream", "none"):
        load(pool, tmp_path, cell, "Stated", form=own, length=4, expect=expect)


# Classes


@pytest.mark.adversary
def test_a_class_is_loaded_if_it_is_allowed(pool: Pool, tmp_path: Path) -> None:
    [found] = failures(run(pool, Operation.SAVE, tmp_path, ONE, "Config"))
    assert found.reason is Reason.ENTRYPOINT_ERROR
    assert "optparse.Values" in found.message
    assert "list the classes in `spec.workload.allow`, in the save and in every load" in found.message
    save(pool, tmp_path, ONE, "Config", allow=["optparse.Values"])
    [found] = failures(run(pool, Operation.LOAD, tmp_path, ONE, "Config"))
    assert found.reason is Reason.STATE_MISMATCH
    assert "pass the classes in `spec.workload.allow`" in found.message
    load(pool, tmp_path, ONE, "Config", allow=["optparse.Values"])


BAD = {
    "no module": ("nowhere.Config", "nowhere.Config can't be imported (No module named 'nowhere')"),
    "no name": ("argparse.Nothing", "argparse.Nothing can't be imported"),
    "a function": ("os.system", "os.system is no class, but a builtin_function_or_method"),
    "a module": ("os.path", "os.path is no class, but a module"),
}


@pytest.mark.adversary
@pytest.mark.parametrize(("name", "words"), BAD.values(), ids=BAD)
def test_what_is_no_class_is_not_allowed(pool: Pool, tmp_path: Path, name: str, words: str) -> None:
    [found] = failures(run(pool, Operation.SAVE, tmp_path, ONE, "Config", allow=["optparse.Values", name]))
    assert found.reason is Reason.ENTRYPOINT_ERROR
    assert found.message.startswith(f"workload.allow: {words}"), found.message
    assert "\n" not in found.message


@pytest.mark.adversary
@pytest.mark.parametrize("cell", [ONE, FSDP2, DDP], ids=str)
def test_a_layer_without_a_shape_is_the_workloads_fault(pool: Pool, tmp_path: Path, cell: Cell) -> None:
    found = failures(run(pool, Operation.SAVE, tmp_path, cell, "Lazy"))
    assert {failure.reason for failure in found} == {Reason.ENTRYPOINT_ERROR}
    assert "0.weight" in found[0].message


@pytest.mark.adversary
@pytest.mark.parametrize("cell", [ONE, FSDP2], ids=str)
def test_a_buffer_of_a_class_of_its_own_comes_back(pool: Pool, tmp_path: Path, cell: Cell) -> None:
    save(pool, tmp_path, cell, "Labelled")
    load(pool, tmp_path, cell, "Labelled")


EVERY = [ONE, FSDP2, FSDP1, DDP, Cell(Strategy.NONE, 2)]


@pytest.mark.adversary
@pytest.mark.parametrize("cell", EVERY, ids=str)
@pytest.mark.parametrize("held", ["buffer", "parameter"])
def test_what_is_sparse_is_named_and_nothing_is_saved(pool: Pool, tmp_path: Path, cell: Cell, held: str) -> None:
    found = failures(run(pool, Operation.SAVE, tmp_path, cell, "Sparse", held=held))
    assert {failure.reason for failure in found} == {Reason.ENTRYPOINT_ERROR}
    kind = {"buffer": "Tensor", "parameter": "Parameter"}[held]
    assert f"model.adjacent is a {kind} of layout sparse_coo" in found[0].message
    assert not (tmp_path / ".metadata").exists()


@pytest.mark.adversary
@pytest.mark.parametrize("cell", EVERY, ids=str)
def test_a_sparse_buffer_that_no_checkpoint_holds_is_no_hindrance(pool: Pool, tmp_path: Path, cell: Cell) -> None:
    save(pool, tmp_path, cell, "Sparse", held="buffer beside", steps=1)
    load(pool, tmp_path, cell, "Sparse", held="buffer beside")


# What belongs to a rank


@pytest.mark.adversary
@pytest.mark.parametrize("cell", [FSDP2, FSDP1, DDP], ids=str)
def test_each_rank_gets_its_own_back(pool: Pool, tmp_path: Path, cell: Cell) -> None:
    save(pool, tmp_path, cell, "PerRank")
    load(pool, tmp_path, cell, "PerRank", blank=True)


@pytest.mark.adversary
def test_another_number_of_ranks_is_told_what_belongs_to_one(pool: Pool, tmp_path: Path) -> None:
    save(pool, tmp_path, FSDP2, "PerRank")
    found = failures(run(pool, Operation.LOAD, tmp_path, ONE, "PerRank", blank=True))
    assert {failure.reason for failure in found} == {Reason.STATE_MISMATCH}
    assert "was saved by 2 ranks, a value for each; now there is" in found[0].message.replace("are 1", "is 1")
    for selection in ({"exclude": ["rng.*", "loader.*"]}, {"include": ["model.*", "optim.*", "epoch"]}):
        load(pool, tmp_path, ONE, "PerRank", kept=True, load=selection)


@pytest.mark.adversary
def test_what_differs_between_ranks_is_not_saved_as_one(pool: Pool, tmp_path: Path) -> None:
    found = failures(run(pool, Operation.SAVE, tmp_path, FSDP2, "PerRank", wrapped=False))
    assert found[0].reason is Reason.ENTRYPOINT_ERROR
    assert "position.place" in found[0].message
    assert not (tmp_path / ".metadata").exists()

"""What a load says of names that the checkpoint has not."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch

import dcp_engine
import value_programs as programs
from dcp_engine.errors import StateMismatch
from dcp_engine.transfer import names
from rank_group import values
from rank_pool import Pool, joined

pytestmark = pytest.mark.tier("ranks")

CASES = {
    "B-13 compiled inside": (
        ["model.layers.0.weight"],
        ["model.layers.0._orig_mod.weight"],
        "differ by `_orig_mod.` (torch.compile): model.layers.0.weight is model.layers.0._orig_mod.weight",
    ),
    "F8 compiled here": (["_orig_mod.w"], ["w"], "`_orig_mod.` (torch.compile): _orig_mod.w is w"),
    "F8 raw DDP": (["m.w"], ["m.module.w"], "`module.` (DistributedDataParallel): m.w is m.module.w"),
    "checkpointed": (["m.w"], ["m._checkpoint_wrapped_module.w"], "(activation checkpointing)"),
    "FSDP1": (["m._fsdp_wrapped_module.w"], ["m.w"], "`_fsdp_wrapped_module.` (FSDP1)"),
    "F8 LoRA over a full model": (
        ["q.base_layer.w", "q.lora_A.w"],
        ["q.w"],
        "`base_layer.` (LoRA): q.base_layer.w is q.w",
    ),
    "adapters alone": (["q.lora_A.w"], ["q.w"], "LoRA adapters are among them (1), which it was saved without"),
    "F8 by rank": (["local.rank1of4.t"], ["local.rank0of2.t", "local.rank1of2.t"], "and 2 ranks saved it"),
    "by rank, otherwise": (["rng.rank_3"], ["rng.rank_0"], "as rng.rank_0 does, and 2 ranks saved it"),
    "renamed": (
        ["model.layer.0.weight"],
        ["model.layers.0.weight", "b"],
        "model.layers.0.weight for model.layer.0.weight",
    ),
    "nothing near": (["a"], ["zzzzzz"], "the checkpoint does not hold a"),
}


@pytest.mark.adversary
@pytest.mark.parametrize(("wanted", "there", "words"), CASES.values(), ids=CASES)
def test_what_is_missing_is_explained(tmp_path: Path, wanted: list[str], there: list[str], words: str) -> None:
    text = names.missing(wanted, wanted, there, saved_by=2)
    assert words in text
    assert all(name in text for name in wanted)


@pytest.mark.adversary
def test_all_that_is_missing_is_listed_at_once(tmp_path: Path) -> None:
    dcp_engine.save({"w": torch.ones(2), "n": {f"x{number}": number for number in range(3)}}, tmp_path / "c")
    state: dict[str, Any] = {"w": torch.ones(2), "n": {"x0": 0, **{f"y{number}": 0 for number in range(12)}}}
    with pytest.raises(
        StateMismatch, match=r"does not hold n\.y0, n\.y1, .* and 4 more\. The nearest .*n\.x1 for n\.y1"
    ):
        dcp_engine.load(state, tmp_path / "c")


@pytest.mark.adversary
def test_the_ranks_that_saved_are_told(tmp_path: Path) -> None:
    dcp_engine.save({"rng": {"rank0": torch.ones(2)}}, tmp_path / "c")
    with pytest.raises(
        StateMismatch, match=r"rng\.rank1\. Its names say the rank, as rng\.rank0 does, and 1 rank saved"
    ):
        dcp_engine.load({"rng": {"rank1": torch.ones(2)}}, tmp_path / "c")


@pytest.mark.adversary
def test_many_names_are_explained_soon() -> None:
    there = [f"model.layers.{number}.block.weight" for number in range(100_000)]
    wanted = [f"model.layer.{number}.blocks.weights" for number in range(100_000)]
    began = time.process_time()
    assert len(names.missing(wanted, {*wanted}, there, None)) < 2000
    assert time.process_time() - began < 10


@pytest.mark.adversary
def test_what_one_rank_misses_is_told_to_all(pool: Pool, tmp_path: Path) -> None:
    """F8: each rank has names of its own; three ranks saved, and two load."""
    values(pool.call(3, joined, programs.save_own_names, str(tmp_path)))
    found = values(pool.call(2, joined, programs.load_own_names, str(tmp_path), {1: ["local.rank1of2.t"]}))
    assert found[0] == found[1]
    rank, message = found[0]
    assert rank == 1
    assert "the checkpoint does not hold local.rank1of2.t. Its names say the rank, as local.rank" in message
    assert "and 3 ranks saved it" in message
    # Several ranks miss something: the first is named, the same on all.
    asked = {0: ["local.rank0of2.t"], 1: ["local.rank1of2.t"]}
    found = values(pool.call(2, joined, programs.load_own_names, str(tmp_path), asked))
    assert found[0] == found[1]
    assert asked[found[0][0]][0] in found[0][1]

"""Tensors that are not plain: what is saved of them is what they were, or they are refused by name."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import WriteItem

import dcp_engine
import value_programs as programs
from dcp_engine.errors import EngineError, StateMismatch, UnsavableState
from rank_group import values
from rank_pool import Pool, joined
from value_programs import Liar, Named, Opaque, Scaled, Unclonable, scaled

pytestmark = pytest.mark.tier("ranks")

Save = Callable[[dict[str, Any], Path], Any]


@pytest.fixture(params=["save", "async_save"])
def save(request: pytest.FixtureRequest) -> Save:
    if request.param == "save":
        return dcp_engine.save
    return lambda state, url: dcp_engine.async_save(state, url).wait()


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    if isinstance(tensor, Scaled):
        return [tensor.data8, tensor.scale]
    if isinstance(tensor, Opaque):
        return [tensor.held]
    with torch._C.DisableTorchFunctionSubclass():
        return [tensor.detach().as_subclass(torch.Tensor)]


def _values(seed: float) -> torch.Tensor:
    return torch.arange(6.0).reshape(2, 3) * seed


KEPT: dict[str, Callable[[float], torch.Tensor]] = {
    "wrapper": scaled,
    "wrapper that torch can't copy": lambda seed: scaled(seed, Unclonable),
    "parameter over a wrapper": lambda seed: torch.nn.Parameter(scaled(seed), requires_grad=False),
    "wrapper without parts": lambda seed: Opaque(_values(seed)),
    "subclass with memory": lambda seed: _values(seed).as_subclass(Named),
    "strided subclass": lambda seed: _values(seed).t().as_subclass(Named),
    "part of a subclass": lambda seed: torch.arange(30.0).mul(seed).as_subclass(Named)[3:9].reshape(2, 3),
    "subclass that answers for itself": lambda seed: _values(seed).as_subclass(Liar),
    "conjugated": lambda seed: torch.complex(_values(seed), _values(seed + 1)).conj(),
    "negated": lambda seed: torch.complex(_values(seed), _values(seed)).conj().imag,
}


@pytest.mark.adversary
@pytest.mark.parametrize("kind", KEPT)
def test_tensors_of_every_class_come_back(tmp_path: Path, save: Save, kind: str) -> None:
    saved = KEPT[kind](2.0)
    before = [part.clone() for part in _parts(saved)]
    save({"m": {"w": saved}}, tmp_path)
    found = {"m": {"w": KEPT[kind](0.0)}}
    target = _parts(found["m"]["w"])
    dcp_engine.load(found, tmp_path, allow=[Scaled, Unclonable, Opaque])
    assert all(map(torch.equal, _parts(found["m"]["w"]), before))
    assert all(map(torch.equal, target, before)), "the tensor that the caller holds was not filled"
    assert type(found["m"]["w"]) is type(saved)


@pytest.mark.adversary
@pytest.mark.parametrize("kind", KEPT)
def test_what_is_staged_is_what_was_there_at_the_call(tmp_path: Path, kind: str) -> None:
    saved = KEPT[kind](2.0)
    before = [part.clone() for part in _parts(saved)]
    saving = dcp_engine.async_save({"w": saved, "object": (saved, "x")}, tmp_path)
    for part in _parts(saved):
        with torch.no_grad():
            part.zero_()
    saving.wait()
    found = {"w": KEPT[kind](0.0)}
    dcp_engine.load(found, tmp_path, allow=[Scaled, Unclonable, Opaque])
    assert all(map(torch.equal, _parts(found["w"]), before))


def test_tied_tensors_are_staged_once(tmp_path: Path) -> None:
    from dcp_engine.transfer import staging

    one = torch.ones(4)
    staged = staging.copied({"a": one, "b": {"c": [one, one[:2]]}}, pinned=False)
    assert staged["a"] is staged["b"]["c"][0]
    assert staged["a"].untyped_storage().data_ptr() == staged["b"]["c"][1].untyped_storage().data_ptr()


def _freed() -> torch.Tensor:
    tensor = torch.ones(4)
    tensor.untyped_storage().resize_(0)
    return tensor


def _sparse() -> torch.Tensor:
    return torch.eye(3).to_sparse()


def _quantized(scale: float = 0.5) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3), scale, 1, torch.qint8)


def _nested(layout: torch.layout) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=layout)


def _compressed(layout: torch.layout) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        block = (1, 1) if layout in {torch.sparse_bsr, torch.sparse_bsc} else None
        return torch.eye(4).to_sparse(layout=layout, blocksize=block)


def _fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.ones(3)


def _functional() -> torch.Tensor:
    return torch._to_functional_tensor(torch.ones(3))


def _int4() -> torch.Tensor:
    return torch.zeros(4, dtype=torch.uint8).view(getattr(torch, "uint4"))  # noqa: B009 - torch does not declare it


REFUSED: list[tuple[Callable[[], torch.Tensor], str]] = [
    (_sparse, "Tensor of layout sparse_coo: save its indices"),
    *(
        (lambda layout=layout: _compressed(layout), f"Tensor of layout {str(layout)[6:]}: save")
        for layout in (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
    ),
    (_quantized, r"quantized Tensor: save its int_repr\(\)"),
    (lambda: _nested(torch.strided), "nested Tensor"),
    (lambda: _nested(torch.jagged), "nested NestedTensor"),
    (lambda: torch.ones(3, device="meta"), "Tensor on the meta device"),
    (_fake, "FakeTensor of a trace"),
    (_functional, "Tensor of a trace"),
    (_freed, "Tensor without memory"),
    (_int4, r"of type uint4, which the format can't hold: save its view\(torch.uint8\)"),
    (lambda: torch.nn.LazyLinear(3).weight, "UninitializedParameter of a lazy module: run the module once"),
    (
        lambda: Scaled(torch.ones(3, dtype=torch.int8), torch.ones(1, device="meta")),
        "Scaled whose scale is a Tensor",
    ),
    (lambda: Scaled(_sparse().to(torch.int8), torch.ones(1)), "Scaled whose data8 is a Tensor of layout sparse_coo"),
]


@pytest.mark.adversary
@pytest.mark.parametrize(("made", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_would_not_come_back_is_refused_by_name(
    tmp_path: Path, save: Save, made: Callable[[], torch.Tensor], message: str
) -> None:
    state = {"fine": torch.ones(2), "m": {"first": made(), "second": [made()]}}
    with pytest.raises(UnsavableState, match=rf"m\.first is a .*{message}.*; m\.second\.0 is a|{message}") as caught:
        save(state, tmp_path)
    assert "m.first is" in str(caught.value)
    assert "m.second.0 is" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.adversary
def test_a_module_that_is_lazy_is_refused_at_a_load_too(tmp_path: Path) -> None:
    dcp_engine.save({"w": torch.ones(3, 3)}, tmp_path)
    with pytest.raises(StateMismatch, match="w is a UninitializedParameter of a lazy module"):
        dcp_engine.load({"w": torch.nn.LazyLinear(3).weight}, tmp_path)


@pytest.mark.adversary
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("made", [_sparse, _quantized], ids=["sparse", "quantized"])
def test_what_older_saves_and_stock_kept_of_them_is_not_half_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Callable[[], torch.Tensor]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("dcp_engine.transfer.tensors.fault", lambda _: None)
        patch.setattr("dcp_engine.transfer.tensors.is_wrapper", lambda tensor: tensor.is_sparse or tensor.is_quantized)
        dcp_engine.save({"w": made()}, tmp_path)
    dense = torch.zeros(made().shape)
    with pytest.raises(StateMismatch, match=r"w of the checkpoint is a|w \(qint8 to float32\)"):
        dcp_engine.load({"w": dense}, tmp_path)
    with pytest.raises(StateMismatch, match=r"nothing can be loaded into this state: w is a"):
        dcp_engine.load({"w": made()}, tmp_path)


@pytest.mark.adversary
def test_wrappers_with_other_settings_are_not_mixed(tmp_path: Path) -> None:
    dcp_engine.save({"w": scaled(2.0, step=3)}, tmp_path)
    with pytest.raises(StateMismatch, match=r"w: the checkpoint holds a Scaled with 3 .* with 4"):
        dcp_engine.load({"w": scaled(0.0, step=4)}, tmp_path, allow=[Scaled])


class Other(DefaultSavePlanner):
    """Hands on something else than it planned."""

    def __init__(self, made: torch.Tensor) -> None:
        super().__init__()
        self.made = made

    def transform_object(self, write_item: WriteItem, object: Any) -> Any:  # noqa: A002
        return self.made if isinstance(object, torch.Tensor) else super().transform_object(write_item, object)


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("made", "message"),
    [
        (torch.ones(2), r"w is float32 \(2,\) on this rank, where its plan says float32 \(3,\)"),
        (torch.ones(4)[:3].double(), r"w is float64 \(3,\) on this rank, where its plan says float32 \(3,\)"),
        (torch.eye(3).to_sparse(), "w is a Tensor of layout sparse_coo"),
    ],
    ids=["shape", "type", "layout"],
)
def test_what_a_planner_hands_on_is_what_it_planned(tmp_path: Path, made: torch.Tensor, message: str) -> None:
    with pytest.raises(UnsavableState, match=message):
        dcp_engine.save({"w": torch.zeros(3)}, tmp_path, planner=Other(made))
    assert dcp_engine.find(tmp_path) is None
    assert not list(tmp_path.rglob("*.distcp"))


LOCAL = (
    "w is a DTensor whose local tensor is {}, where {} under {} has {} on this rank: cut it as distribute_tensor does"
)
UNEVEN = {
    "shorter": LOCAL.format("(1, 4)", "(5, 4)", "(Shard(dim=0),)", "(2, 4)"),
    "longer": LOCAL.format("(4, 4)", "(6, 4)", "(Shard(dim=0),)", "(3, 4)"),
    "replica": LOCAL.format("(1, 4)", "(3, 4)", "(Replicate(),)", "(3, 4)"),
    "partial": "w is a DTensor of partial sums: redistribute() it first",
    "shards": "w is a ShardedTensor whose shard is (1, 4), where its metadata say (2, 4)",
    "wrapper": LOCAL.format("(2, 3)", "(3, 3)", "(Shard(dim=0),)", "(1, 3)"),
}


@pytest.mark.adversary
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("kind", UNEVEN)
def test_shards_that_are_not_what_the_plan_says_are_refused(
    pool: Pool, tmp_path: Path, kind: str, *, background: bool
) -> None:
    for result in pool.call(2, joined, programs.uneven, str(tmp_path), kind, background):
        assert result.value == f"UnsavableState: this state can't be saved: {UNEVEN[kind]}"
    assert not [path for path in tmp_path.rglob("*") if path.name == ".metadata" or path.suffix == ".distcp"]


UNLIKE = {
    "object": "a.w is float32 (2,) on rank 0 and an object on rank 1",
    "shape": "a.w is float32 (2,) on rank 0 and float32 (3,) on rank 1",
    "type": "a.w is float32 (2,) on rank 0 and bfloat16 (2,) on rank 1",
    "shards": "a.w is bfloat16 (4,) on rank 0 and float32 (4,) on rank 1",
    "whole first": "a.w is float32 (4,), whole on rank 0 and a shard of it on rank 1",
    "whole last": "a.w is float32 (4,), whole on rank 1 and a shard of it on rank 0",
}


@pytest.mark.adversary
@pytest.mark.parametrize("kind", UNLIKE)
def test_one_name_for_different_things_is_refused(pool: Pool, tmp_path: Path, kind: str) -> None:
    for result in pool.call(2, joined, programs.unlike, str(tmp_path), kind):
        assert result.value == f"UnsavableState: this state can't be saved: {UNLIKE[kind]}"


@pytest.mark.adversary
@pytest.mark.parametrize("background", [False, True])
def test_wrappers_under_dtensors_come_back(pool: Pool, tmp_path: Path, *, background: bool) -> None:
    assert values(pool.call(2, joined, programs.sharded_wrappers, str(tmp_path), background)) == [True, True]


@pytest.mark.adversary
def test_an_entry_that_can_not_be_copied_is_named(tmp_path: Path) -> None:
    class Uncopied:
        def __deepcopy__(self, memo: object) -> None:
            raise RuntimeError("not me")

    with pytest.raises(EngineError, match=r"extra\.loader \(Uncopied\) can't be copied: .* not me"):
        dcp_engine.async_save({"extra": {"loader": Uncopied()}}, tmp_path)


def test_bytes_that_are_no_tensor_stay_as_they_are(tmp_path: Path) -> None:
    saved = {"b": io.BytesIO(b"abc")}
    dcp_engine.async_save(saved, tmp_path).wait()
    found = {"b": io.BytesIO()}
    dcp_engine.load(found, tmp_path, allow=[io.BytesIO])
    assert found["b"].getvalue() == b"abc"

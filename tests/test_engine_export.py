"""`export`: what Hugging Face's own library reads is what was saved, and what an export refuses and replaces."""

import importlib
import json
import threading
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import dcp_engine
import export_situations as situations
import s3_server
from dcp_engine import failpoints
from dcp_engine.errors import (
    CheckpointCorrupted,
    CheckpointExists,
    CheckpointNotFound,
    EngineError,
    InvalidOption,
    StateMismatch,
)
from dcp_engine.format.safetensors import INDEX
from dcp_engine.stores.opening import open_store
from engine_places import Place
from rank_group import run_ranks, values

pytestmark = [pytest.mark.tier("ranks"), pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "file":
        return Place(str(tmp_path / "hf"), None)
    server: s3_server.S3Server = request.getfixturevalue("s3")
    return Place(server.url(tmp_path.name), server.options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Checkpoints of two seeds."""
    return situations.saved_in(tmp_path_factory.mktemp("saved"))


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


# What is exported.


@pytest.mark.parametrize("memory_limit", [200, 1 << 28], ids=["a few values at once", "all at once"])
def test_every_type_from_a_mesh_of_two_dimensions_is_whole_and_bit_for_bit(tmp_path: Path, memory_limit: int) -> None:
    values(run_ranks(4, situations.save_on_a_mesh, str(tmp_path / "run")))
    info = dcp_engine.export(tmp_path / "run", tmp_path / "hf", shard_bytes=400, memory_limit=memory_limit)
    found, expected = situations.read(tmp_path / "hf"), situations.of_every_type()
    assert {name: (value.dtype, value.shape) for name, value in found.items()} == {
        name: (value.dtype, value.shape) for name, value in expected.items()
    }
    assert [name for name, value in expected.items() if bits(found[name]) != bits(value)] == []
    assert (info.tensors, info.files) == (len(expected), len(list((tmp_path / "hf").glob("model-*.safetensors"))))
    assert info.files is not None
    assert info.files > 2


def test_a_cast_rounds_floats_and_leaves_all_else(tmp_path: Path) -> None:
    state = {"w": torch.randn(50, 3), "half": torch.ones(2).half(), "n": torch.arange(3), "yes": torch.tensor([True])}
    dcp_engine.save({"model": state}, tmp_path / "run", no_dist=True)
    dcp_engine.export(tmp_path / "run", tmp_path / "hf", dtype=torch.bfloat16)
    found = situations.read(tmp_path / "hf")
    expected = {name: value.bfloat16() if value.is_floating_point() else value for name, value in state.items()}
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert {name: value.dtype for name, value in found.items()} == {n: v.dtype for n, v in expected.items()}


def test_names_are_mapped_and_selected(tmp_path: Path) -> None:
    names = ["model.layers.0.attn.q", "model.layers.1.attn.q", "model.norm", "ema.norm", "optim.norm"]
    dcp_engine.save({name: torch.tensor(float(at)) for at, name in enumerate(names)}, tmp_path / "run", no_dist=True)
    cases: list[tuple[dict[str, Any], dict[str, int]]] = [
        ({}, {"layers.0.attn.q": 0, "layers.1.attn.q": 1, "norm": 2}),
        ({"select": ["ema"]}, {"ema.norm": 3}),
        ({"select": ["*norm"], "keys": {"*": "*"}}, {"model.norm": 2, "ema.norm": 3, "optim.norm": 4}),
        (
            {"keys": {"model.norm": "ln_f", "model.layers.*.attn.*": "h.*.self.*.weight"}},
            {"ln_f": 2, "h.0.self.q.weight": 0, "h.1.self.q.weight": 1},
        ),
    ]
    for options, expected in cases:
        dcp_engine.export(tmp_path / "run", tmp_path / "hf", overwrite=True, **options)
        assert {name: int(value) for name, value in situations.read(tmp_path / "hf").items()} == expected


def test_a_stock_checkpoint_is_exported_too(tmp_path: Path) -> None:
    import stock_dcp as dcp

    state = {"model": {"w": torch.randn(40, 30), "t": torch.randn(6, 4).t()}}
    dcp.save(state, checkpoint_id=tmp_path / "run", no_dist=True)
    dcp_engine.export(tmp_path / "run", tmp_path / "hf", memory_limit=1 << 12)
    found = situations.read(tmp_path / "hf")
    assert all(torch.equal(found[name], value) for name, value in state["model"].items())


def test_transformers_load_what_was_exported(tmp_path: Path) -> None:
    """With a shard for each few tensors, and the tensors' own names."""
    transformers: Any = importlib.import_module("transformers")
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=100
    )
    model = transformers.BertModel(config).eval()
    config.save_pretrained(tmp_path / "config")
    dcp_engine.save({"model": model.state_dict()}, tmp_path / "run", no_dist=True)
    dcp_engine.export(
        tmp_path / "run",
        tmp_path / "hf",
        shard_bytes=20_000,
        config_files=[tmp_path / "config" / "config.json"],
    )
    loaded, report = transformers.BertModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        assert torch.equal(model(tokens).last_hidden_state, loaded.eval()(tokens).last_hidden_state)


# What is refused, before anything is written or with nothing left.


def test_damage_is_named_and_nothing_is_exported(tmp_path: Path) -> None:
    situations.save(1, tmp_path / "run")
    chunk = dcp_engine.inspect(tmp_path / "run").tensors["model.layers.3"].chunks[0]
    (data,) = (tmp_path / "run").glob("data-*/*.distcp")
    content = bytearray(data.read_bytes())
    content[chunk.offset + (chunk.payload or 0) + 5] ^= 1
    data.write_bytes(content)
    with pytest.raises(CheckpointCorrupted, match=rf"{data.name}: the block at byte .*model\.layers\.3"):
        situations.export(str(tmp_path / "run"), str(tmp_path / "hf"))
    assert list((tmp_path / "hf").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"dtype": "int8"}, InvalidOption, "dtype: 'int8' is none of float64"),
        ({"dtype": "bflaot16"}, InvalidOption, "dtype: 'bflaot16' is none of"),
        (
            {"dtype": "float16"},
            StateMismatch,
            r"w: the checkpoint holds 1\.0000.*e\+30 as float32, which float16 can't hold",
        ),
        ({"select": ["modle"]}, StateMismatch, "select: nothing is chosen by modle; there are model.w"),
        ({"keys": {"model.*": "*", "x.*": "*"}}, StateMismatch, "keys: nothing is chosen by x"),
        ({"keys": {"model.*": "w"}}, InvalidOption, "keys: model.w and model.z both become w"),
        ({"keys": {"model.w": "*"}}, InvalidOption, r"has more stars than 'model.w'"),
        ({"select": ["z"], "keys": {"*": "*"}}, InvalidOption, r"no type for z \(complex128\)"),
        ({"shard_bytes": 0}, InvalidOption, "shard_bytes: 0"),
        (
            {"keys": {"model.w": "__metadata__"}},
            InvalidOption,
            "no tensor named '__metadata__'; give 'model.w' another",
        ),
        ({"keys": {"model.w": "\udc80"}}, InvalidOption, r"no tensor named '\\udc80'"),
        ({"config_files": "config.json"}, InvalidOption, "write \\['config.json'\\]"),
        ({"config_files": ["/nowhere/config.json"]}, InvalidOption, "/nowhere/config.json is not there"),
        ({"config_files": ["a/model.safetensors"]}, InvalidOption, "has no name of a config file"),
    ],
)
def test_what_can_not_be_exported_is_refused(
    tmp_path: Path, options: dict[str, Any], error: type[EngineError], words: str
) -> None:
    state = {"model": {"w": torch.tensor([1e30]), "z": torch.ones(1)}, "z": torch.ones(1, dtype=torch.complex128)}
    dcp_engine.save(state, tmp_path / "run", no_dist=True)
    with pytest.raises(error, match=words):
        dcp_engine.export(tmp_path / "run", tmp_path / "hf", **options)
    assert not (tmp_path / "hf").exists() or list((tmp_path / "hf").iterdir()) == []


def test_no_source_no_export(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound):
        dcp_engine.export(tmp_path / "run", tmp_path / "hf")


# An export over an export.


def test_a_model_that_stands_there_is_replaced_only_on_request(tmp_path: Path, saved: dict[int, str]) -> None:
    first = dcp_engine.export(saved[1], tmp_path)
    with pytest.raises(CheckpointExists, match=f"export {first.save_id}") as caught:
        dcp_engine.export(saved[2], tmp_path)
    assert caught.value.conflict is not None
    assert caught.value.conflict.save_id == first.save_id
    assert situations.held(tmp_path) == 1
    dcp_engine.export(saved[2], tmp_path, overwrite=True)
    assert situations.held(tmp_path) == 2
    assert len(list(tmp_path.iterdir())) == 2, "a file system keeps nothing of what was replaced"


def test_a_model_in_one_file_is_in_the_way(tmp_path: Path, saved: dict[int, str]) -> None:
    """transformers would go on reading it."""
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(InvalidOption, match="remove it"):
        dcp_engine.export(saved[1], tmp_path, overwrite=True)


def test_files_of_others_stay(tmp_path: Path, saved: dict[int, str]) -> None:
    mine = ["model-00001-of-00001.safetensors", "notes.txt", f"model-{'a' * 32}-00001-of-00001.safetensors"]
    for name in mine:
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"w": mine[0]}}))
    for seed in (1, 2):
        dcp_engine.export(saved[seed], tmp_path, overwrite=True)
    assert {*mine} < {path.name for path in tmp_path.iterdir()}


def test_config_files_change_only_with_the_model_that_they_belong_to(tmp_path: Path, saved: dict[int, str]) -> None:
    """Both can't be replaced in one step; so another one is refused, and a reader never finds a mixture."""
    config, folder = tmp_path / "config.json", tmp_path / "hf"
    config.write_text("{}")
    situations.export(saved[1], str(folder), config_files=[config])
    assert (folder / "config.json").read_text() == "{}"
    situations.export(saved[2], str(folder), config_files=[config])
    config.write_text('{"other": 1}')
    with pytest.raises(CheckpointExists, match=r"whose config\.json is another one"):
        situations.export(saved[1], str(folder), config_files=[config])
    assert (situations.held(folder), (folder / "config.json").read_text()) == (2, "{}")
    (folder / INDEX).unlink()
    situations.export(saved[1], str(folder), config_files=[config])
    assert (folder / "config.json").read_text() == '{"other": 1}'


def test_a_bucket_keeps_what_was_replaced_for_its_readers(
    s3: s3_server.S3Server, tmp_path: Path, saved: dict[int, str]
) -> None:
    url = s3.url(tmp_path.name)
    ids = []
    for keep in (3600, 3600, 0, 0):
        options = {**s3.options, "keep_replaced": keep}
        ids.append(dcp_engine.export(saved[1], url, overwrite=True, storage_options=options).save_id)
        kept = {key.partition("model-")[2][:32] for key in s3.keys(tmp_path.name) if "model-" in key}
        assert kept == set(ids if keep else ids[-1:])


def test_a_clean_up_takes_what_a_killed_export_left_and_what_is_due(
    place: Place, tmp_path: Path, saved: dict[int, str]
) -> None:
    keep = timedelta(hours=1)
    killed = f"model-{'a' * 32}-00001-of-00002.safetensors"
    options = {**(place.options or {}), "keep_replaced": 3600}
    exported = partial(dcp_engine.export, overwrite=True, storage_options=options)
    first, last = (exported(saved[seed], place.url).save_id for seed in (1, 2))
    place.put(killed)
    place.put("model-00001-of-00001.safetensors")

    def left(**options: Any) -> set[str]:
        dcp_engine.clean(place.url, storage_options=place.options, **options)
        return {path.removeprefix("model-")[:32] for path in place.files() if path.startswith("model-")}

    strangers = {"00001-of-00001.safetensors"}
    assert left(keep_replaced=keep) == {"a" * 32, first, last} | strangers
    assert left(keep_replaced=keep, older_than=timedelta(0)) == {first, last} | strangers
    assert left(keep_replaced=timedelta(0)) == {last} | strangers
    assert last in json.dumps(json.loads(open_store(place.url, place.options).read(INDEX).data)["weight_map"])


def test_the_source_may_be_replaced_meanwhile(tmp_path: Path, hooked: None) -> None:
    """Its data go under the export, which starts over with what stands there now; two saves are never mixed."""
    situations.save(1, tmp_path / "run")
    replaced = threading.Event()

    def replace(point: str) -> None:
        if point == "mid-part" and not replaced.is_set():
            replaced.set()
            dcp_engine.save(situations.state(2), tmp_path / "run", no_dist=True, overwrite=True)

    failpoints.hook = replace
    info = situations.export(str(tmp_path / "run"), str(tmp_path / "hf"), memory_limit=8 * situations.VALUES)
    assert replaced.is_set()
    assert (situations.held(tmp_path / "hf"), info.step) == (2, None)


def test_what_the_library_says_of_a_file(tmp_path: Path, saved: dict[int, str]) -> None:
    """`format: pt`, without which transformers refuse a file; and the index says where all of it came from."""
    situations.export(saved[1], str(tmp_path))
    index = json.loads((tmp_path / INDEX).read_text())
    for name in set(index["weight_map"].values()):
        with safe_open(tmp_path / name, framework="np") as file:
            assert file.metadata() == {"format": "pt"}
    assert index["metadata"]["total_size"] == situations.LAYERS * situations.VALUES * 4 + 8
    assert index["metadata"]["dcpOperator"]["source"]["step"] == 1
    assert index["metadata"]["dcpOperator"]["source"]["saveId"] == dcp_engine.inspect(saved[1]).save_id

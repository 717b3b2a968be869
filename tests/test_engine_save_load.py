"""The engine end to end: real ranks, local files and a real S3 protocol, both ways with stock DCP."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import _version

import dcp_engine
import engine_programs as programs
from dcp_contract.checkpoint_info import Origin
from dcp_contract.reasons import Reason
from dcp_engine.errors import CheckpointExists, CheckpointNotFound, EngineError, StateMismatch
from rank_group import run_ranks, values
from rank_pool import Pool, joined

pytestmark = pytest.mark.tier("ranks")

PAGE = Path(__file__).parents[1] / "docs/training-script.md"
ORIGIN = Origin(namespace="team", name="step-7", uid="u-1", run_id="r1")


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    if request.param == "local":
        return str(tmp_path / "checkpoint"), {}
    server = request.getfixturevalue("s3")
    return server.url(f"{tmp_path.name}/checkpoint"), server.options


def test_what_two_ranks_save_three_ranks_load(pool: Pool, place: tuple[str, dict[str, Any]]) -> None:
    url, options = place
    saved = values(pool.call(2, joined, programs.save_args, url, options, 1, {"origin": ORIGIN, "step": 7}))
    assert saved[0] == saved[1]
    assert (saved[0].step, saved[0].world_size, saved[0].origin) == (7, 2, ORIGIN)
    assert values(pool.call(3, joined, programs.load, url, options, 1)) == [[], [], []]
    found = dcp_engine.find(url, storage_options=options)
    assert found == saved[0]
    assert found is not None
    assert found.conflict_guard == "Atomic"
    assert dcp_engine.verify(url, storage_options=options).verified == "every byte, by its crc32c"


def test_stock_reader_loads_what_we_save(pool: Pool, place: tuple[str, dict[str, Any]]) -> None:
    url, options = place
    values(pool.call(2, joined, programs.save, url, options, 2))
    assert values(pool.call(2, joined, programs.stock_load, *_for_fsspec(url, options), 2)) == [[], []]


def test_we_load_what_stock_saved(pool: Pool, place: tuple[str, dict[str, Any]]) -> None:
    url, options = place
    values(pool.call(2, joined, programs.stock_save, *_for_fsspec(url, options), 2))
    assert values(pool.call(3, joined, programs.load, url, options, 2)) == [[], [], []]
    assert dcp_engine.verify(url, storage_options=options).verified.startswith("file sizes and zip CRC-32")


def test_bare_dcp_save_and_load(pool: Pool, place: tuple[str, dict[str, Any]]) -> None:
    url, options = place
    assert values(pool.call(2, joined, programs.bare_round_trip, url, options)) == [[], []]


@pytest.mark.filterwarnings("ignore")
def test_bare_dcp_async_save(place: tuple[str, dict[str, Any]]) -> None:
    from torch.distributed.checkpoint.state_dict_saver import async_save

    url, options = place
    state: dict[str, Any] = {"w": torch.arange(1000.0), "step": 3}
    saving: Any = async_save(state, storage_writer=dcp_engine.CheckpointWriter(url, storage_options=options))
    saving.result()
    found: dict[str, Any] = {"w": torch.zeros(1000), "step": 0}
    dcp_engine.load(found, url, storage_options=options)
    assert found["step"] == 3
    assert torch.equal(found["w"], state["w"])


def test_refused_then_replaced_then_refused(pool: Pool, place: tuple[str, dict[str, Any]]) -> None:
    url, options = place
    first = values(pool.call(2, joined, programs.save_args, url, options, 1, {"origin": ORIGIN}))[0]
    for result in run_ranks(2, programs.save, url, options, 2):
        assert isinstance(result.error, CheckpointExists)
        assert result.error.reason is Reason.OVERWRITE_CONFLICT
        assert "Checkpoint already exists" in str(result.error)
        assert result.error.conflict is not None
        assert (result.error.conflict.save_id, result.error.conflict.origin) == (first.save_id, ORIGIN)
    assert values(pool.call(2, joined, programs.load, url, options, 1)) == [[], []]

    second = values(pool.call(1, joined, programs.save_args, url, options, 2, {"overwrite": True}))[0]
    assert values(pool.call(2, joined, programs.load, url, options, 2)) == [[], []]
    manifest = dcp_engine.inspect(url, storage_options=options)
    assert {file.path.split("/")[0] for file in manifest.files} == {f"data-{second.save_id}"}
    with pytest.raises(CheckpointExists):
        dcp_engine.preflight_save(url, overwrite=False, storage_options=options)


def test_preflight_recognises_its_own_commit(pool: Pool, place: tuple[str, dict[str, Any]]) -> None:
    url, options = place
    assert dcp_engine.preflight_save(url, storage_options=options, origin=ORIGIN) is None
    saved = values(pool.call(1, joined, programs.save_args, url, options, 1, {"origin": ORIGIN}))[0]
    assert dcp_engine.preflight_save(url, storage_options=options, origin=ORIGIN) == saved
    with pytest.raises(CheckpointExists):
        dcp_engine.preflight_save(url, storage_options=options, origin=ORIGIN.model_copy(update={"uid": "u-2"}))


def test_nothing_there(place: tuple[str, dict[str, Any]]) -> None:
    url, options = place
    assert dcp_engine.find(url, storage_options=options) is None
    with pytest.raises(CheckpointNotFound):
        dcp_engine.preflight_load(url, storage_options=options)
    for result in run_ranks(2, programs.load, url, options):
        assert isinstance(result.error, CheckpointNotFound)


def test_a_rank_that_fails_is_named_on_every_rank_and_leaves_nothing(tmp_path: Path) -> None:
    url = str(tmp_path / "checkpoint")
    for result in run_ranks(3, programs.save_failing, url, 1):
        assert isinstance(result.error, EngineError)
        assert result.error.rank == 1
        assert "this rank has no state" in str(result.error)
    assert not list(tmp_path.rglob("*.distcp"))
    assert dcp_engine.find(url) is None


def test_state_mismatch(tmp_path: Path) -> None:
    url = str(tmp_path / "checkpoint")
    dcp_engine.save({"a": torch.zeros(3)}, url)
    with pytest.raises(StateMismatch, match="b"):
        dcp_engine.load({"b": torch.zeros(3)}, url)
    with pytest.raises(StateMismatch, match="Size mismatch"):
        dcp_engine.load({"a": torch.zeros(4)}, url)


def _trained(steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    optim = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(steps):
        optim.zero_grad()
        model(torch.ones(3, 4)).sum().backward()
        optim.step()
    return model, optim


def test_an_object_that_does_not_ask_for_all_of_its_entries_is_told_so(tmp_path: Path) -> None:
    model, optim = _trained(1)
    dcp_engine.save({"model": model, "optim": optim, "optimal": torch.zeros(3)}, tmp_path)
    fresh_model, fresh = _trained(0)
    with pytest.raises(
        StateMismatch, match=r"holds optim\.state\.0\.exp_avg, optim\..* and 4 more, .* fresh optimizer"
    ):
        dcp_engine.load({"model": fresh_model, "optim": fresh}, tmp_path)
    dcp_engine.load({"model": fresh_model}, tmp_path)
    dcp_engine.load({"optim": fresh.state_dict()}, tmp_path)
    other, used = _trained(2)
    dcp_engine.load({"model": other, "optim": used}, tmp_path)
    assert _same(used.state_dict(), optim.state_dict())


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_an_object_finds_its_entries_in_a_checkpoint_of_torch_2_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It named values that are nested in lists and dicts by the outermost key alone."""

    class Keeps:
        def __init__(self, state: dict[str, Any]) -> None:
            self.state = state

        def state_dict(self) -> dict[str, Any]:
            return self.state

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.state = state

    saved = {"groups": [{"lr": 0.1}], "w": torch.ones(2), "settings": {"a": 1}}
    monkeypatch.setattr(_version, "_derived_version", "2_3")
    dcp.save({"o": Keeps(saved)}, checkpoint_id=tmp_path, no_dist=True)
    monkeypatch.setattr(_version, "_derived_version", None)
    found = Keeps({"groups": [{"lr": 0.0}], "w": torch.zeros(2), "settings": {"a": 0}})
    dcp_engine.load({"o": found}, tmp_path)
    assert _same(found.state, saved)


def test_ranks_may_have_different_parts_of_an_object(pool: Pool, tmp_path: Path) -> None:
    assert values(pool.call(2, joined, programs.save_and_load_in_parts, str(tmp_path))) == [1, 2]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("asked", ("EngineError", 1, "KeyError: 'asked'")),
        ("given", ("StateMismatch", 1, "Unwilling.load_state_dict() does not take what was loaded: KeyError: 'given'")),
        ("file", ("EngineError", 1, "Unwilling.load_state_dict(): FileNotFoundError: of its own")),
    ],
)
def test_an_object_that_fails_on_one_rank_fails_the_load_on_all(
    pool: Pool, tmp_path: Path, where: str, expected: object
) -> None:
    found = values(pool.call(2, joined, programs.load_where_rank_1_is_unwilling, str(tmp_path), where))
    assert found == [expected] * 2


def test_numbers_are_keys_as_good_as_names(tmp_path: Path) -> None:
    saved = {"s": {0: "a", 7: {3: "b", "t": {5: torch.ones(2)}}, "l": [torch.zeros(1), {2: "c"}]}}
    dcp_engine.save(saved, tmp_path)
    found: dict[str, Any] = {"s": {0: "", 7: {3: "", "t": {5: torch.zeros(2)}}, "l": [torch.ones(1), {2: ""}]}}
    dcp_engine.load(found, tmp_path)
    assert _same(found, saved)


def test_the_first_program_of_the_page_resumes_what_it_saves(tmp_path: Path) -> None:
    (block,) = [text for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "resumed =" in text]
    begin, saving, resuming = re.split(
        r"(?m)^(?=dcp_engine\.save|resumed =)", block.replace("s3://bucket", str(tmp_path))
    )
    model, optim = _trained(3)
    ran: dict[str, Any] = {"model": model, "optim": optim}
    exec(begin + saving, ran)  # noqa: S102 - it is ours
    ran["pending"].wait()
    fresh_model, fresh = _trained(0)
    exec(begin + resuming, {"model": fresh_model, "optim": fresh})  # noqa: S102
    assert _same(fresh_model.state_dict(), model.state_dict())
    assert _same(fresh.state_dict(), optim.state_dict())


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def test_a_rank_without_a_shard_finds_nested_values(pool: Pool, tmp_path: Path) -> None:
    """DCP's own planner takes the checkpoint for one of torch 2.3 there, and looks for another name."""
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

    url = str(tmp_path / "checkpoint")
    values(pool.call(2, joined, programs.save_unsharded, url))
    assert values(pool.call(2, joined, programs.load_unsharded, url)) == [(3, [[3.0] * 4]), (3, [])]
    for result in run_ranks(2, programs.load_unsharded, url, DefaultLoadPlanner()):
        assert isinstance(result.error, StateMismatch)
        assert "Missing key in checkpoint state_dict: extra." in str(result.error)


def _for_fsspec(url: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if not options:
        return url, {}
    return url, {"endpoint_url": options["endpoint_url"]}

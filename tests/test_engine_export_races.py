"""Several exports to one URL: one commits, with its own config files, and nobody removes what an index names."""

import json
import threading
from collections.abc import Callable, Collection
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import dcp_engine
import export_situations as situations
import file_steps
from dcp_engine import failpoints
from dcp_engine.errors import CheckpointExists, EngineError
from dcp_engine.format.safetensors import INDEX

pytestmark = [pytest.mark.tier("ranks"), pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Checkpoints of two seeds."""
    return situations.saved_in(tmp_path_factory.mktemp("saved"))


def test_of_two_exports_at_once_one_wins(tmp_path: Path, saved: dict[int, str], hooked: None) -> None:
    met = threading.Barrier(2)

    def meet(point: str) -> None:
        if point == "before commit":
            met.wait(30)

    failpoints.hook = meet
    ends: list[object] = []

    def one(seed: int) -> None:
        try:
            ends.append(dcp_engine.export(saved[seed], tmp_path / "hf"))
        except EngineError as error:
            ends.append(error)

    threads = [threading.Thread(target=one, args=(seed,)) for seed in saved]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(isinstance(end, CheckpointExists) for end in ends) == [False, True], ends
    assert situations.held(tmp_path / "hf") in {1, 2}
    assert len(list((tmp_path / "hf").iterdir())) == 2, "the loser's files are gone"


class _EndedError(Exception):
    """One of two exports ends here."""


@pytest.mark.adversary
def test_what_an_index_names_is_not_removed_though_it_says_that_it_was_replaced(
    tmp_path: Path, saved: dict[int, str], hooked: None
) -> None:
    """And a time to keep that no date is far enough for is no error."""
    options = {"keep_replaced": timedelta(days=900_000_000).total_seconds()}
    first = dcp_engine.export(saved[1], tmp_path).save_id
    index = json.loads((tmp_path / INDEX).read_text())
    index["metadata"]["dcpOperator"]["replaced"] = [first]
    (tmp_path / INDEX).write_text(json.dumps(index))

    def stop(point: str) -> None:
        if point == "before commit":
            raise _EndedError

    failpoints.hook = stop
    with pytest.raises(EngineError):
        dcp_engine.export(saved[2], tmp_path, overwrite=True)
    assert situations.held(tmp_path) == 1
    failpoints.hook = None
    dcp_engine.export(saved[2], tmp_path, overwrite=True, storage_options=options)
    assert situations.held(tmp_path) == 2


def configs_of(folder: Path, seeds: Collection[int]) -> dict[int, Path]:
    """Return a config.json for each seed."""
    found = {seed: folder / str(seed) / "config.json" for seed in seeds}
    for seed, path in found.items():
        path.parent.mkdir()
        path.write_text(json.dumps({"seed": seed}))
    return found


@pytest.mark.adversary
def test_who_has_committed_has_its_own_config_files(tmp_path: Path, saved: dict[int, str], hooked: None) -> None:
    """Another export, which came to nothing, wrote its own over them before the commit."""
    configs, folder = configs_of(tmp_path, saved), tmp_path / "hf"

    def ends(point: str) -> None:
        if point == "before commit":
            raise _EndedError

    def between(point: str) -> None:
        if point == "before commit":
            failpoints.hook = ends
            with pytest.raises(EngineError):
                dcp_engine.export(saved[2], folder, config_files=[configs[2]])
            failpoints.hook = None
            assert json.loads((folder / "config.json").read_text()) == {"seed": 2}

    failpoints.hook = between
    dcp_engine.export(saved[1], folder, config_files=[configs[1]])
    assert failpoints.hook is None
    assert situations.held(folder) == 1
    assert json.loads((folder / "config.json").read_text()) == {"seed": 1}


@pytest.mark.adversary
def test_who_wrote_over_the_config_file_of_a_model_that_is_there_by_then_puts_it_back(
    tmp_path: Path, saved: dict[int, str]
) -> None:
    configs, folder = configs_of(tmp_path, saved), tmp_path / "hf"
    folder.mkdir()

    def second() -> Any:
        (folder / "config.json").write_text(configs[1].read_text())  # what is left of a first try of the first one
        return dcp_engine.export(saved[2], folder, config_files=[configs[2]])

    with file_steps.counted(folder) as steps:
        second()
    (folder / INDEX).unlink()

    def first(_name: str, step: Callable[[], Any]) -> Any:
        dcp_engine.export(saved[1], folder, config_files=[configs[1]])
        return step()

    with (
        file_steps.counted(folder, steps.index("rename config.json"), first),
        pytest.raises(CheckpointExists, match=r"whose config\.json is another one"),
    ):
        second()
    assert situations.held(folder) == 1
    assert json.loads((folder / "config.json").read_text()) == {"seed": 1}

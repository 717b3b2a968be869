"""A Save with ifExists Adopt in whole pods: it takes over without a rank and without a write, or says why not."""

from pathlib import Path
from typing import Any

import pytest

from dcp_contract.reasons import Reason
from dcp_contract.save_fields import IfSaved, SaveFields
from dcp_contract.task import Task
from worker_process import ran, started, task

pytestmark = pytest.mark.tier("pods")


def asked(url: Path, uid: str, *, adopts: bool = True, waits: Path | None = None, **origin: str) -> Task:
    args = {"point": "before commit", "folder": str(waits)}
    work = task(url, "WaitsAt", args, uid=uid) if waits else task(url, uid=uid)
    known = {"cluster_id": "c-1", "spec_digest": "d-1", **origin}
    fields = SaveFields(if_exists=IfSaved.ADOPT if adopts else IfSaved.FAIL, steps=1)
    return work.model_copy(update={"origin": work.origin.model_copy(update=known), "save": fields})


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(each): (each.stat().st_mtime_ns, each.read_bytes()) for each in folder.rglob("*") if each.is_file()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an object that is gone has saved; where nothing stands a Save that adopts saves."""
    folder = tmp_path_factory.mktemp("saved")
    report = ran(asked(folder / "url", "old"), folder / "pod")
    assert report.result is Reason.SAVED
    return folder / "url"


def test_what_an_earlier_object_saved_is_taken_over_without_a_rank_or_a_write(saved: Path, tmp_path: Path) -> None:
    before = files(saved)
    with started(asked(saved, "new"), tmp_path) as pod:
        report = pod.report
        assert "loading torch" not in pod.log
    assert (report.result, report.failures, report.conflict) == (Reason.ALREADY_SAVED, [], None)
    assert report.checkpoint is not None
    assert report.checkpoint.origin is not None
    assert (report.checkpoint.step, report.checkpoint.origin.uid) == (1, "old")
    assert files(saved) == before


def test_its_own_commit_it_has_saved(saved: Path, tmp_path: Path) -> None:
    assert ran(asked(saved, "old"), tmp_path).result is Reason.SAVED


@pytest.mark.parametrize(
    ("origin", "adopts", "says"),
    [
        pytest.param({"cluster_id": "c-2"}, True, "its cluster is another: it was saved in c-1", id="cluster"),
        pytest.param({"spec_digest": "d-2"}, True, "its spec is another: d-1", id="spec"),
        pytest.param({}, False, "Checkpoint already exists", id="not asked for"),
    ],
)
def test_what_does_not_match_is_a_conflict(
    origin: dict[str, str], says: str, saved: Path, tmp_path: Path, *, adopts: bool
) -> None:
    before = files(saved)
    report = ran(asked(saved, "new", adopts=adopts, waits=None, **origin), tmp_path)
    assert report.result is None
    assert report.conflict is not None
    assert says in report.conflict.message
    (failure,) = report.failures
    assert failure.reason is Reason.OVERWRITE_CONFLICT
    assert files(saved) == before


def test_what_lacks_a_file_is_not_taken_over(saved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "url"
    for path, (_, content) in files(saved).items():
        place = copy / Path(path).relative_to(saved)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.suffix != ".distcp":
            place.write_bytes(content)
    report = ran(asked(copy, "new"), tmp_path / "pod")
    assert report.result is None
    assert report.failures[0].reason is Reason.CHECKPOINT_CORRUPTED


@pytest.mark.parametrize(("cluster", "result"), [("c-1", Reason.ALREADY_SAVED), ("c-2", None)])
def test_who_commits_while_it_saves_is_judged_likewise(cluster: str, result: Reason | None, tmp_path: Path) -> None:
    """The look before found nothing; the commit is refused."""
    url = tmp_path / "url"
    with started(asked(url, "new", waits=tmp_path / "slow"), tmp_path / "slow") as pod:
        pod.rank()
        first = ran(asked(url, "old", cluster_id=cluster), tmp_path / "fast").checkpoint
        assert first is not None
        before = {
            path: each for path, each in files(url).items() if first.save_id in path or path.endswith(".metadata")
        }
        pod.go()
        report = pod.report
    found: Any = report.conflict
    assert report.result is result
    assert (found is None) is (result is not None)
    assert found is None or "its cluster is another" in found.message
    assert files(url) == before

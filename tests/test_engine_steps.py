"""Whatever step a save or a clean-up fails at, or is killed at: the old checkpoint or the new one, whole, and no doubt.

Every step on the file system is struck, as a clean run counts them, each in one way here; `make test-matrix` strikes
each in all ways.
"""

import errno
import logging
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dcp_engine
import engine_programs as programs
import fault_situations
import file_steps
from dcp_contract.reasons import Reason
from dcp_engine.errors import EngineError
from fault_situations import HOUR, NOW, SITUATIONS, Situation
from rank_group import run_ranks, values
from rank_processes import CONTEXT

pytestmark = pytest.mark.tier("ranks")

KILLED = "is killed"
LOST = "happens, and its answer gets lost"
STICKY = "is the first write of a disk that writes no more"
COMMITS = ("link", "rename", "unlink")
WAYS = [*(errno.errorcode[code] for code in file_steps.CODES), LOST, STICKY, KILLED]


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.getLogger("dcp_engine").setLevel(logging.CRITICAL)


class Place:
    """A situation that comes to be again and again."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.situation: Situation = SITUATIONS[name]
        self._folder = folder
        self._stands = folder / "stands"
        self._stands.mkdir()
        for act in self.situation.stands:
            act(self._stands)
        with file_steps.counted(url := self.anew("counted")) as steps:
            self.situation.act(url)
        self.steps = list(steps)

    def anew(self, name: str) -> Path:
        return Path(shutil.copytree(self._stands, self._folder / name))

    def struck(self, number: int, way: str) -> list[str]:
        """Strike at one step; return what is wrong afterwards."""
        url = self.anew(f"{number} {way}")
        end, steps = self._die(url, number) if way == KILLED else self._fail(url, number, way)
        wrong = [*self._wrong(url, end, steps), *_wrong_after_the_next(url)]
        shutil.rmtree(url)
        return [
            f"step {number}, {steps[number] if number < len(steps) else 'the end'}, {way}: {each}" for each in wrong
        ]

    def _fail(self, url: Path, number: int, way: str) -> tuple[str, list[str]]:
        strikes = {LOST: file_steps.loses_answer, STICKY: file_steps.writes_nothing}
        strike = strikes[way] if way in strikes else file_steps.fails(getattr(errno, way))
        with file_steps.counted(url, number, strike, on=way == STICKY) as steps:
            try:
                self.situation.act(url)
            except EngineError as error:
                return "unknown" if error.commit_unknown else "failed", steps
        return "done", steps

    def _die(self, url: Path, number: int) -> tuple[str, list[str]]:
        process = CONTEXT.Process(target=fault_situations.die_at, args=(self.name, url, number))
        process.start()
        process.join(60)
        assert process.exitcode in {0, -signal.SIGKILL}
        return "done" if process.exitcode == 0 else "killed", self.steps

    def _wrong(self, url: Path, end: str, steps: list[str]) -> list[str]:
        before, after = self.situation.before, self.situation.after
        failed = {before} if self.situation.sure else {before, after}
        allowed = {"done": {after}, "failed": failed}.get(end, {before, after})
        wrong = _unless(lambda: fault_situations.held(url) in allowed, f"{end}, and neither of {allowed} stands there")
        commits = [
            place for place, step in enumerate(steps) if step.lstrip("!") in {f"{how} .metadata" for how in COMMITS}
        ]
        if end == "done" and commits and "fsync ." not in steps[commits[-1] :]:
            wrong.append("done, and a power cut may take it back")
        return [*wrong, *(_left_by_a_removal(url) if not after else [])]


def _left_by_a_removal(url: Path) -> list[str]:
    """Return what a clean-up leaves of a checkpoint that does not stand any more."""
    if (url / ".metadata").exists():
        return []
    fault_situations.clean(url)
    left = sorted(path.relative_to(url).as_posix() for path in url.rglob("*"))
    return [f"no clean-up removes {left}"] if left else []


def _wrong_after_the_next(url: Path) -> list[str]:
    """Return what is wrong once somebody saved again, and cleaned up."""

    def next_one() -> bool:
        fault_situations.save(9)(url)
        fault_situations.clean(url)
        return fault_situations.held(url) == 9

    if wrong := _unless(next_one, "the next save does not stand"):
        return wrong
    own = f"data-{dcp_engine.inspect(url).save_id}"
    left = [name for path in url.rglob("*") if not (name := path.relative_to(url).as_posix()).startswith(own)]
    return [f"{sorted(left)} is left"] if left != [".metadata"] else []


def _unless(holds: Callable[[], bool], text: str) -> list[str]:
    try:
        return [] if holds() else [text]
    except EngineError as error:
        return [f"{text}: {error}"]


@pytest.fixture
def memory() -> Iterator[Path]:
    """Return a folder that costs no time to sync."""
    with tempfile.TemporaryDirectory(prefix="steps-", dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.mark.parametrize("name", ["first save", "keeps, and removes what is due", "cleans", "removes"])
def test_any_step_may_fail_or_be_the_last(memory: Path, name: str) -> None:
    place = Place(memory, name)
    wrong = [text for number in range(len(place.steps)) for text in place.struck(number, WAYS[number % len(WAYS)])]
    assert wrong == []


@pytest.mark.tier("matrix")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SITUATIONS)
def test_any_step_may_fail_or_be_the_last_in_any_way(memory: Path, name: str, way: str) -> None:
    place = Place(memory, name)
    assert [text for number in range(len(place.steps)) for text in place.struck(number, way)] == []


@pytest.mark.tier("matrix")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("keep", [NOW, HOUR], ids=["removes", "keeps"])
@pytest.mark.parametrize("dying", [0, 1])
def test_a_rank_may_be_killed_at_any_step(memory: Path, dying: int, keep: object) -> None:
    (stands := memory / "stands").mkdir()
    values(run_ranks(2, programs.save, str(stands), None, 1))
    counted = values(
        run_ranks(2, fault_situations.rank_dies_at, shutil.copytree(stands, memory / "0"), dying, -1, keep)
    )
    for number in range(counted[dying]):
        url = shutil.copytree(stands, memory / f"at {number}")
        results = run_ranks(2, fault_situations.rank_dies_at, url, dying, number, keep)
        if results[dying].exit_code == 0:
            continue  # its threads share the steps out anew each time
        error = results[1 - dying].error
        assert error is None or (isinstance(error, EngineError) and error.reason is Reason.WORKER_LOST), number
        stood = [seed for seed in (1, 2) if values(run_ranks(1, programs.load, str(url), None, seed)) == [[]]]
        if error is None:
            assert stood == [2], number
        elif isinstance(error, EngineError) and not error.commit_unknown:
            assert stood == [1], number
        assert len(stood) == 1, number
        dcp_engine.verify(url)
        assert _wrong_after_the_next(url) == []
        shutil.rmtree(url)

"""The agent in real ranks: all save at one step whoever asks, a stop is a save, and a resumed run ends as any other."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import dcp_engine
from dcp_agent import STOPPED_EXIT_CODE, Agent
from free_ports import free_port
from rank_group import in_own_processes, run_ranks, values
from worker_process import until

pytestmark = pytest.mark.tier("ranks")
STEPS = 12
SIZES = [1, 2, 3]


class Training:
    """A run whose weights depend on every step: a step that is left out, or made twice, shows at the end."""

    def __init__(self, rank: int, prefix: str, *, lockstep: bool = True, **options: Any) -> None:
        self.rank = rank
        self.lockstep = lockstep
        self.weights = torch.zeros(8)
        self.steps = torch.zeros(1)
        self.begun: list[int] = []
        """The boundaries at which this rank began to save."""
        self.agent = Agent(self.state, prefix, **options)

    def state(self) -> dict[str, Any]:
        self.begun.append(int(self.steps))
        return {"weights": self.weights, "steps": self.steps}

    def run(self, at: Callable[[int], Any] = lambda _: None) -> list[float]:
        """Train from the newest checkpoint to the last step; `at` is called within each step."""
        first = self.agent.resume()
        self.begun.clear()
        for step in range(first, STEPS):
            gradient = torch.full((8,), float(step + 1))
            if self.lockstep:
                dist.all_reduce(gradient)
            at(step)
            self.weights = self.weights * 0.5 + gradient
            self.steps += 1
            time.sleep(0.01 * (1 + self.rank))
            self.agent.step(step + 1)
        self.agent.close(save=False)
        return self.weights.tolist()


def over_tcp(rank: int, world: int, port: int) -> None:
    """Join the ranks as a training does, by a server that rank 0 holds."""
    dist.destroy_process_group()
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)


def committed(prefix: Path) -> list[int]:
    found = [int(each.name.removeprefix("step-")) for each in prefix.glob("step-*") if dcp_engine.find(each)]
    return sorted(found)


def asking(rank: int, world: int, port: int, prefix: str, asks: dict[int, int], *modes: str) -> Any:
    """Train; the ranks of `asks` ask for a save in a thread of their own, in the step that it says."""
    over_tcp(rank, world, port)
    training = Training(rank, prefix, lockstep="lockstep" in modes, signals=False)
    threads = []

    def at(step: int) -> None:
        if asks.get(rank) == step:
            threads.append(threading.Thread(target=training.agent.save_now))
            threads[-1].start()

    weights = training.run(at)
    for thread in threads:
        thread.join()
    return training.begun, weights


@pytest.mark.parametrize("modes", [["lockstep"], []], ids=["lockstep", "free"])
@pytest.mark.parametrize("size", SIZES)
def test_all_ranks_save_at_one_step_whoever_asks(tmp_path: Path, size: int, modes: list[str]) -> None:
    asks = {size - 1: 2, 0: 6} if size > 1 else {0: 6}
    results = values(run_ranks(size, asking, size, free_port(), str(tmp_path), asks, *modes))
    begun, weights = results[0]
    assert results == [(begun, weights)] * size
    assert 1 <= len(begun) <= len(asks)
    assert committed(tmp_path) == begun
    # A save changes nothing of the run.
    plain = values(run_ranks(size, asking, size, free_port(), str(tmp_path / "plain"), {}, *modes))
    assert plain == [([], weights)] * size


def test_a_save_that_is_asked_for_after_the_last_step_is_made(tmp_path: Path) -> None:
    begun, _ = values(run_ranks(2, asking, 2, free_port(), str(tmp_path), {1: STEPS - 1}, "lockstep"))[0]
    assert begun == [STEPS]
    assert committed(tmp_path) == [STEPS]


@in_own_processes
def stopped(rank: int, world: int, port: int, prefix: str, number: int, victim: int, step: int) -> Any:
    """Train; one rank gets a signal within a step."""
    over_tcp(rank, world, port)
    training = Training(rank, prefix)

    def at(now: int) -> None:
        if (rank, now) == (victim, step):
            os.kill(os.getpid(), number)

    code: object = None
    try:
        training.run(at)
    except SystemExit as left:
        code = left.code
    return code, training.begun, training.weights.tolist()


@pytest.mark.parametrize("victim", [0, 2])
def test_a_stopped_run_saves_leaves_and_ends_as_if_it_had_never_stopped(tmp_path: Path, victim: int) -> None:
    """SIGTERM on any one rank; all leave with a code that no Job takes for success, and the run goes on elsewhere."""
    results = values(run_ranks(3, stopped, 3, free_port(), str(tmp_path), signal.SIGTERM, victim, 4))
    code, begun, _ = results[0]
    assert code == STOPPED_EXIT_CODE
    assert [each[:2] for each in results] == [(code, begun)] * 3
    assert committed(tmp_path) == begun
    [step] = begun
    assert 5 <= step <= 7
    resumed = values(run_ranks(3, stopped, 3, free_port(), str(tmp_path), signal.SIGTERM, victim, -1))
    whole = values(run_ranks(3, stopped, 3, free_port(), str(tmp_path / "whole"), signal.SIGTERM, victim, -1))
    assert [each[2] for each in resumed] == [each[2] for each in whole]
    assert {each[0] for each in resumed} == {None}


def test_sigusr1_saves_and_training_goes_on(tmp_path: Path) -> None:
    results = values(run_ranks(2, stopped, 2, free_port(), str(tmp_path), signal.SIGUSR1, 1, 4))
    assert {code for code, *_ in results} == {None}
    assert committed(tmp_path) == results[0][1]
    assert len(results[0][1]) == 1


def closing(rank: int, world: int, port: int, prefix: str) -> Any:
    """Train to the end, and save the end."""
    over_tcp(rank, world, port)
    training = Training(rank, prefix, signals=False, every_steps=STEPS - 1)
    first = training.agent.resume()
    for step in range(first, STEPS):
        training.steps += 1
        training.agent.step(step + 1)
    saved = training.agent.close()
    return first, training.begun, saved and saved.step


def test_the_end_is_saved_once(tmp_path: Path) -> None:
    for expected in [(0, [STEPS - 1, STEPS], STEPS), (STEPS, [0], STEPS)]:
        results = values(run_ranks(2, closing, 2, free_port(), str(tmp_path)))
        assert results == [expected] * 2
    assert committed(tmp_path) == [STEPS - 1, STEPS]


@in_own_processes
def beside_a_stopped_rank(rank: int, world: int, port: int, prefix: str, folder: str) -> Any:
    """Train apart from one another; the last rank is stopped by SIGSTOP, and another one asks for a save."""
    over_tcp(rank, world, port)
    training = Training(rank, prefix, lockstep=False, signals=False, wait=1.0)
    mine = Path(folder, str(rank))

    def at(step: int) -> None:
        if step == 3 and rank == world - 1:
            mine.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
        if step == 3 and rank == 0:
            until(lambda: Path(folder, str(world - 1)).exists())
            training.agent.save_now()

    began = time.monotonic()
    training.run(at)
    return training.begun, time.monotonic() - began


def test_training_goes_on_without_a_rank_that_does_not_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    results = run_ranks(3, beside_a_stopped_rank, 3, free_port(), str(tmp_path / "run"), str(tmp_path), ends=[0, 1])
    for begun, seconds in values(results[:2]):
        assert begun == []
        assert seconds < 30
    assert committed(tmp_path / "run") == []


def failing(rank: int, world: int, port: int, prefix: str) -> Any:
    """Train where the first save fails."""
    over_tcp(rank, world, port)
    failures: list[str] = []
    training = Training(
        rank, prefix, signals=False, every_steps=5, on_failure=lambda error: failures.append(type(error).__name__)
    )
    training.run()
    return training.begun, failures


def test_a_save_that_fails_does_not_end_the_training(tmp_path: Path) -> None:
    (tmp_path / "step-5").write_text("a file, where the folder should go")
    results = values(run_ranks(2, failing, 2, free_port(), str(tmp_path)))
    assert results == [results[0]] * 2
    begun, failures = results[0]
    assert begun == [5, 10]
    assert len(failures) == 1
    assert dcp_engine.find(tmp_path / "step-10")


def giving_no_state(rank: int, world: int, port: int, prefix: str) -> Any:
    """Train; rank 1 can't give its state at the first save."""
    over_tcp(rank, world, port)
    failures: list[str] = []
    training = Training(
        rank, prefix, signals=False, every_steps=5, on_failure=lambda error: failures.append(str(error))
    )
    given = training.state

    def state() -> dict[str, Any]:
        if rank == 1 and not training.begun:
            training.begun.append(-1)
            raise RuntimeError("no memory for the copy")
        return given()

    training.agent._saves.state.get = state
    training.run()
    return failures


def test_a_rank_without_its_state_fails_the_save_on_all_ranks(tmp_path: Path) -> None:
    results = values(run_ranks(2, giving_no_state, 2, free_port(), str(tmp_path)))
    for failures in results:
        assert len(failures) == 1
        assert "rank 1" in failures[0]
        assert "no memory for the copy" in failures[0]
    assert committed(tmp_path) == [10]


@in_own_processes
def with_a_child(rank: int, world: int, port: int, prefix: str) -> Any:
    """Train; a forked child, as a DataLoader's worker is, gets SIGTERM."""
    over_tcp(rank, world, port)
    training = Training(rank, prefix)
    ends: list[int] = []

    def at(step: int) -> None:
        if step == 3:
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                # Python forgets a signal that comes before a child is set up.
                os.write(writing, b"x")
                time.sleep(60)
                os._exit(0)
            os.read(reading, 1)
            os.kill(child, signal.SIGTERM)
            ends.append(os.waitpid(child, 0)[1])

    training.run(at)
    return ends, training.begun


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_signal_to_a_forked_child_is_the_childs(tmp_path: Path) -> None:
    assert values(run_ranks(1, with_a_child, 1, free_port(), str(tmp_path))) == [([signal.SIGTERM], [])]


def resuming(rank: int, world: int, port: int, prefix: str) -> int:
    over_tcp(rank, world, port)
    return Training(rank, prefix, signals=False).agent.resume()


def test_a_damaged_checkpoint_and_half_a_save_are_passed_over(tmp_path: Path) -> None:
    values(run_ranks(2, closing, 2, free_port(), str(tmp_path)))
    metadata = tmp_path / f"step-{STEPS}" / ".metadata"
    metadata.write_bytes(metadata.read_bytes()[:-7])
    (tmp_path / f"step-{STEPS + 1}" / "data-0").mkdir(parents=True)
    assert values(run_ranks(2, resuming, 2, free_port(), str(tmp_path))) == [STEPS - 1] * 2

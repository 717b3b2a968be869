"""A rank is killed at each point of a request: the other trains on, nothing is half there, and a new run goes on."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import dcp_engine
from dcp_agent import agreement
from dcp_agent.agreement import Ask, AwaitDone, NextOrder, Read, Wish, WriteFirst, answered, promised
from dcp_agent.shared_store import Halting, SharedStore
from free_ports import free_port
from rank_group import in_own_processes, run_ranks, values
from test_agent import STEPS, Training, committed, over_tcp
from worker_process import until

pytestmark = pytest.mark.tier("faults")


def is_at(point: str, rank: int, question: Ask) -> bool:
    match question:
        case WriteFirst(key, _):
            return key in {"promise": [promised(0, rank)], "answer": [answered(0)], "ring": [agreement.asked(0)]}.get(
                point, []
            )
        case Read(key):
            return (point, key) in {("read", answered(0)), ("collect", promised(0, 0)), ("stop", Wish.STOP.key)}
        case NextOrder() | AwaitDone():
            return point == {NextOrder: "order", AwaitDone: "act"}[type(question)]
    return False


@in_own_processes
def killed_at(rank: int, world: int, port: int, prefix: str, victim: int, point: str) -> Any:
    """Train apart from one another; a rank asks for a save, and the victim is killed at a point of that."""
    over_tcp(rank, world, port)
    training = Training(rank, prefix, lockstep=False, signals=False, wait=1.0, every_steps=5)
    answer = Halting._answered

    def answered_or_killed(self: Halting, asked: Ask, store: SharedStore) -> Any:
        if rank == victim and is_at(point, rank, asked):
            os.kill(os.getpid(), signal.SIGKILL)
        return answer(self, asked, store)

    def at(step: int) -> None:
        if step == 6 and rank == victim:
            until(lambda: committed(Path(prefix)) == [5])
            Halting._answered = answered_or_killed  # type: ignore[method-assign]
            training.agent.save_now()

    training.run(at)
    return training.weights.tolist()


def alone(rank: int, world: int, port: int, prefix: str) -> Any:
    over_tcp(rank, world, port)
    return Training(rank, prefix, lockstep=False, signals=False).run()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    weights: list[float]
    weights, _ = values(run_ranks(2, alone, 2, free_port(), str(tmp_path_factory.mktemp("whole"))))
    return weights


CASES = [
    *[(1, point) for point in ("ring", "promise", "read", "act")],
    *[(0, point) for point in ("ring", "promise", "collect", "order", "answer", "read", "act")],
]


@pytest.mark.parametrize(("victim", "point"), CASES, ids=[f"rank {victim} at {point}" for victim, point in CASES])
def test_the_others_train_on(tmp_path: Path, whole: list[float], victim: int, point: str) -> None:
    survivor = 1 - victim
    results = run_ranks(2, killed_at, 2, free_port(), str(tmp_path), victim, point, ends=[survivor])
    assert values([results[survivor]]) == [whole]
    found = committed(tmp_path)
    assert found[0] == 5
    for step in found:
        dcp_engine.verify(tmp_path / f"step-{step}")
    assert values(run_ranks(2, alone, 2, free_port(), str(tmp_path))) == [whole] * 2
    assert STEPS not in found

"""What an agent costs a training: at each step where nothing is asked, and how long training stands still for a save.

Two ranks over gloo on this machine. *Idle* is microseconds of a call, the best and the worst round: `Agent.step` and
`Agent.poll`, beside what others do at each step to hear of a signal together: look a key up in the store of the ranks,
or reduce a flag. *Blocked* is seconds of a save of 512 MB on the rank that waited longest: the agent's, asked for by
`save_now` on the last rank in a step of 50 ms, beside `async_save` at a step that all ranks know. The two take turns.
"""

import argparse
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import dcp_engine
from dcp_agent import Agent

RANKS = 2
CALLS = 200_000
STEP_SECONDS = 0.05


def microseconds(call: Callable[[int], Any], calls: int, rounds: int) -> list[float]:
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        for number in range(calls):
            call(number)
        found.append((time.perf_counter() - began) / calls * 1e6)
    return found


def idle(agent: Agent, rounds: int) -> dict[str, list[float]]:
    store = dist.distributed_c10d._get_default_store()
    flag = torch.zeros(1)
    agent.step(1)
    return {
        "an empty loop": microseconds(lambda _: None, CALLS, rounds),
        "Agent.step": microseconds(agent.step, CALLS, rounds),
        "Agent.poll": microseconds(lambda _: agent.poll(), CALLS, rounds),
        "a key of the store": microseconds(lambda _: store.check(["no such key"]), 2_000, rounds),
        "all_reduce": microseconds(lambda _: dist.all_reduce(flag), 2_000, rounds),
    }


def blocked(agent: Agent, state: dict[str, Any], folder: str, rounds: int) -> dict[str, list[float]]:
    """Train in lockstep; return how long each save held this rank up."""
    found: dict[str, list[float]] = {"async_save": [], "Agent": []}
    gradient, step = torch.zeros(1), 2_000_000
    for number in range(-2, 2 * rounds):
        by_agent = number % 2 == 0
        done = False
        for place in range(12):
            dist.all_reduce(gradient)
            time.sleep(STEP_SECONDS)
            if by_agent and place == 2 and dist.get_rank() == RANKS - 1:
                agent.save_now()
            began = time.perf_counter()
            step += 1
            if not by_agent and place == 4:
                pending = dcp_engine.async_save(state, f"{folder}/{number}", step=step)
            else:
                agent.step(step)
            # The first save of each warms up.
            if (seconds := time.perf_counter() - began) > STEP_SECONDS / 20 and not done and number >= 0:
                found["Agent" if by_agent else "async_save"].append(seconds)
                done = True
        if by_agent:
            agent._saves.finish()
        else:
            pending.wait()
        dist.barrier()
    return found


def rank_program(rank: int, port: int, folder: str, rounds: int, results: Any) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS)
    torch.set_num_threads(1)
    state = {f"w{number}": torch.rand(8 << 20) + rank for number in range(8)}
    state = {f"rank {rank} {name}": tensor for name, tensor in state.items()}
    agent = Agent(lambda: state, f"{folder}/run", signals=False)
    costs = idle(agent, rounds)
    dist.barrier()
    results.put((rank, costs, blocked(agent, state, folder, rounds)))
    agent.close(save=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        results = context.Queue()
        ranks = [
            context.Process(target=rank_program, args=(rank, port, folder, rounds, results)) for rank in range(RANKS)
        ]
        for each in ranks:
            each.start()
        told = {rank: (costs, waits) for rank, costs, waits in (results.get(timeout=600) for _ in ranks)}
        for each in ranks:
            each.join(60)
        size = sum(path.stat().st_size for path in Path(folder, "1").rglob("*"))
    print(f"idle, microseconds a call, best and worst of {rounds} rounds")
    for name, found in told[0][0].items():
        print(f"  {name:22}{min(found):10.3f}{max(found):10.3f}")
    print(f"blocked, milliseconds for {size / 1e6:.0f} MB over {RANKS} ranks, median and worst of {rounds}")
    longest = {name: list(map(max, *(told[rank][1][name] for rank in told))) for name in ("async_save", "Agent")}
    for name, found in longest.items():
        print(f"  {name:22}{statistics.median(found) * 1e3:10.1f}{max(found) * 1e3:10.1f}")
    more = (statistics.median(longest["Agent"]) - statistics.median(longest["async_save"])) * 1e3
    step = min(told[0][0]["Agent.step"])
    goals = {"a step costs less than 1 microsecond": step < 1, "a save blocks at most 20 ms longer": more <= 20}
    for goal, met in goals.items():
        print(f"{'met' if met else 'MISSED'}: {goal}")
    sys.exit(not all(goals.values()))


if __name__ == "__main__":
    main()

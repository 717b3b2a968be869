"""How long one reconcile of one attempt takes by its number of pods: what is read off the cache, and the decision.

    python tests/benchmarks/bench_attempt.py

Prints milliseconds of CPU, the least of five, with the garbage collector set as the operator sets it. The CRD allows
4096 pods. A reconcile is to take 50 ms at most: it holds up every other Checkpoint, the probes and the Lease.
"""

import gc
import sys
import time
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from dcp_operator.controllers.checkpoint.decide import decide
from dcp_operator.controllers.checkpoint.observed import observe
from dcp_operator.kube.kinds.checkpoint import jobs_and_pods
from dcp_operator.kube.view.attempts import UnconfirmedJobs
from large_attempt import KEY, STATES, filled
from scenes import RUNNING, UID, at

SIZES = (256, 1024, 4096)
ROUNDS = 5


def reconcile_ms(nodes: int, state: str) -> float:
    """Return the CPU milliseconds of one reconcile."""
    cache, of, _ = filled(nodes, state)
    best = float("inf")
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    for _ in range(ROUNDS):
        began = time.process_time()
        jobs, pods = jobs_and_pods(cache.owned.of(KEY, UID))
        UnconfirmedJobs().among(jobs, pods)
        decide(of, observe(jobs, pods), RUNNING, at(60))
        best = min(best, time.process_time() - began)
    return best * 1000


def kilobytes_per_pod(state: str, nodes: int = 1024) -> float:
    """Return what the cache holds per pod."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = filled(nodes, state)
    size = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    del kept
    return size / nodes / 1024


def main() -> None:
    """Print the table."""
    print(f"{'pods':8}" + "".join(f"{nodes:>10}" for nodes in SIZES) + f"{'KiB/pod':>10}")
    for state in STATES:
        row = "".join(f"{reconcile_ms(nodes, state):10.1f}" for nodes in SIZES)
        print(f"{state:8}{row}{kilobytes_per_pod(state):10.1f}")


if __name__ == "__main__":
    main()

"""The operator against a real API server: `make bench-operator`, or this program with `--quick` for a look.

etcd and kube-apiserver run on this machine, without controllers and without a node: the benchmark itself plays the
kubelet and the Job controller by writing the status of pods and Jobs. Prints a table and writes bench-operator.json.

limit     a plain asyncio client that creates Service and Job and writes two statuses, as fast as it can
burst     Checkpoints applied at once, until the last one has its Job (`told`: and says so in its status)
single    one Checkpoint at a time, from apply to its Job
writes    requests that change something from apply to the finished status, events aside
resident  memory of an operator that holds finished Checkpoints, each with its Job and two Pods
restart   a new process on all of those: the first applied Checkpoint has its Job after `first_job_seconds`; from
          `seconds` on each that is applied has its Job within a second, and the longest wait until then was `worst`
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.operator_load import Client, checkpoint, finished_checkpoint, plain_job, plain_service
from cluster.controlplane import api_server
from cluster.places import TREE
from e2e.kube import Kube
from e2e.operator_process import OperatorProcess

MEBI = 1 << 20
CONCURRENCY = 32


async def each(items: Iterable[Any], work: Callable[[Any], Awaitable[object]], concurrency: int = CONCURRENCY) -> None:
    """Work on all items, so many at a time."""
    waiting = iter(list(items))

    async def worker() -> None:
        for item in waiting:
            await work(item)

    await asyncio.gather(*(worker() for _ in range(concurrency)))


async def limit(client: Client, count: int, namespace: str) -> float:
    """Return how many per second a client writes that does nothing else."""
    bodies: list[Any] = []

    async def prepare(number: int) -> None:
        bodies.append(await client.create(checkpoint(f"plain-{number}", namespace)))

    async def write(body: Any) -> None:
        name = body["metadata"]["name"]
        await client.create(plain_service(name, namespace))
        await client.create(plain_job(name, namespace))
        for phase in ("Starting", "Succeeded"):
            body = await client.write_status(body, {"phase": phase, "observedGeneration": 1})

    await client.namespace(namespace)
    await each(range(count), prepare)
    began = time.monotonic()
    await each(bodies, write)
    seconds = time.monotonic() - began
    # The operator, which comes next, would have its own opinion of their statuses.
    await client.clear(namespace)
    return count / seconds


async def burst(client: Client, operator: OperatorProcess, count: int) -> dict[str, float]:
    """Return how fast the operator is when many Checkpoints come at once."""
    await client.namespace("burst")
    applied: dict[str, float] = {}

    async def apply(number: int) -> None:
        name = f"burst-{number}"
        applied[name] = time.monotonic()
        await client.create(checkpoint(name, "burst"))

    cpu, writes = operator.cpu(), operator.writes()
    async with client.watch_jobs("burst") as created:
        began = time.monotonic()
        await each(range(count), apply)
        apply_seconds = time.monotonic() - began
        await created.count(count)
        seconds = time.monotonic() - began
        await client.until_status("burst", count)
        told = time.monotonic() - began
    waits = sorted(created.times[name] - applied[name] for name in applied)
    return {
        "count": count,
        "seconds": seconds,
        "apply_seconds": apply_seconds,
        "per_second": count / seconds,
        "told_per_second": count / told,
        "p50_seconds": statistics.median(waits),
        "p99_seconds": waits[int(len(waits) * 0.99)],
        "operator_cpu_seconds": operator.cpu() - cpu,
        "writes_per_checkpoint": (operator.writes() - writes) / count,
    }


async def single(client: Client, count: int) -> dict[str, float]:
    """Return the time from apply to Job on an operator that has nothing else to do."""
    await client.namespace("single")
    waits: list[float] = []
    async with client.watch_jobs("single") as created:
        for number in range(count):
            began = time.monotonic()
            await client.create(checkpoint(f"single-{number}", "single"))
            await created.count(number + 1)
            waits.append(time.monotonic() - began)
            await asyncio.sleep(0.1)
    return {"count": count, "p50_seconds": statistics.median(waits), "max_seconds": max(waits)}


async def writes(client: Client, operator: OperatorProcess, count: int) -> dict[str, float]:
    """Return the writes of a Checkpoint's whole life, its attempt played through its phases."""
    await client.namespace("writes")
    before = operator.writes()
    await each(range(count), lambda number: client.create(checkpoint(f"writes-{number}", "writes")))
    await client.until_status("writes", count)
    jobs = await client.every("batch/v1", "jobs", "writes")
    pods = [pod for job in jobs for pod in await client.start_pods(job)]
    await client.until_phase("writes", "Running", count)
    await each(pods, client.finish_pod)
    await each(jobs, client.finish_job)
    await client.until_phase("writes", "Succeeded", count)
    return {"count": count, "writes_per_checkpoint": (operator.writes() - before) / count}


async def fill(client: Client, count: int) -> None:
    """Make finished Checkpoints, as an operator would have left them a while ago."""
    await client.namespace("full")

    async def make(number: int) -> None:
        job = await finished_checkpoint(client, f"full-{number}", "full")
        for pod in await client.start_pods(job):
            await client.finish_pod(pod)
        await client.finish_job(job)

    await each(range(count), make)


async def restart(client: Client, start: Callable[[], OperatorProcess], count: int) -> dict[str, float]:
    """Return how long a new process takes to work on new Checkpoints, and what it weighs with all the old ones."""
    async with client.watch_jobs("single") as created:
        began = time.monotonic()
        waits: list[tuple[float, float]] = []
        with start() as operator:
            # In service is who serves each, ten times on end: not only what was there when it looked first.
            while len(waits) < 10 or max(wait for _, wait in waits[-10:]) > 1:
                applied = time.monotonic()
                await client.create(checkpoint(f"after-restart-{len(waits)}", "single"))
                await created.count(len(waits) + 1)
                waits.append((applied - began, time.monotonic() - applied))
                await asyncio.sleep(0.5)
            settled = operator.cpu()
            while True:
                await asyncio.sleep(5)
                if operator.cpu() - settled < 0.5:
                    break
                settled = operator.cpu()
            return {
                "count": count,
                "first_job_seconds": sum(waits[0]),
                "seconds": max((sum(each) for each in waits if each[1] > 1), default=0.0),
                "worst_wait_seconds": max(wait for _, wait in waits),
                "resident_mebibytes": operator.resident() / MEBI,
                "peak_mebibytes": operator.peak() / MEBI,
                "operator_cpu_seconds": operator.cpu(),
            }


async def measure(kubeconfig: Path, folder: Path, many: int, finished: int) -> dict[str, Any]:
    """Run all of it, one after the other."""
    found: dict[str, Any] = {}
    async with Client.connect(kubeconfig) as client:
        before = await limit(client, many, "limit-before")
        with OperatorProcess(kubeconfig, folder / "operator.log") as operator:
            await asyncio.to_thread(operator.wait_in_service)
            found["idle_mebibytes"] = operator.resident() / MEBI
            found["burst"] = await burst(client, operator, many)
        # Once more after the burst: what else the machine does in the meantime changes the limit.
        after = await limit(client, many, "limit-after")
        found["limit"] = {"before": before, "after": after, "per_second": (before + after) / 2}
        found["burst"]["share_of_limit"] = found["burst"]["per_second"] / found["limit"]["per_second"]
        with OperatorProcess(kubeconfig, folder / "operator.log") as operator:
            await asyncio.to_thread(operator.wait_in_service)
            found["single"] = await single(client, 20)
            found["writes"] = await writes(client, operator, min(200, many))
        began = time.monotonic()
        await fill(client, finished)
        found["fill_seconds"] = time.monotonic() - began
        found["restart"] = await restart(
            client, lambda: OperatorProcess(kubeconfig, folder / "restarted.log"), finished
        )
    return found


GOALS = (
    ("burst", "share_of_limit", ">=", 0.7),
    ("single", "p50_seconds", "<=", 0.3),
    ("writes", "writes_per_checkpoint", "<=", 6),
    ("restart", "resident_mebibytes", "<=", 300),
    ("restart", "seconds", "<=", 30),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 at once and 500 finished")
    parser.add_argument("--many", type=int, default=1000, help="Checkpoints applied at once")
    parser.add_argument("--finished", type=int, default=10_000, help="finished Checkpoints held in memory")
    parser.add_argument("--output", type=Path, default=TREE / "bench-operator.json")
    options = parser.parse_args()
    with api_server(controllers=False) as plane, tempfile.TemporaryDirectory() as folder:
        Kube(plane.kubeconfig()).install_crds()
        many, finished = (100, 500) if options.quick else (options.many, options.finished)
        found = asyncio.run(measure(plane.kubeconfig(), Path(folder), many, finished))
    for section, figures in found.items():
        rows = figures.items() if isinstance(figures, dict) else [("", figures)]
        for name, value in rows:
            print(f"{section:<16}{name:<24}{value:>10.3f}")
    for section, name, sign, goal in GOALS:
        value = found[section][name]
        met = value >= goal if sign == ">=" else value <= goal
        print(f"{'met' if met else 'MISSED':<8}{section} {name} {value:.3f} {sign} {goal}")
    options.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

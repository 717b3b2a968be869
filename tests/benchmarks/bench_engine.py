"""The engine beside its peers: `make bench`, or this program with `--quick` for a look.

One versitygw on tmpfs serves all systems, as it is and behind a proxy as far and as narrow as one S3 connection.
Every figure is the best of the repeats, the systems taking turns within each. Writes bench.json and bench.png.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import s3_server
import toxiproxy
from benchmarks import bench_goals, bench_picture
from benchmarks import bench_systems as systems
from benchmarks.bench_systems import MEBI, System
from rank_group import run_ranks, values

LATENCY_MS = 20
CONNECTION_KBPS = 90_000


@dataclass(frozen=True)
class Case:
    """One place, size and number of ranks, and the systems that take part."""

    place: str
    megabytes: int
    ranks: int
    systems: tuple[System, ...]

    @property
    def name(self) -> str:
        return f"{self.place}, {self.megabytes} MB, {self.ranks} rank{'s' * (self.ranks > 1)}"


def cases(*, quick: bool) -> list[Case]:
    stock = (systems.STOCK, systems.STOCK_THREADS)
    on_s3 = (*systems.RAW, systems.RAW_OBJECTS, systems.ENGINE, systems.CONNECTOR, *stock)
    local = (systems.ENGINE, *stock)
    if quick:
        return [Case("s3", 512, 1, on_s3), Case("s3, far", 512, 1, on_s3), Case("local", 512, 1, local)]
    grid = [(512, 1), (512, 2), (2048, 1), (2048, 2)]
    return [
        *(Case("s3", megabytes, ranks, on_s3) for megabytes, ranks in grid),
        *(Case("s3, far", 512, ranks, on_s3) for ranks in (1, 2)),
        *(Case("local", megabytes, ranks, local) for megabytes, ranks in grid),
    ]


def run(case: Case, repeats: int, folder: Path) -> list[dict[str, Any]]:
    """Measure all systems of a case and return its rows."""
    found: dict[str, list[dict[str, float]]] = {}
    with _place(case, folder) as (url, options, data):
        for repeat in range(repeats):
            for system in case.systems:
                place = f"{url}/{abs(hash(system.name))}-{repeat}"
                per_rank = values(
                    run_ranks(
                        case.ranks,
                        systems.measure,
                        system.name,
                        place,
                        options,
                        case.megabytes,
                        timeout=900,
                        fresh=True,
                    )
                )
                whole = _whole(per_rank)
                if system in systems.RAW[1:]:
                    # They load in other ways and save in the same: three times as many tries would flatter the limit.
                    whole = {key: value for key, value in whole.items() if not key.startswith("save")}
                found.setdefault(_family(system), []).append(whole)
                shutil.rmtree(data)
                data.mkdir()
            print(f"{case.name}: repeat {repeat + 1} of {repeats}", flush=True)
    return [_row(case, name, runs) for name, runs in found.items()]


@contextmanager
def _place(case: Case, folder: Path) -> Iterator[tuple[str, dict[str, Any], Path]]:
    """Give URL, options and the folder in which the bytes end up."""
    if case.place == "local":
        local = Path(tempfile.mkdtemp(prefix="bench-local-", dir="/var/tmp"))

        yield str(local), {}, local
        shutil.rmtree(local)
        return
    with ExitStack() as stack:
        server = stack.enter_context(s3_server.versitygw(folder / "gateway"))
        data = folder / "gateway" / server.bucket
        if case.place == "s3, far":
            proxy = stack.enter_context(toxiproxy.before(server))
            for stream in ("upstream", "downstream"):
                proxy.add("bandwidth", stream=stream, rate=CONNECTION_KBPS)
            proxy.add("latency", latency=LATENCY_MS)
            server = proxy.server
        yield server.url("bench"), server.options, data
    shutil.rmtree(folder / "gateway")


def _family(system: System) -> str:
    return systems.RAW[0].name if system in systems.RAW else system.name


def _whole(per_rank: list[dict[str, float]]) -> dict[str, float]:
    """Put the ranks' figures together: the slowest's time, everyone's CPU, the largest peak."""
    combine: dict[str, Callable[[list[float]], float]] = {"seconds": max, "cpu": sum, "peak": max}
    return {key: combine[key.split("_")[1]]([rank[key] for rank in per_rank]) for key in per_rank[0]}


def _row(case: Case, name: str, runs: list[dict[str, float]]) -> dict[str, Any]:
    size = case.megabytes * MEBI
    samples = {key: [run[key] for run in runs if key in run] for key in runs[0]}
    best = {key: min(runs_of) for key, runs_of in samples.items()}
    return {
        "case": case.name,
        "system": name,
        "save_MBps": round(size / 1e6 / best["save_seconds"]),
        "load_MBps": round(size / 1e6 / best["load_seconds"]),
        "save_cpu_s_per_GiB": round(best["save_cpu"] * 1024 * MEBI / size, 2),
        "load_cpu_s_per_GiB": round(best["load_cpu"] * 1024 * MEBI / size, 2),
        "peak_extra_MiB": round(max(samples["save_peak"] + samples["load_peak"]) / MEBI),
        "save_MBps_runs": sorted(round(size / 1e6 / seconds) for seconds in samples["save_seconds"]),
        "load_MBps_runs": sorted(round(size / 1e6 / seconds) for seconds in samples["load_seconds"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three cases in place of ten")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--out", type=Path, default=Path.cwd())
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/dev/shm"))
    rows: list[dict[str, Any]] = []
    try:
        for case in cases(quick=chosen.quick):
            if chosen.only in case.name:
                found = run(case, chosen.repeats, folder)
                print(bench_picture.table(found, case.name), flush=True)
                print("\n".join(bench_goals.verdicts(found, case.place)), flush=True)
                rows += found
    finally:
        shutil.rmtree(folder)
    (chosen.out / "bench.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    bench_picture.draw(rows, chosen.out / "bench.png")


if __name__ == "__main__":
    main()

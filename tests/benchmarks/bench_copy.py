"""A copy from one bucket of an S3 server to another, beside the store's own client: `make bench-copy`.

Raw is obstore's `get` and `put` of the same objects, as many at once as the copy has, nothing compared. Both run in
turns, each in a process of its own: bytes per second, and the memory that the process took at most. The goals are 0.9
of raw, and 600 MiB.
"""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

ROUNDS: Final = 5
TENSORS: Final = 64
EACH: Final = 32 << 20
AT_ONCE: Final = 5
RAW: Final = "obstore get + put"


def raw(source: str, given: dict[str, Any], destination: str) -> None:
    """Move every object by the store's client alone."""
    import obstore

    one, other = (
        obstore.store.S3Store.from_url(
            url, endpoint=given["endpoint_url"], region=given["region"], client_options={"allow_http": True}
        )
        for url in (source, destination)
    )
    names = [entry["path"] for page in obstore.list(one) for entry in page]

    def move(name: str) -> None:
        obstore.put(other, name, obstore.get(one, name).bytes(), use_multipart=False)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(move, names))


def copy(source: str, given: dict[str, Any], destination: str) -> None:
    """Copy the checkpoint; to another bucket, so that the bytes pass through."""
    import dcp_engine

    dcp_engine.copy(source, destination, source_options=given, storage_options=given)


PROGRAMS: Final = {RAW: raw, "dcp_engine.copy": copy}


def child(name: str, given: list[Any]) -> None:
    """Run one program and print its seconds and its bytes of memory."""
    began = time.monotonic()
    PROGRAMS[name](*given)
    seconds = time.monotonic() - began
    peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
    print(json.dumps([seconds, int(peak) << 10]))


def main() -> None:
    """Save a checkpoint of 2 GiB, and move it in each way by turns."""
    import torch

    import dcp_engine
    import versitygw

    with versitygw.running() as gateway:
        options, size = gateway.server.options, TENSORS * EACH
        (gateway.folder.parent / "others").mkdir()
        source = gateway.server.url("source")
        state = {f"w{number}": torch.zeros(EACH // 4) for number in range(TENSORS)}
        dcp_engine.save(state, source, storage_options=options, no_dist=True)
        del state
        took: dict[str, list[tuple[float, int]]] = {name: [] for name in PROGRAMS}
        for number in range(ROUNDS):
            for name in PROGRAMS:
                destination = f"s3://others/{number}"
                program = [sys.executable, __file__, name, json.dumps([source, options, destination])]
                done = subprocess.run(program, capture_output=True, text=True, check=True, env=dict(os.environ))
                took[name].append(tuple(json.loads(done.stdout)))
                subprocess.run(["rm", "-r", str(gateway.folder.parent / "others" / str(number))], check=True)
    for name, runs in took.items():
        rates = sorted(size / seconds / 1e6 for seconds, _ in runs)
        print(f"{name:20} {median(rates):5.0f} MB/s (best {rates[-1]:.0f}), {max(peak for _, peak in runs) >> 20} MiB")
    ratios = [one / other for (one, _), (other, _) in zip(took[RAW], took["dcp_engine.copy"], strict=True)]
    print(f"copy / raw, in pairs: {', '.join(f'{ratio:.2f}' for ratio in ratios)}; median {median(ratios):.2f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(sys.argv[1], json.loads(sys.argv[2]))
    else:
        main()

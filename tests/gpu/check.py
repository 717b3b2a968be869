"""What of the engine can only be seen on a GPU. Needs one GPU, a torch from 2.11 and the engine's few packages.

    make gpu-check                       the packages of .venv
    make gpu-check GPU_PYTHON=python3    another Python's torch; `make gpu-packages` brings what else is needed

Every check runs in a process of its own, so that a context, a crash or a hang of one is not another's. Prints a table
and what was not run; ends with 1 if a check failed. No network, no server. `--device cpu` runs what needs no GPU.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

_SECONDS = 460.0
"""For all checks together."""
_EACH = 90.0
_RESULT = "result: "
_NOT_RUN = "not run: "


@dataclass
class Row:
    """One line of the table."""

    name: str
    result: str
    words: str
    seconds: float


def main() -> int:
    """Run the checks that were asked for, or all."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from gpu import checks

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(checks.CHECKS)}")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.names) - checks.CHECKS.keys():
        parser.error(f"no such check: {', '.join(sorted(unknown))}; there are {', '.join(checks.CHECKS)}")
    if options.one:
        with tempfile.TemporaryDirectory(dir=_fast()) as folder:
            print(_RESULT + checks.CHECKS[options.one](options.device, Path(folder)))
        return 0
    print(f"dcp-operator's engine, {checks.version()}, Python {platform.python_version()}")
    print(checks.machine(options.device))
    rows = _rows(options.names or list(checks.CHECKS), options.device)
    print(_table(rows))
    print("\n".join(["", "Not run here in any case:", *(f"- {what}" for what in checks.NEVER)]))
    return int(any(row.result == "FAILED" for row in rows))


def _rows(names: list[str], device: str) -> list[Row]:
    until = time.monotonic() + _SECONDS
    rows = []
    for name in names:
        left = until - time.monotonic()
        rows.append(_row(name, device, min(left, _EACH)) if left > 1 else Row(name, "not run", "the time is up", 0))
        print(f"{rows[-1].result:8} {name} ({rows[-1].seconds:.0f} s)", flush=True)
    return rows


def _row(name: str, device: str, limit: float) -> Row:
    started = time.monotonic()
    command = [sys.executable, __file__, "--device", device, "--one", name]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return Row(name, "FAILED", f"did not end within {limit:.0f} s", limit)
    took = time.monotonic() - started
    said = [line.removeprefix(_RESULT) for line in ended.stdout.splitlines() if line.startswith(_RESULT)]
    if ended.returncode or not said:
        lines = (ended.stderr or ended.stdout).strip().splitlines() or [f"exit code {ended.returncode}"]
        print(ended.stderr[-3000:], file=sys.stderr)
        return Row(name, "FAILED", lines[-1][:160], took)
    if said[-1].startswith(_NOT_RUN):
        return Row(name, "not run", said[-1].removeprefix(_NOT_RUN), took)
    return Row(name, "passed", said[-1], took)


def _table(rows: list[Row]) -> str:
    width = max(len(row.name) for row in rows)
    head = f"\n{'check':{width}}  {'result':8}  {'s':>4}  what was seen"
    return "\n".join([head, *(f"{row.name:{width}}  {row.result:8}  {row.seconds:4.0f}  {row.words}" for row in rows)])


def _fast() -> str | None:
    """Return memory to write to: what is measured is the device and the engine, not a disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


if __name__ == "__main__":
    sys.exit(main())

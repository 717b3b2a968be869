"""Opens crafted checkpoints, each operation in a process of its own, and tells how it ended and what it took."""

import json
import os
import resource
import shutil
import subprocess
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

import dcp_engine
import stock_dcp as dcp
from rank_processes import CONTEXT

Attempt = Callable[[str, Path], dict[str, Any]]
_DEADLINE = 60


def state() -> dict[str, Any]:
    return {"w": torch.zeros(4, 3), "o": {"a": [0, 0]}}


def load(url: str) -> None:
    dcp_engine.load(state(), url)


def load_by_stock_planner(url: str) -> None:
    dcp_engine.load(state(), url, planner=DefaultLoadPlanner())


def dcp_load(url: str) -> None:
    dcp.load(state(), storage_reader=dcp_engine.CheckpointReader(url), no_dist=True)


def save(url: str) -> None:
    copy = f"{url}-replaced"
    subprocess.run(["cp", "-a", "--sparse=always", url, copy], check=True)
    try:
        dcp_engine.save(state(), copy, overwrite=True)
        dcp_engine.verify(copy)
    finally:
        shutil.rmtree(copy)


OPERATIONS: dict[str, Callable[[str], object]] = {
    "load": load,
    "stock planner": load_by_stock_planner,
    "dcp.load": dcp_load,
    "inspect": dcp_engine.inspect,
    "verify": dcp_engine.verify,
    "save": save,
}


def _outcome(operate: Callable[[str], object], url: str) -> list[str]:
    try:
        operate(url)
    except BaseException as error:
        inner = getattr(error, "failures", None)
        if isinstance(inner, dict) and inner:
            error = next(iter(inner.values()))[0]
        return [type(error).__name__, str(error)]
    return ["ok", ""]


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def _run(operate: Callable[[str], object], url: str) -> dict[str, Any]:
    """Carry one operation out in a child; it can't take the machine down with it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # what it took until now does not count
            before = _peak()
            virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (virtual + (4 << 30),) * 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            outcome = _outcome(operate, url)
            used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
            took = _peak() - before  # what is read elsewhere has a limit of its own
            seconds = sum(one.ru_utime + one.ru_stime for one in used)
            os.write(write, json.dumps({"outcome": outcome, "bytes": took, "seconds": seconds}).encode())
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(write)
    deadline = time.monotonic() + _DEADLINE
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return {"outcome": ["hangs", ""], "bytes": 0, "seconds": _DEADLINE}
        time.sleep(0.005)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    return json.loads(said) if said else {"outcome": [f"died of {ended[1]}", ""], "bytes": 0, "seconds": 0.0}


@contextmanager
def running() -> Iterator[Attempt]:
    """Give what tries an operation, by its name, on a checkpoint, and tells how it ended."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()

    def attempt(operation: str, folder: Path) -> dict[str, Any]:
        ours.send((operation, str(folder)))
        found: dict[str, Any] = ours.recv()
        return found

    try:
        yield attempt
    finally:
        ours.close()
        process.join(10)


def _serve(pipe: Connection) -> None:
    """Carry out operations until nobody asks."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dcp_engine.warm()
    while True:
        try:
            name, url = pipe.recv()
        except EOFError:
            return
        pipe.send(_run(OPERATIONS[name], url))

"""What the ranks of the engine's tests run."""

import contextlib
import dataclasses
import itertools
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import distributed_c10d as c10d
from torch.distributed._shard.sharded_tensor import init_from_local_shards
from torch.distributed._shard.sharded_tensor.shard import Shard as Shard1
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import dcp_engine
from dcp_engine import errors, failpoints
from dcp_engine.errors import EngineError
from rank_group import in_own_processes
from s3_server import S3Server


def full_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """The unsharded truth: uneven shapes, an empty tensor, bf16, a scalar, an integer, columns."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "layer.weight": torch.randn(37, 11, generator=generator),
        "layer.bias": torch.randn(37, generator=generator).bfloat16(),
        "wide": torch.randn(3, 700, generator=generator),
        "columns": torch.randn(5, 9, generator=generator),
        "empty": torch.zeros(0, 4),
        "ids": torch.randint(0, 1 << 40, (13,), generator=generator),
        "large": torch.randn(1 << 18, 3, generator=generator),
    }


def sharded_state(seed: int = 0, *, zero: bool = False) -> dict[str, Any]:
    """The same as DTensors over all ranks, beside replicated and plain values."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    state: dict[str, Any] = {}
    for name, tensor in full_state(seed).items():
        placement = Shard(1) if name == "columns" else Shard(0)
        state[name] = distribute_tensor(torch.zeros_like(tensor) if zero else tensor, mesh, [placement])
    replica = torch.full((6, 6), float(seed))
    state["replica"] = distribute_tensor(torch.zeros_like(replica) if zero else replica, mesh, [Replicate()])
    state["plain"] = torch.tensor(0.0 if zero else seed + 0.5)
    state["extra"] = {"step": 0 if zero else seed, "names": [] if zero else ["a", "b"]}
    return state


def differences(state: dict[str, Any], seed: int = 0) -> list[str]:
    """Names of what is not bitwise what `sharded_state(seed)` holds. Collective."""
    wrong = []
    for name, expected in full_state(seed).items():
        if not torch.equal(state[name].full_tensor(), expected):
            wrong.append(name)
    if not torch.equal(state["replica"].full_tensor(), torch.full((6, 6), float(seed))):
        wrong.append("replica")
    if state["plain"].item() != seed + 0.5:
        wrong.append("plain")
    if state["extra"] != {"step": seed, "names": ["a", "b"]}:
        wrong.append("extra")
    return wrong


def save(rank: int, url: str, options: dict[str, Any] | None = None, seed: int = 0, **kwargs: Any) -> Any:
    del rank
    return dcp_engine.save(sharded_state(seed), url, storage_options=options, **kwargs)


def save_args(rank: int, url: str, options: dict[str, Any] | None, seed: int, kwargs: dict[str, Any]) -> Any:
    return save(rank, url, options, seed, **kwargs)


def load(rank: int, url: str, options: dict[str, Any] | None = None, seed: int = 0) -> list[str]:
    del rank
    state = sharded_state(seed, zero=True)
    dcp_engine.load(state, url, storage_options=options)
    return differences(state, seed)


def stock_save(rank: int, url: str, options: dict[str, Any] | None = None, seed: int = 0) -> None:
    import stock_dcp as dcp

    del rank
    warnings.simplefilter("ignore")
    dcp.save(sharded_state(seed), storage_writer=dcp.FsspecWriter(url, **(options or {})))


def stock_load(rank: int, url: str, options: dict[str, Any] | None = None, seed: int = 0) -> list[str]:
    import stock_dcp as dcp

    del rank
    warnings.simplefilter("ignore")
    state = sharded_state(seed, zero=True)
    dcp.load(state, storage_reader=dcp.FsspecReader(url, **(options or {})))
    return differences(state, seed)


def bare_round_trip(rank: int, url: str, options: dict[str, Any] | None = None) -> list[str]:
    import stock_dcp as dcp

    del rank
    dcp.save(sharded_state(3), storage_writer=dcp_engine.CheckpointWriter(url, storage_options=options))
    state = sharded_state(3, zero=True)
    dcp.load(state, storage_reader=dcp_engine.CheckpointReader(url, storage_options=options))
    return differences(state, 3)


def unsharded_state(value: float) -> dict[str, Any]:
    """A ShardedTensor all of which rank 0 holds, as FSDP1 makes them, beside a nested value."""
    mine = [Shard1.from_tensor_and_offsets(torch.full((4,), value), [0], 0)] if dist.get_rank() == 0 else []
    return {"model": {"p": init_from_local_shards(mine, 4)}, "extra": {"step": int(value)}}


def save_unsharded(rank: int, url: str) -> None:
    del rank
    warnings.simplefilter("ignore")
    dcp_engine.save(unsharded_state(3.0), url)


def load_unsharded(rank: int, url: str, planner: DefaultLoadPlanner | None = None) -> tuple[int, list[list[float]]]:
    del rank
    warnings.simplefilter("ignore")
    state = unsharded_state(0.0)
    dcp_engine.load(state, url, planner=planner)
    return state["extra"]["step"], [shard.tensor.tolist() for shard in state["model"]["p"].local_shards()]


class Failing(nn.Module):
    """A Stateful whose state can't be had on one rank."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.failing_rank = rank

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        if dist.get_rank() == self.failing_rank:
            raise ValueError("this rank has no state")
        return {"x": torch.zeros(3)}


def save_failing(rank: int, url: str, failing_rank: int) -> None:
    del rank
    dcp_engine.save({"model": Failing(failing_rank)}, url)


@in_own_processes
def save_and_die(rank: int, url: str, options: dict[str, Any] | None, point: str, dying: int, seed: int) -> None:
    """Replace the checkpoint, but the rank `dying` is killed where it reaches `point`."""

    def hook(reached: str) -> None:
        if reached == point and rank == dying:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.hook = hook
    dcp_engine.save(sharded_state(seed), url, storage_options=options, overwrite=True)


def race(rank: int, base: str, options: dict[str, Any] | None, rounds: int, *, overwrite: bool = False) -> list[Any]:
    """Two savers that know nothing of one another, released together, again and again."""
    groups = [dist.new_group([member]) for member in range(dist.get_world_size())]
    alone = groups[rank]
    assert isinstance(alone, dist.ProcessGroup)
    ends: list[Any] = []
    for number in range(rounds):
        state = {"x": torch.full((1000,), float(rank)), "who": rank}
        dist.barrier()
        try:
            info = dcp_engine.save(
                state,
                f"{base}/{number}",
                storage_options=options,
                process_group=alone,
                overwrite=overwrite,
                keep_replaced=timedelta(0),
            )
            ends.append(("saved", info.save_id))
        except errors.CheckpointExists as error:
            ends.append(("refused", error.conflict.save_id if error.conflict else ""))
    return ends


def race_to_replace(rank: int, url: str) -> list[Any]:
    """Let two savers replace one another, ten times."""
    return race(rank, url, None, 10, overwrite=True)


def async_saves(rank: int, url: str, failing_rank: int) -> list[str]:
    """Three saves in the background; the second fails on one rank."""
    seen = []
    state = sharded_state(1)
    first = dcp_engine.async_save(state, f"{url}/1")
    for value in state.values():
        if isinstance(value, DTensor):
            value.to_local().zero_()  # training goes on while the bytes travel
    second = dcp_engine.async_save({"model": Failing(failing_rank)} if rank < 0 else state, f"{url}/1")
    try:
        dcp_engine.async_save(sharded_state(3), f"{url}/3")
    except errors.EngineError as error:
        seen.append(f"{type(error).__name__} {error.rank}")
    seen.append(first.wait().save_id)
    assert second.done()
    third = dcp_engine.async_save(sharded_state(3), f"{url}/3")
    seen.append(third.wait(60).save_id)
    return seen


def noop(rank: int) -> int:
    return rank


@in_own_processes
def peak_of_a_save(rank: int, url: str, system: str) -> int:
    """Save 512 MiB of tensors that are not contiguous; return the bytes that this took beyond them."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter

    import stock_dcp as dcp

    del rank
    warnings.simplefilter("ignore")
    dcp.save({"warm": torch.zeros(3)}, storage_writer=FileSystemWriter(f"{url}-warm"))
    dcp_engine.save({"warm": torch.zeros(3)}, f"{url}-warm-too")
    state = _not_contiguous()
    if system == "stock":
        return _peak(lambda: dcp.save(state, storage_writer=FileSystemWriter(url)))
    return _peak(lambda: dcp_engine.save(state, url))


@in_own_processes
def peak_of_a_save_to_a_store(rank: int, url: str, options: dict[str, Any], memory_limit: int) -> int:
    """The same, by the engine, to an object store."""
    del rank
    dcp_engine.save({"warm": torch.zeros(3)}, f"{url}-warm", storage_options=options)
    state = _not_contiguous()
    return _peak(lambda: dcp_engine.save(state, url, storage_options=options, memory_limit=memory_limit))


def _not_contiguous() -> dict[str, torch.Tensor]:
    return {f"t{number}": torch.ones(2048, 4096)[:, ::2] for number in range(32)}


def _peak(step: Callable[[], object]) -> int:
    """Return the bytes that a step takes at most, beyond what this process holds before."""
    with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123 - a kernel file
        file.write("5")
    before = _memory("VmRSS")
    step()
    return _memory("VmHWM") - before


def _memory(field: str) -> int:
    with open("/proc/self/status") as file:  # noqa: PTH123 - a kernel file
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


def save_wide(rank: int, url: str, system: str) -> None:
    """Save one tensor of 64 MiB from one rank."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter

    import stock_dcp as dcp

    del rank
    state = {"wide": torch.arange(16 << 20).reshape(1 << 14, 1 << 10).float()}
    if system == "stock":
        dcp.save(state, storage_writer=FileSystemWriter(url))
    else:
        dcp_engine.save(state, url)


def bytes_of_a_load(rank: int, url: str, system: str) -> int:
    """Load this rank's share of `save_wide` and return the bytes read from files meanwhile."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    import stock_dcp as dcp

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    state = {"wide": distribute_tensor(torch.zeros(1 << 14, 1 << 10), mesh, [Shard(0)])}
    before = _bytes_read()
    if system == "stock":
        dcp.load(state, storage_reader=FileSystemReader(url))
    else:
        dcp_engine.load(state, url)
    fetched = _bytes_read() - before
    first = rank * (1 << 24) // dist.get_world_size()
    assert state["wide"].to_local().reshape(-1)[5].item() == first + 5
    return fetched


def _bytes_read() -> int:
    with open("/proc/self/io") as file:  # noqa: PTH123 - a kernel file
        return next(int(line.split()[1]) for line in file if line.startswith("rchar"))


def save_with_a_hung_rank(rank: int, url: str, hung: int) -> None:
    """One rank stops in the middle of its data, as one with a dead disk would; the others are patient for 2 s."""

    def hook(reached: str) -> None:
        if reached == "mid-part" and rank == hung:
            threading.Event().wait(20)

    failpoints.hook = hook
    dcp_engine.save(sharded_state(2), url, overwrite=True, patience=2)


@dataclasses.dataclass(frozen=True)
class Strike:
    """Something that happens once, in one rank, where it comes to a point for the n-th time."""

    point: failpoints.Point
    act: Callable[[], object]
    rank: int = 1
    times: int = 1

    def arm(self, rank: int) -> None:
        count = itertools.count(1)

        def hook(reached: str) -> None:
            if reached == self.point and next(count) == self.times:
                self.act()

        if rank == self.rank:
            failpoints.hook = hook


def apart(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same values, not side by side in memory: a save must copy them."""
    return torch.stack([tensor, tensor], dim=1)[:, 0]


LARGE = (8_195, 1_024)
"""32 MiB of float32: two ranks upload 16 MiB each, and no number of ranks gets even shares."""
SCANT = 15 << 20
"""A limit of memory that such a rank's tensors, if they don't lie as they are saved, exceed: they go in parts."""


def large_values(seed: int) -> dict[str, torch.Tensor]:
    rows = (torch.arange(LARGE[0] * LARGE[1]) + seed).float().reshape(LARGE)
    return {"rows": rows, "bias": torch.full((7,), float(seed))}


def large_state(seed: int, *, zero: bool = False) -> dict[str, Any]:
    """Return `large_values` as DTensors over all ranks, and the step."""
    found: dict[str, Any] = large_values(seed)
    if zero:
        found = {name: torch.zeros_like(value) for name, value in found.items()}
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    sharded = distribute_tensor(found["rows"], mesh, [Shard(0)], src_data_rank=None)
    return found | {"rows": sharded, "step": 0 if zero else seed}


def save_large(rank: int, url: str, options: dict[str, Any], seed: int, strike: Strike | None = None) -> None:
    """Save, each rank's share in one request."""
    if strike:
        strike.arm(rank)
    dcp_engine.save(large_state(seed), url, storage_options=options, overwrite=True, keep_replaced=timedelta(0))


def save_in_parts(rank: int, url: str, options: dict[str, Any], seed: int, strike: Strike | None = None) -> None:
    """Save the same, each rank's share in three parts."""
    if strike:
        strike.arm(rank)
    state = large_state(seed)
    rows = state["rows"]
    by_columns = rows.to_local().t().contiguous().t()
    state["rows"] = DTensor.from_local(
        by_columns, rows.device_mesh, rows.placements, run_check=False, shape=rows.shape, stride=rows.stride()
    )
    dcp_engine.save(state, url, storage_options=options, overwrite=True, memory_limit=SCANT, keep_replaced=timedelta(0))


@in_own_processes
def save_large_and_die(rank: int, server: S3Server, path: str, seed: int, point: failpoints.Point, dying: int) -> None:
    """Replace the checkpoint, but a rank is killed where it comes to `point`, or where rank 0 does if it never does."""
    import versitygw
    from cluster.processes import until

    pids = [0] * dist.get_world_size()
    dist.all_gather_object(pids, os.getpid())

    def kill() -> None:
        if point == "mid-part":
            until(lambda: any(versitygw.parts(server, path).values()), "a part in the store", seconds=20)
        os.kill(pids[dying], signal.SIGKILL)

    at = dying if point in {"planning", "mid-part"} else 0
    Strike(point, kill, at, times=6 if point == "mid-part" else 1).arm(rank)
    save_in_parts(rank, server.url(path), server.options, seed)


@in_own_processes
def save_large_and_die_sending(rank: int, url: str, options: dict[str, Any], seed: int, dying: int) -> None:
    """Replace the checkpoint over a slow line, but a rank is killed while its one request is on its way."""

    def kill_later() -> None:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()

    save_large(rank, url, options, seed, Strike("mid-part", kill_later, dying))


def load_and_replace_large(rank: int, url: str, options: dict[str, Any], seed: int, after: int) -> None:
    load_large(rank, url, options, seed)
    save_large(rank, url, options, after)
    load_large(rank, url, options, after)


def load_large(rank: int, url: str, options: dict[str, Any], seed: int, strike: Strike | None = None) -> int:
    """Load, compare every value, and return the bytes that this rank's tensors needed."""
    if strike:
        strike.arm(rank)
    state, expected = large_state(seed, zero=True), large_state(seed)
    dcp_engine.load(state, url, storage_options=options)
    assert state["step"] == seed
    assert torch.equal(state["bias"], expected["bias"])
    assert torch.equal(state["rows"].to_local(), expected["rows"].to_local())
    return int(state["rows"].to_local().nbytes + state["bias"].nbytes)


def stock_load_large(rank: int, url: str, options: dict[str, Any], seed: int) -> None:
    import stock_dcp as dcp

    del rank
    warnings.simplefilter("ignore")
    state = large_state(seed, zero=True)
    dcp.load(state, storage_reader=dcp.FsspecReader(url, **options))
    assert torch.equal(state["rows"].to_local(), large_state(seed)["rows"].to_local())


def save_what_differs(rank: int, url: str, what: str) -> None:
    """Every rank gives a URL or a step of its own."""
    if what == "url":
        dcp_engine.save(sharded_state(1), f"{url}/{rank}")
    elif what == "patience":
        dcp_engine.save(sharded_state(1), url, patience=60 + rank)
    else:
        dcp_engine.save(sharded_state(1), url, step=rank)


def wait_on_one_rank_alone(rank: int, url: str) -> list[Any]:
    """The second save fails; rank 0 alone hears of it before the third. Return what the others heard, and who saved."""
    dcp_engine.save(sharded_state(1), f"{url}/1")
    failing = dcp_engine.async_save(sharded_state(2), f"{url}/1")
    if rank == 0:
        with contextlib.suppress(errors.CheckpointExists):
            failing.wait()
    heard = []
    for _ in range(2):
        try:
            dcp_engine.async_save(sharded_state(3), f"{url}/2", step=3).wait()
        except errors.EngineError as error:
            heard.append(type(error).__name__)
        else:
            return [*heard, dcp_engine.inspect(f"{url}/2").step]
    return heard


def async_save_of_sharded_tensors(rank: int, url: str) -> bool:
    """Tensors as FSDP1 gives them; training changes them while the bytes travel."""
    shard = Shard1.from_tensor_and_offsets(torch.full((2, 3), rank + 1.0), [2 * rank, 0], rank)
    tensor = init_from_local_shards([shard], [2 * dist.get_world_size(), 3])
    saving = dcp_engine.async_save({"t": tensor}, url)
    shard.tensor.zero_()
    saving.wait()
    dcp_engine.load({"t": tensor}, url)
    return bool(torch.equal(shard.tensor, torch.full((2, 3), rank + 1.0)))


def save_in_two_process_groups(rank: int, url: str) -> int:
    """Save, end the process group, make another one, save again."""
    dcp_engine.async_save(sharded_state(1), f"{url}/1").wait()
    world = dist.get_world_size()
    dist.destroy_process_group()
    dist.init_process_group("gloo", init_method=f"file://{url}/again", rank=rank, world_size=world)
    dcp_engine.save(sharded_state(2), f"{url}/2")
    dcp_engine.async_save(sharded_state(2), f"{url}/3").wait()
    return 2 - len(differences(_loaded(f"{url}/3"), 2))


def _loaded(url: str) -> dict[str, Any]:
    state = sharded_state(zero=True)
    dcp_engine.load(state, url)
    return state


def save_with_a_hung_rank_0(rank: int, url: str, point: str) -> None:
    """Rank 0 stops at a point; the others are patient for 1 s, and hardly longer for rank 0."""

    def hook(reached: str) -> None:
        if reached == point and rank == 0:
            threading.Event().wait(50)

    failpoints.hook = hook
    dcp_engine.save(sharded_state(2), url, patience=1)


def save_without_one_rank(rank: int, url: str, absent: int) -> None:
    """One rank never comes to the first save; the others are patient for 5 s."""
    dist.barrier()
    if rank == absent:
        threading.Event().wait(50)
    dcp_engine.save({"x": torch.zeros(3)}, url, patience=5)


def save_one_call_apart(rank: int, url: str, gave_up: str) -> None:
    """Rank 0 gives up its first save, for which rank 1 comes only then."""
    if rank == 0:
        with contextlib.suppress(errors.PeerHung):
            dcp_engine.save({"x": torch.zeros(3)}, url, overwrite=True, patience=1)
        Path(gave_up).touch()
    deadline = time.monotonic() + 50
    while not Path(gave_up).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    dcp_engine.save({"x": torch.ones(3)}, url, overwrite=True, patience=30)


@in_own_processes
def threads_after_each_save(rank: int, folder: str) -> list[int]:
    """Join, save and leave, several times over."""
    dist.destroy_process_group()
    counts = []
    for time_ in range(4):
        dist.init_process_group("gloo", init_method=f"file://{folder}/store-{time_}", rank=rank, world_size=2)
        dcp_engine.save({"x": torch.zeros(3)}, f"{folder}/{time_}")
        dcp_engine.async_save({"x": torch.zeros(3)}, f"{folder}/{time_}", overwrite=True).wait()
        dist.destroy_process_group()
        counts.append(len(list(Path("/proc/self/task").iterdir())))
    return counts


def save_in_a_part_of_the_ranks(rank: int, url: str) -> float:
    """Ranks 0 and 1 save; then all of them make a group, and add up in it what each of them has."""
    part = dist.new_group([0, 1])
    if rank < 2:
        assert isinstance(part, dist.ProcessGroup)
        dcp_engine.save({"x": torch.zeros(3)}, url, process_group=part)
        dcp_engine.async_save({"x": torch.zeros(3)}, url, process_group=part, overwrite=True).wait()
    everybody = dist.new_group(list(range(dist.get_world_size())), timeout=timedelta(seconds=20))
    total = torch.ones(1)
    assert isinstance(everybody, dist.ProcessGroup)
    dist.all_reduce(total, group=everybody)
    return total.item()


@in_own_processes
def makers_of_groups(rank: int, url: str, debug: c10d.DebugLevel) -> list[str]:
    """Save in the foreground and in the background, twice, with another patience; return who made the groups."""
    del rank
    dist.set_debug_level(debug)  # type: ignore[attr-defined] # torch exports nothing by name
    makers = []
    make = c10d._new_process_group_helper

    def noted(*args: Any, **kwargs: Any) -> Any:
        makers.append(threading.current_thread().name)
        return make(*args, **kwargs)

    c10d._new_process_group_helper = noted
    for patience in (60, 61):
        dcp_engine.save({"x": torch.zeros(3)}, url, overwrite=True, patience=patience)
        dcp_engine.async_save({"x": torch.zeros(3)}, url, overwrite=True, patience=patience).wait()
    return makers


class Part(nn.Module):
    """A stage of a pipeline: each rank has another entry of the model."""

    def __init__(self, rank: int, value: float) -> None:
        super().__init__()
        self.register_parameter(f"of_{rank}", nn.Parameter(torch.full((3,), value)))


class Unwilling(torch.nn.Linear):
    """Fails on one rank alone, where it is asked for its state or where it gets it."""

    def __init__(self, where: str) -> None:
        super().__init__(2, 2)
        self.where = where

    def state_dict(self, *args: Any, **options: Any) -> Any:
        if self.where == "asked":
            raise KeyError("asked")
        return super().state_dict(*args, **options)

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        if self.where == "given":
            raise KeyError("given")
        if self.where == "file":
            raise FileNotFoundError("of its own")
        return super().load_state_dict(*args, **options)


def load_where_rank_1_is_unwilling(rank: int, url: str, where: str) -> tuple[str, int | None, str]:
    dcp_engine.save({"model": torch.nn.Linear(2, 2)}, url)
    try:
        dcp_engine.load({"model": Unwilling(where if rank else "")}, url)
    except errors.EngineError as error:
        return type(error).__name__, error.rank, error.message
    return "loaded", None, ""


def save_and_load_in_parts(rank: int, url: str) -> float:
    dcp_engine.save({"model": Part(rank, rank + 1.0)}, url)
    found = Part(rank, 0.0)
    dcp_engine.load({"model": found}, url)
    return next(found.parameters())[0].item()


def load_while_saving(rank: int, url: str) -> list[str]:
    """Load what this process saves in the background; the second save fails on rank 1 alone."""
    seen: list[str] = []

    def hook(reached: str) -> None:
        if reached == "mid-part":
            threading.Event().wait(0.2)
            if rank == 1 and failing:
                raise OSError(28, "No space left on device")

    def tell() -> None:
        found = {"w": torch.zeros(1000)}
        try:
            dcp_engine.load(found, url)
            seen.append(f"load {found['w'][0].item()}")
        except errors.EngineError as error:
            seen.append(f"{type(error).__name__} {error.rank}")

    failpoints.hook = hook
    failing = False
    dcp_engine.save({"w": torch.full((1000,), 1.0), "own": {str(rank): rank}}, url)
    dcp_engine.async_save({"w": torch.full((1000,), 2.0), "own": {str(rank): rank}}, url, overwrite=True)
    tell()
    tell()
    failing = True
    dcp_engine.async_save({"w": torch.full((1000,), 3.0), "own": {str(rank): rank}}, url, overwrite=True)
    tell()
    tell()
    return seen


@in_own_processes
def load_in_a_forked_child(rank: int, url: str) -> list[str]:
    """What a fork of a rank gets for a load, as it is and by itself."""
    dcp_engine.save({"w": torch.full((10,), 2.0)}, url)
    said = []
    for options in ({}, {"no_dist": True}):
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            found = {"w": torch.zeros(10)}
            try:
                dcp_engine.load(found, url, **options)  # type: ignore[arg-type]
                os.write(writer, str(found["w"][0].item()).encode())
            except errors.EngineError as error:
                os.write(writer, type(error).__name__.encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            said.append(pipe.read())
        os.waitpid(pid, 0)
    return said


def save_outside_of_the_group(rank: int, url: str) -> str:
    """Save on ranks 0 and 1 of a group of theirs, and call the same on rank 2; return what became of it."""
    group: Any = dist.new_group([0, 1])
    try:
        return dcp_engine.save({"w": torch.ones(3)}, url, process_group=group).save_id
    except EngineError as error:
        return f"{type(error).__name__}: {error}"

"""The systems that are compared: each saves and loads the same state, in every rank of a group."""

import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import torch

MEBI: Final = 1 << 20
State = dict[str, torch.Tensor]
Step = Callable[[int, str, dict[str, Any], State], None]
"""Called with (rank, URL, the engine's storage options, this rank's tensors)."""


@dataclass(frozen=True)
class System:
    """One way to move a checkpoint."""

    name: str
    save: Step
    load: Step


def _engine_save(rank: int, url: str, options: dict[str, Any], state: State) -> None:
    import dcp_engine

    del rank
    dcp_engine.save(state, url, storage_options=options)


def _engine_load(rank: int, url: str, options: dict[str, Any], state: State) -> None:
    import dcp_engine

    del rank
    dcp_engine.load(state, url, storage_options=options)


def _stock(threads: int) -> System:
    def save(rank: int, url: str, options: dict[str, Any], state: State) -> None:
        from torch.distributed.checkpoint.filesystem import FileSystemWriter

        import stock_dcp as dcp

        del rank
        local = FileSystemWriter(url, thread_count=threads) if "://" not in url else None
        dcp.save(state, storage_writer=local or dcp.FsspecWriter(url, thread_count=threads, **_for_s3fs(options)))

    def load(rank: int, url: str, options: dict[str, Any], state: State) -> None:
        from torch.distributed.checkpoint.filesystem import FileSystemReader

        import stock_dcp as dcp

        del rank
        dcp.load(
            state, storage_reader=dcp.FsspecReader(url, **_for_s3fs(options)) if "://" in url else FileSystemReader(url)
        )

    return System(f"stock DCP, thread_count={threads}", save, load)


def _for_s3fs(options: dict[str, Any]) -> dict[str, Any]:
    return {"endpoint_url": options["endpoint_url"], "skip_instance_cache": True} if options else {}


def _connector_save(rank: int, url: str, options: dict[str, Any], state: State) -> None:
    from s3torchconnector import S3ClientConfig
    from s3torchconnector.dcp import S3StorageWriter

    import stock_dcp as dcp

    del rank
    writer = S3StorageWriter("us-east-1", url, s3client_config=S3ClientConfig(force_path_style=True), overwrite=True)
    _at(writer, options)
    dcp.save(state, storage_writer=writer)


def _connector_load(rank: int, url: str, options: dict[str, Any], state: State) -> None:
    from s3torchconnector import S3ClientConfig
    from s3torchconnector.dcp import S3StorageReader

    import stock_dcp as dcp

    del rank
    reader = S3StorageReader("us-east-1", url, s3client_config=S3ClientConfig(force_path_style=True))
    _at(reader, options)
    dcp.load(state, storage_reader=reader)


def _at(storage: Any, options: dict[str, Any]) -> None:
    """Its DCP classes have no argument for an endpoint; the client below them has."""
    storage.fs._client._endpoint = options["endpoint_url"]


def _raw(store_url: str, options: dict[str, Any]) -> Any:
    from obstore.store import from_url

    from dcp_engine.stores.options import for_obstore

    translated: Any = for_obstore("s3", options)
    return from_url(
        store_url, config=translated.config, client_options=translated.client, retry_config=translated.retry
    )


_buffers: dict[int, Any] = {}


def _raw_save(rank: int, url: str, options: dict[str, Any], state: State) -> None:
    """Put one object, in parts of 8 MiB."""
    import obstore

    obstore.put(_raw(url, options), f"raw-{rank}-0", _buffer(state), chunk_size=8 * MEBI, max_concurrency=12)


_OBJECT: Final = 32 * MEBI


def _raw_save_objects(rank: int, url: str, options: dict[str, Any], state: State) -> None:
    """Put objects of 32 MiB, each in one request."""
    import obstore

    store, data = _raw(url, options), _buffer(state)

    def put(start: int) -> None:
        obstore.put(store, f"raw-{rank}-{start}", data[start : start + _OBJECT], use_multipart=False)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(0, len(data), _OBJECT)))


def _buffer(state: State) -> Any:
    """Return the state's bytes as one buffer, made outside the measured time (see `prepare`)."""
    size = sum(tensor.nbytes for tensor in state.values())
    return _buffers[size].data


def prepare(system: System, state: State) -> None:
    """Lay out what a system must not be charged for."""
    if system.name.startswith("raw"):
        flat = torch.cat([tensor.reshape(-1).view(torch.uint8) for tensor in state.values()])
        _buffers[flat.nbytes] = flat.numpy()


def _raw_load(window: int, threads: int, object_size: int = 1 << 40) -> Step:
    """Return a load by ranges of `window` bytes from one object, or from objects of `object_size`."""

    def load(rank: int, url: str, options: dict[str, Any], state: State) -> None:
        import obstore

        store = _raw(url, options)
        size = sum(tensor.nbytes for tensor in state.values())

        def fetch(start: int) -> int:
            first = start // object_size * object_size
            end = min(start + window, size, first + object_size)
            return len(obstore.get_range(store, f"raw-{rank}-{first}", start=start - first, end=end - first))

        with ThreadPoolExecutor(threads) as pool:
            assert sum(pool.map(fetch, range(0, size, window))) == size

    return load


def _raw_ranges(rank: int, url: str, options: dict[str, Any], state: State) -> None:
    import obstore

    size = sum(tensor.nbytes for tensor in state.values())
    starts = list(range(0, size, 8 * MEBI))
    ends = [min(start + 8 * MEBI, size) for start in starts]
    found = obstore.get_ranges(_raw(url, options), f"raw-{rank}-0", starts=starts, ends=ends, coalesce=0)
    assert sum(map(len, found)) == size


ENGINE: Final = System("dcp-operator", _engine_save, _engine_load)
STOCK: Final = _stock(1)
STOCK_THREADS: Final = _stock(4)
CONNECTOR: Final = System("s3torchconnector[dcp]", _connector_save, _connector_load)
RAW: Final = (
    System("raw obstore", _raw_save, _raw_load(8 * MEBI, 16)),
    System("raw obstore, 16 MiB x 8", _raw_save, _raw_load(16 * MEBI, 8)),
    System("raw obstore, get_ranges", _raw_save, _raw_ranges),
)
"""The limit: the same bytes as one object per rank, in three ways; the best of each figure counts."""
RAW_OBJECTS: Final = System("raw obstore, 32 MiB objects", _raw_save_objects, _raw_load(16 * MEBI, 8, _OBJECT))
"""The same bytes cut into objects of that size wherever a tensor ends, each put in one request: what a store takes
fastest. A second limit, which DCP's format can't come near where tensors are larger, since it never divides them."""
ALL: Final = {system.name: system for system in (ENGINE, STOCK, STOCK_THREADS, CONNECTOR, *RAW, RAW_OBJECTS)}


def measure(rank: int, name: str, url: str, options: dict[str, Any], megabytes: int) -> dict[str, float]:
    """Save and load once in this rank; return seconds, CPU seconds and peak extra bytes of either."""
    import torch.distributed as dist

    warnings.simplefilter("ignore")
    system = ALL[name]
    world = dist.get_world_size()
    warm = {f"rank{rank}.warm": torch.zeros(1000)}
    prepare(system, warm)
    system.save(rank, f"{url}-warm", options, warm)
    state = _state(rank, megabytes * MEBI // world)
    prepare(system, state)
    figures = _timed("save", lambda: system.save(rank, url, options, state))
    into = {key: torch.full_like(value, 0) for key, value in state.items()}
    figures |= _timed("load", lambda: system.load(rank, url, options, into))
    if not name.startswith("raw"):
        assert all(torch.equal(into[key], state[key]) for key in state)
    return figures


def _state(rank: int, size: int) -> State:
    """Return one rank's share: 16 matrices and some vectors, as a transformer has them."""
    generator = torch.Generator().manual_seed(rank)
    rows = size // 16 // 4 // 1024
    state = {f"rank{rank}.layer{n}.weight": torch.rand(rows, 1024, generator=generator) for n in range(16)}
    return state | {f"rank{rank}.layer{n}.bias": torch.rand(1024, generator=generator) for n in range(16)}


def _timed(what: str, step: Callable[[], None]) -> dict[str, float]:
    import torch.distributed as dist

    dist.barrier()
    before = _reset_peak()
    started, cpu = time.monotonic(), time.process_time()
    step()
    cpu = time.process_time() - cpu
    peak = _status("VmHWM") - before
    dist.barrier()
    return {f"{what}_seconds": time.monotonic() - started, f"{what}_cpu": cpu, f"{what}_peak": peak}


def _reset_peak() -> int:
    with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123 - a kernel file
        file.write("5")
    return _status("VmRSS")


def _status(field: str) -> int:
    with open("/proc/self/status") as file:  # noqa: PTH123 - a kernel file
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))

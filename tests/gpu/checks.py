"""The checks of `check.py`: each gets the device's type and an empty folder, and says what was seen, or raises."""

import os
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

import dcp_engine

NEVER = (
    "several GPUs in one process group: NCCL between ranks, NVLink",
    "S3: no server comes along, so requests are not counted",
    "the operator and its pods",
)
_CONTEXTS = ("nvidia-smi", "--query-compute-apps=pid,gpu_uuid", "--format=csv,noheader")
_DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128"),
    *("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
)
_GIB = 1 << 30
_BUSY = 1_000_000_000
"""Cycles: half a second or so, in which a copy that is not ordered reads what was there before."""


def version() -> str:
    """Return torch's version."""
    return f"torch {torch.__version__}"


def machine(device: str) -> str:
    """Return what the checks run on."""
    if device == "cpu":
        return "device: CPU. NOTHING OF THIS RAN ON A GPU."
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here; --device cpu runs what needs none")
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f"CUDA {torch.version.cuda}, {len(names)} x {names[0]}"


def values(device: str, folder: Path) -> str:
    """Every kind of tensor comes back bit for bit, also into a target of another layout."""
    dtypes = [getattr(torch, name) for name in _DTYPES]
    bits = torch.randint(0, 2, (16 * 16 * 16,), dtype=torch.uint8)
    state = {str(dtype): bits[: 256 * dtype.itemsize].view(dtype).reshape(16, 16).to(device) for dtype in dtypes}
    whole = torch.randn(64, 64, device=device)
    state |= {
        "0-dim": whole[3, 3].clone(),
        "empty": whole[:0],
        "transposed": whole.T,
        "strided": whole[::3, 1::2],
        "expanded": whole[:1].expand(8, 64),
        "conj": torch.randn(8, 8, dtype=torch.complex64, device=device).conj(),
        "negated": torch.randn(8, 8, dtype=torch.complex64, device=device).conj().imag,
    }
    dcp_engine.save(state, folder / "c")
    for of in (torch.zeros_like, _transposed):
        found = {name: of(tensor.resolve_conj().resolve_neg()) for name, tensor in state.items()}
        dcp_engine.load(found, folder / "c")
        _equal(found, state)
    return f"{len(state)} kinds, into two layouts"


def _transposed(tensor: torch.Tensor) -> torch.Tensor:
    """Return zeros of the same shape whose memory runs along the last dimension last."""
    turned = tuple(reversed(range(tensor.dim())))
    return torch.zeros_like(tensor.permute(turned), memory_format=torch.contiguous_format).permute(turned)


def side_stream(device: str, folder: Path) -> str:
    """A save and a load are ordered after what any stream has queued, on every device of the state."""
    if device != "cuda":
        return "not run: needs a GPU"
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    names = ("save", "async_save")
    for name in names:
        state = {"w": torch.zeros(1 << 20, device=device)}
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(_BUSY)  # type: ignore[no-untyped-call]
            state["w"].fill_(7)
        made = getattr(dcp_engine, name)(state, folder / name)
        if name == "async_save":
            made.wait()
        found = {"w": torch.zeros(1 << 20)}
        dcp_engine.load(found, folder / name)
        assert found["w"].eq(7).all(), f"{name} copied before the stream had written"
    target = {"w": torch.zeros(1 << 20, device=device, dtype=torch.float64)}
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(_BUSY)  # type: ignore[no-untyped-call]
        target["w"].fill_(1)
    dcp_engine.load(target, folder / "save")
    with torch.cuda.stream(stream):
        assert target["w"].eq(7).all(), "what was queued before the load came after it"
    return "save, async_save and a converting load wait for a busy stream"


def in_place(device: str, folder: Path) -> str:
    """async_save keeps the values of its call while the optimizer goes on in place."""
    model = nn.Linear(2048, 2048, device=device)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(4, 2048, device=device)).sum().backward()
    optimizer.step()
    state = {**model.state_dict(), "exp_avg": optimizer.state[model.weight]["exp_avg"]}
    before = {name: value.clone() for name, value in state.items()}
    pending = dcp_engine.async_save(state, folder / "c")
    for _ in range(50):
        optimizer.step()
    pending.wait()
    found = {name: torch.zeros_like(value) for name, value in before.items()}
    dcp_engine.load(found, folder / "c")
    _equal(found, before)
    assert not torch.equal(model.weight, before["weight"])
    return "50 steps went on meanwhile"


def contexts(device: str, folder: Path) -> str:
    """A save of the host's tensors makes no context; one of another GPU's makes none on GPU 0."""
    dcp_engine.async_save({"w": torch.ones(1000)}, folder / "host").wait()
    assert not torch.cuda.is_initialized(), "a save of CPU tensors made a context"  # type: ignore[no-untyped-call]
    if device != "cuda":
        return "none for the host's tensors; the rest needs a GPU"
    if torch.cuda.device_count() == 1:
        return "none for the host's tensors; GPU 0 of another rank: not run, one GPU"
    torch.cuda.set_device(1)
    state = {"w": torch.ones(1 << 24, device="cuda:1")}
    dcp_engine.async_save(state, folder / "second").wait()
    dcp_engine.save(state, folder / "third")
    dcp_engine.load(state, folder / "third")
    mine = subprocess.run(_CONTEXTS, capture_output=True, text=True, check=True).stdout
    uuids = {line.partition(",")[2].strip() for line in mine.splitlines() if line.startswith(f"{os.getpid()},")}
    first = str(torch.cuda.get_device_properties(0).uuid)
    if not uuids:
        return "none for the host's tensors; GPU 0 of another rank: not seen, the driver shows no process of ours"
    assert not any(first in uuid for uuid in uuids), "a context on GPU 0"
    return "none for the host's tensors, none on GPU 0 for a rank on GPU 1"


def pinned(device: str, folder: Path) -> str:
    """Background saves leave nothing behind; malloc keeps some of what the first few freed."""
    state = {f"w{number}": torch.ones(1 << 22, device=device) for number in range(8)}
    size = sum(value.nbytes for value in state.values())
    resident = []
    for number in range(12):
        dcp_engine.async_save(state, folder / str(number)).wait()
        resident.append(_resident())
    growth = resident[-1] - resident[5]
    assert growth < size, f"{growth >> 20} MiB more after six further saves of {size >> 20} MiB"
    return f"{growth >> 20:+} MiB after six further saves of {size >> 20} MiB"


def small(device: str, folder: Path) -> str:
    """Thousands of tensors of a few bytes, many in one page, are staged and saved."""
    state = {f"w{number}": torch.full((1 + number % 3,), float(number), device=device) for number in range(5000)}
    dcp_engine.async_save(state, folder / "c").wait()
    found = {name: torch.zeros_like(value) for name, value in state.items()}
    dcp_engine.load(found, folder / "c")
    _equal(found, state)
    return f"{len(state)} tensors of 4 to 12 bytes"


def convert(device: str, folder: Path) -> str:
    """A load into another dtype converts as torch does."""
    state = {"w": torch.randn(1 << 20, device=device), "s": torch.randn(512, 512, device=device)}
    dcp_engine.save(state, folder / "c")
    found = {name: torch.zeros_like(value, dtype=torch.bfloat16) for name, value in state.items()}
    found["s"] = found["s"].T.contiguous().T
    dcp_engine.load(found, folder / "c")
    _equal(found, {name: value.to(torch.bfloat16) for name, value in state.items()})
    return "float32 into bfloat16, also transposed"


def fsdp(device: str, folder: Path) -> str:
    """A fully sharded model and its optimizer, with both ways to name the backends."""
    backends = ("nccl", "cpu:gloo,cuda:nccl") if device == "cuda" else ("gloo",)
    for number, backend in enumerate(backends):
        dist.init_process_group(backend, init_method=f"file://{folder}/meet{number}", rank=0, world_size=1)
        _fsdp(device, folder / str(number))
        dist.destroy_process_group()
    return f"one rank under {' and '.join(backends)}"


def _fsdp(device: str, url: Path) -> None:
    mesh = init_device_mesh(device, (1,))

    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 7)).to(device)
        fully_shard(model, mesh=mesh)  # in place
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.ones(3, 64, device=device)).sum().backward()
        optimizer.step()
        return model, optimizer

    def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        named = dict(model.named_parameters())
        return {"model": model.state_dict(), "optim": {name: optimizer.state[named[name]] for name in named}}

    first, second = state(*made()), state(*made())
    dcp_engine.save(first, url)
    dcp_engine.load(second, url)
    for name, value in first["model"].items():
        assert isinstance(value, DTensor)
        _equal({name: second["model"][name].to_local()}, {name: value.to_local()})
    for name, saved in first["optim"].items():
        _equal(_local(second["optim"][name]), _local(saved))


def _local(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.to_local() if isinstance(value, DTensor) else value for key, value in values.items()}


def reshard(device: str, folder: Path) -> str:
    """Two ranks (on one GPU, by gloo) save by rows and load by columns; then one rank loads the whole."""
    torch.multiprocessing.spawn(_reshard, args=(device, str(folder)), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    found = {"w": torch.zeros(6, 10, device=device)}
    dcp_engine.load(found, folder / "c")
    _equal(found, {"w": torch.arange(60.0, device=device).reshape(6, 10)})
    return "2 ranks by rows, 2 by columns, 1 whole"


def _reshard(rank: int, device: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,)) if device == "cpu" else DeviceMesh(device, [0, 1])
    whole = torch.arange(60.0, device=device).reshape(6, 10)
    dcp_engine.save({"w": DTensor.from_local(whole.chunk(2)[rank].clone(), mesh, [Shard(0)])}, f"{folder}/c")
    target = DTensor.from_local(torch.zeros(6, 5, device=device), mesh, [Shard(1)])
    dcp_engine.load({"w": target}, f"{folder}/c")
    _equal({"w": target.to_local()}, {"w": whole.chunk(2, dim=1)[rank]})
    dist.destroy_process_group()


def speed_large(device: str, folder: Path) -> str:
    """GB/s of one large tensor to memory, beside a bare copy."""
    size = 4 * _GIB if device == "cuda" else _GIB // 8
    return _speed({"w": torch.ones(size // 4, device=device)}, device, folder)


def speed_small(device: str, folder: Path) -> str:
    """GB/s of 20,000 tensors of 64 KiB."""
    count = 20_000 if device == "cuda" else 1_000
    return _speed({f"w{number}": torch.ones(1 << 14, device=device) for number in range(count)}, device, folder)


def _speed(state: dict[str, torch.Tensor], device: str, folder: Path) -> str:
    size = sum(value.nbytes for value in state.values()) / 1e9
    seen = []
    if device == "cuda":
        for kind in (True, False):
            host = [torch.empty_like(value, device="cpu", pin_memory=kind) for value in state.values()]
            copy = partial(_copy, list(state.values()), host)
            seen.append(f"{'pinned' if kind else 'pageable'} copy {size / _took(copy):.1f}")
    for limit in (256 << 20, 1 << 30):
        save = partial(dcp_engine.save, state, folder / "c", overwrite=True, memory_limit=limit)
        seen.append(f"save ({limit >> 20} MiB) {size / min(_took(save), _took(save)):.1f}")
    seconds = min(_took(lambda: dcp_engine.load(state, folder / "c")) for _ in range(2))
    seen.append(f"load {size / seconds:.1f}")
    blocked = []
    for _ in range(3):
        started = time.monotonic()
        pending = dcp_engine.async_save(state, folder / "c", overwrite=True)
        blocked.append(time.monotonic() - started)
        pending.wait()
    return f"{size:.1f} GB, GB/s: {', '.join(seen)}; async_save blocks {blocked[0]:.2f} s, the third {blocked[2]:.2f} s"


def _copy(values: list[torch.Tensor], host: list[torch.Tensor]) -> None:
    for value, target in zip(values, host, strict=True):
        target.copy_(value, non_blocking=True)


def _took(step: Callable[[], object]) -> float:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    started = time.monotonic()
    step()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return time.monotonic() - started


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _equal(found: dict[str, torch.Tensor], saved: dict[str, torch.Tensor]) -> None:
    assert found.keys() == saved.keys()
    different = [name for name, value in saved.items() if _bits(found[name]) != _bits(value)]
    assert not different, f"{different[:3]} came back otherwise"


def _bits(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


CHECKS: dict[str, Callable[[str, Path], str]] = {
    "values": values,
    "side-stream": side_stream,
    "in-place": in_place,
    "contexts": contexts,
    "pinned": pinned,
    "small": small,
    "convert": convert,
    "fsdp": fsdp,
    "reshard": reshard,
    "speed-large": speed_large,
    "speed-small": speed_small,
}

"""What the ranks of the tests of values run."""

import collections
import logging
from typing import Any, Self

import torch
import torch.distributed as dist
from torch.distributed._shard.sharded_tensor import init_from_local_shards
from torch.distributed._shard.sharded_tensor.shard import Shard as Shard1
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

import dcp_engine
from dcp_engine import errors
from dcp_engine.transfer import devices


class Scaled(torch.Tensor):
    """Wraps int8 values and a scale, as quantised weights do; its values lie in no memory of its own."""

    data8: torch.Tensor
    scale: torch.Tensor

    @staticmethod
    def __new__(cls: type[Self], data8: torch.Tensor, scale: torch.Tensor, step: int = 0) -> Self:
        made: Self = torch.Tensor._make_wrapper_subclass(cls, data8.shape, dtype=torch.float32)
        made.data8, made.scale, made.step = data8, scale, step
        return made

    step: int

    def __tensor_flatten__(self) -> tuple[list[str], int]:
        return ["data8", "scale"], self.step

    @classmethod
    def __tensor_unflatten__(cls, inner: dict[str, torch.Tensor], context: int, *_: object) -> Self:
        return cls(inner["data8"], inner["scale"], context)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        first: Any = args[0] if args else None
        if func in {torch.ops.aten.detach.default, torch.ops.aten.view.default, torch.ops.aten.alias.default}:
            return cls(first.data8, first.scale, first.step)
        if func is torch.ops.aten.clone.default:
            return cls(first.data8.clone(), first.scale.clone(), first.step)
        plain = [each.data8 * each.scale if isinstance(each, Scaled) else each for each in args]
        return func(*plain, **(kwargs or {}))


class Unclonable(Scaled):
    """Knows itself by its parts alone: what torch does with it gives other tensors."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func is torch.ops.aten.detach.default:
            return cls(args[0].data8, args[0].scale, args[0].step)
        plain = [torch.zeros(each.shape) if isinstance(each, Scaled) else each for each in args]
        return func(*plain, **(kwargs or {}))


class Opaque(torch.Tensor):
    """Wraps a tensor and can't be taken apart."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls: type[Self], held: torch.Tensor) -> Self:
        made: Self = torch.Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        args = [each.held if isinstance(each, Opaque) else each for each in args]
        made = func(*args, **(kwargs or {}))
        return cls(made) if isinstance(made, torch.Tensor) and func is not torch.ops.aten.copy_.default else made


class Named(torch.Tensor):
    """A tensor with memory of its own and a label."""

    label: str


class Liar(torch.Tensor):
    """Answers for itself, and wrongly, whatever is asked of it."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in {torch.Tensor.detach, torch.Tensor.cpu, torch.Tensor.clone, torch.Tensor.new_empty, torch.Tensor.to}:
            return torch.zeros(args[0].shape)
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


def scaled(seed: float = 1.0, kind: type[Scaled] = Scaled, step: int = 3) -> Scaled:
    return kind(torch.arange(6, dtype=torch.int8).reshape(2, 3) * int(seed), torch.tensor([seed]), step)


def uneven(rank: int, url: str, kind: str, background: bool) -> str:  # noqa: FBT001
    """Save what on one of two ranks is not what the plan says, and return what was said."""
    mesh = init_device_mesh("cpu", (2,))
    state = {"fine": torch.ones(2), "w": _uneven(rank, kind, mesh)}
    try:
        saved = dcp_engine.async_save(state, url).wait() if background else dcp_engine.save(state, url)
    except errors.EngineError as error:
        return f"{type(error).__name__}: {error.message}"
    return saved.url


def _uneven(rank: int, kind: str, mesh: DeviceMesh) -> torch.Tensor:
    rows = torch.ones(3 - 2 * rank, 4)
    match kind:
        case "shorter":
            return DTensor.from_local(rows, mesh, [Shard(0)], run_check=False, shape=torch.Size((5, 4)), stride=(4, 1))
        case "longer":
            return DTensor.from_local(torch.ones(4, 4), mesh, [Shard(0)], shape=torch.Size((6, 4)), stride=(4, 1))
        case "replica":
            return DTensor.from_local(rows, mesh, [Replicate()], shape=torch.Size((3, 4)), stride=(4, 1))
        case "partial":
            return DTensor.from_local(torch.ones(2, 4), mesh, [Partial()])
        case "shards":
            made = init_from_local_shards([Shard1.from_tensor_and_offsets(torch.ones(2, 4), [2 * rank, 0], rank)], 4, 4)
            if rank:
                made.local_shards()[0].tensor = torch.ones(1, 4)
            return made
        case "wrapper":
            return DTensor.from_local(scaled(), mesh, [Shard(0)], shape=torch.Size((3, 3)), stride=(3, 1))
    raise AssertionError(kind)


def unlike(rank: int, url: str, kind: str) -> str:
    """Save one name for two kinds of values."""
    pairs: dict[str, tuple[Any, Any]] = {
        "object": (torch.ones(2), 3),
        "shape": (torch.ones(2), torch.ones(3)),
        "type": (torch.ones(2), torch.ones(2, dtype=torch.bfloat16)),
    }
    if kind == "shards":
        mesh = init_device_mesh("cpu", (2,))
        local = torch.ones(2, dtype=torch.float32 if rank else torch.bfloat16)
        value: Any = DTensor.from_local(local, mesh, [Shard(0)], run_check=False)
    elif kind in {"whole first", "whole last"}:
        mesh = init_device_mesh("cpu", (2,))
        whole = rank == (kind == "whole last")
        value = torch.ones(4) if whole else DTensor.from_local(torch.ones(2), mesh, [Shard(0)], run_check=False)
    else:
        value = pairs[kind][rank]
    try:
        dcp_engine.save({"a": {"w": value}}, url)
    except errors.EngineError as error:
        return f"{type(error).__name__}: {error.message}"
    return ""


def sharded_wrappers(rank: int, url: str, background: bool) -> bool:  # noqa: FBT001
    """Save and load a DTensor of wrappers, and one whose local tensor is still on its way."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))

    def made(seed: float) -> dict[str, Any]:
        local = scaled(seed * (rank + 1))
        summed = DTensor.from_local(torch.full((3,), seed), mesh, [Partial()]).redistribute(mesh, [Replicate()])
        return {"w": DTensor.from_local(local, mesh, [Shard(0)], run_check=False), "late": summed}

    dcp_engine.async_save(made(3.0), url).wait() if background else dcp_engine.save(made(3.0), url)
    found = made(0.0)
    dcp_engine.load(found, url, allow=[Scaled])
    local, wanted = found["w"]._local_tensor, scaled(3.0 * (rank + 1))
    return (
        torch.equal(local.data8, wanted.data8)
        and torch.equal(local.scale, wanted.scale)
        and torch.equal(found["late"].to_local(), torch.full((3,), 3.0 * dist.get_world_size()))
    )


def load_halves(rank: int, url: str) -> tuple[int, int, str]:
    """Load every second layer on each of two ranks; then leave out the last."""

    def mine(count: int) -> dict[str, Any]:
        return {f"layers.{number}.weight": torch.zeros(3) for number in range(rank, count, 2)}

    entries = dcp_engine.load(mine(4), url, strict="both").entries
    assert entries is not None
    try:
        dcp_engine.load(mine(3), url, strict="both")
    except errors.StateMismatch as error:
        return entries.loaded, entries.left_out, error.message
    return entries.loaded, entries.left_out, ""


class Loader:
    """An object of a rank's own, with state that only it knows how to take."""

    def __init__(self, at: int) -> None:
        self.at = at

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at, "seen": [self.at, {"epoch": self.at}], "order": torch.full((3,), self.at)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state["seen"] == [state["at"], {"epoch": state["at"]}]
        assert torch.equal(state["order"], torch.full((3,), state["at"]))
        self.at = state["at"]


def save_by_rank(rank: int, url: str, background: bool) -> None:  # noqa: FBT001
    """Save what every rank has of its own beside what all share."""
    state = _by_rank(rank, "refuse")
    dcp_engine.async_save(state, url).wait() if background else dcp_engine.save(state, url)


def _by_rank(seed: int, resize: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "w": torch.ones(3),
        "rng": dcp_engine.per_rank(generator.get_state(), resize=resize),
        "plain": dcp_engine.per_rank({"position": seed, "name": f"rank {seed}"}, resize=resize),
        "loader": dcp_engine.per_rank(Loader(seed), resize=resize),
    }


def load_by_rank(rank: int, url: str, resize: str) -> tuple[Any, ...]:
    """Return whose values the rank got."""
    state = _by_rank(100 + rank, resize)
    try:
        dcp_engine.load(state, url)
    except errors.EngineError as error:
        return (type(error).__name__, error.message)
    rng = torch.Generator().manual_seed(rank).get_state()
    return state["plain"].value["position"], state["loader"].value.at, torch.equal(state["rng"].value, rng)


def save_different(rank: int, url: str, kind: str, drift: Any) -> tuple[str, list[str]]:
    """Save what claims to be the same on all three ranks; return what was said."""
    said = Said()
    logging.getLogger("dcp_engine").addHandler(said)
    try:
        dcp_engine.save(_different(rank, kind), url, drift=drift)
    except errors.EngineError as error:
        return f"{type(error).__name__}: {error.message}", said.texts
    finally:
        logging.getLogger("dcp_engine").removeHandler(said)
    return "saved", said.texts


class Late:
    """A runtime in which the CPU is an accelerator, and what is computed comes to be when its device is waited for."""

    host = frozenset({"meta"})

    def __init__(self, rank: int, tensors: list[torch.Tensor]) -> None:
        self._pending = tensors
        for tensor in tensors:
            tensor.fill_(-1 - rank)

    def current(self) -> torch.device | None:
        return None

    def use(self, device: torch.device) -> None:
        raise AssertionError(device)

    def synchronize(self, device: torch.device) -> None:
        while device.type == "cpu" and self._pending:
            self._pending.pop().fill_(1)


def save_late(rank: int, url: str, background: bool) -> list[float]:  # noqa: FBT001
    """Save what is still being computed; return what a load finds."""
    replica, within, lone = torch.empty(5), torch.empty(3), torch.empty(2)
    before = devices.layer
    devices.layer = Late(rank, [replica, within, lone])
    state = {"m": {"w": replica}, "extra": {"queue": collections.deque([within])}, f"rank{rank}": lone}
    try:
        if background:
            dcp_engine.async_save(state, url, drift="refuse").wait()
        else:
            dcp_engine.save(state, url, drift="refuse")
    finally:
        devices.layer = before
    found: dict[str, Any] = {"m": {"w": torch.zeros(5)}, "extra": {"queue": None}, f"rank{rank}": torch.zeros(2)}
    dcp_engine.load(found, url)
    tensors = [found["m"]["w"], found["extra"]["queue"][0], found[f"rank{rank}"]]
    return [value for tensor in tensors for value in tensor.unique().tolist()]


class Said(logging.Handler):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def _different(rank: int, kind: str) -> dict[str, Any]:  # noqa: PLR0911 - a table
    two = float(rank == 2)
    match kind:
        case "objects":
            return {"pos": rank, "same": [1, "a"], "rng": {"numpy": ("MT", (1, rank // 2))}}
        case "order":
            keys = ["a", "b"] if rank else ["b", "a"]
            words = ["x" + str(rank)[:0] + "y", "xy"]
            return {"extra": {"o": ({key: float("nan") for key in keys}, {"s", "t"}, words, -0.0 if rank else 0.0)}}
        case "tensor":
            return {"m": {"w": torch.full((5,), 1.0 + two), "same": torch.ones(3)}}
        case "hsdp":
            mesh = init_device_mesh("cpu", (3, 1))
            local = torch.full((4, 2), 1.0 + two)
            return {"w": DTensor.from_local(local, mesh, [Replicate(), Shard(0)], run_check=False)}
        case "bits":
            return {"w": torch.full((5,), float("nan"))[:: 2 if rank else 1][:3], "b": torch.ones(4, dtype=torch.int8)}
        case "sharded":
            mesh = init_device_mesh("cpu", (3,))
            return {"w": DTensor.from_local(torch.full((2,), two), mesh, [Shard(0)], run_check=False)}
        case "own keys":
            return {f"rank{rank}": rank, "w": torch.ones(2)}
    raise AssertionError(kind)


def save_own_names(rank: int, url: str) -> None:
    """Save what each rank has under a name of its own."""
    dcp_engine.save({"w": torch.ones(2), f"local.rank{rank}of{dist.get_world_size()}.t": torch.ones(1)}, url)


def load_own_names(rank: int, url: str, asked: dict[int, list[str]]) -> tuple[int | None, str]:
    """Load what a rank asks for beside what all have; return who is said to have failed, and how."""
    state = {name: torch.zeros(1) for name in asked.get(rank, [])}
    try:
        dcp_engine.load({"w": torch.zeros(2), **state}, url)
    except errors.StateMismatch as error:
        return error.rank, error.message
    return None, "loaded"


class Odd:
    """A class that a load takes only if it is allowed."""


def save_odd_entries(rank: int, url: str, kind: str) -> str:
    """Save what is refused, of which each rank has its own; return what is said."""
    odd = {"class": Odd(), "lambda": lambda: None, "sparse": torch.ones(2).to_sparse()}
    try:
        dcp_engine.save({f"of{rank}": odd[kind], "w": torch.ones(2)}, url, unloadable="refuse")
    except errors.UnsavableState as error:
        return error.message
    return "saved"

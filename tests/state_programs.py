"""What the ranks of the state's tests run beside Tasks."""

import copy
import warnings
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

import dcp_engine
import stock_dcp as dcp
from dcp_engine.errors import StateMismatch
from dcp_worker.rank_context import Place
from dcp_worker.training import sharding, state_dict
from workloads import Awkward, AwkwardSeed, MyTestModule, Seed, differences


class Averaged(torch.optim.Optimizer):
    """Not torch's own: state that starts as the parameter and at one, counts in the state and in the group."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1, "weight_decay": 0.1, "k": 0, "seen": torch.zeros(())})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["k"] += 1
            group["seen"].add_(1)
            for each in group["params"]:
                if each.grad is None:
                    continue
                found = self.state[each]
                if not found:
                    found.update(step=0, z=each.clone(), sum=torch.ones(()), moment=torch.zeros_like(each))
                found["step"] += 1
                found["moment"].mul_(0.5).add_(each.grad + group["weight_decay"] * each)
                found["z"].sub_(found["moment"], alpha=group["lr"])
                found["sum"].add_(group["lr"])
                each.lerp_(found["z"], 1 / found["step"])


Make = Callable[[Any], torch.optim.Optimizer]
_MAKERS: Final[dict[str, Make]] = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.1),
    "SGD with momentum": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1),
    "SGD with Nesterov": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": lambda params: torch.optim.Adam(params, lr=0.1, weight_decay=0.1),
    "Adam with a tensor as lr": lambda params: torch.optim.Adam(params, lr=torch.tensor(0.1)),
    "AdamW with AMSGrad": lambda params: torch.optim.AdamW(params, lr=0.1, amsgrad=True),
    "NAdam": lambda params: torch.optim.NAdam(params, lr=0.1),
    "RAdam": lambda params: torch.optim.RAdam(params, lr=0.1),
    "Adamax": lambda params: torch.optim.Adamax(params, lr=0.1),
    "Adadelta": lambda params: torch.optim.Adadelta(params, lr=0.1),
    "Adagrad": lambda params: torch.optim.Adagrad(params, lr=0.1, initial_accumulator_value=0.5),
    "Adafactor": lambda params: torch.optim.Adafactor(params, lr=0.1),
    "ASGD": lambda params: torch.optim.ASGD(params, lr=0.1),
    "RMSprop": lambda params: torch.optim.RMSprop(params, lr=0.1, momentum=0.9, centered=True),
    "another's": Averaged,
    "Rprop": lambda params: torch.optim.Rprop(params, lr=0.1),
}
OPTIMIZERS: Final = tuple(_MAKERS)


def early_state(place: Place, name: str) -> list[str]:
    """Train with and without state made beforehand; return what differs."""
    torch.manual_seed(0)
    plain = MyTestModule()
    early = copy.deepcopy(plain)
    untouched = copy.deepcopy(plain)
    optimizers = [_MAKERS[name](model.parameters()) for model in (plain, early)]
    groups = copy.deepcopy(optimizers[1].state_dict()["param_groups"])
    state_dict.init_optimizer_state(optimizers[1])
    wrong = differences(early.state_dict(), untouched.state_dict())
    wrong += [] if optimizers[1].state_dict()["param_groups"] == groups else ["param_groups"]
    wrong += [name for name, each in early.named_parameters() if each.grad is not None]
    for step in range(3):
        for model, optimizer in zip((plain, early), optimizers, strict=True):
            torch.autograd.backward(model(torch.linspace(-1, 1, 8) + step).sum())
            optimizer.step()
            optimizer.zero_grad()
    states = [_flat(optimizer) for optimizer in optimizers]
    return wrong + differences(early.state_dict(), plain.state_dict()) + differences(states[1], states[0])


def late_state(place: Place) -> list[str]:
    """Train half of a model, then give the other half its state; return what is not as it should be."""
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    torch.autograd.backward(model["used"](torch.ones(3)).sum())
    optimizer.step()
    before = copy.deepcopy(model.state_dict()), _flat(optimizer), [each.grad for each in model.parameters()]
    state_dict.init_optimizer_state(optimizer)
    after = _flat(optimizer)
    wrong = differences(model.state_dict(), before[0])
    wrong += differences({name: after[name] for name in before[1]}, before[1])
    wrong += [name for name in after.keys() - before[1].keys() if bool(torch.as_tensor(after[name]).any())]
    wrong += [] if len(after) == 12 else [f"{len(after)} states"]
    same = all(here is there for here, there in zip([each.grad for each in model.parameters()], before[2], strict=True))
    return wrong + ([] if same else ["gradients"])


def _flat(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    found: dict[str, Any] = copy.deepcopy(optimizer.state_dict()["state"])
    return {f"{number}.{name}": value for number, each in found.items() for name, value in each.items()}


def save_stock(place: Place, url: str) -> None:
    """Save what `Seed` starts with, by stock DCP."""
    workload = Seed()
    model = workload.model()
    optimizer = workload.optimizer(model.parameters())
    state_dict.init_optimizer_state(optimizer)
    values = {**state_dict.state_dict(model, optimizer), **workload.extra_state()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(values, storage_writer=FileSystemWriter(url), no_dist=True)


def unequal_entries(place: Place, one: str, *others: str) -> list[list[str]]:
    """Return, for each other checkpoint, which entries are not those of the first."""
    first = entries(one)
    return [differences(entries(other), first) for other in others]


def entries(url: str) -> dict[str, Any]:
    """Return all that a checkpoint holds, whole, by DCP's names."""
    found: dict[str, Any] = {}
    planner = _EmptyStateDictLoadPlanner()  # type: ignore[no-untyped-call]
    _load_state_dict(found, dcp_engine.CheckpointReader(url), planner=planner, no_dist=True)
    return dict(_leaves(found))


def _leaves(tree: Any, prefix: str = "") -> Any:
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def rounded_gradients(place: Place) -> list[str]:
    """Return which gradients of the tests' models are others in twice the precision."""
    wrong = []
    for workload in (Seed(exact=True), AwkwardSeed(exact=True)):
        for ranks in (1, 2, 3, 4):
            torch.manual_seed(0)
            model = workload.model()
            finer = copy.deepcopy(model)
            workload.average_gradients(model, ranks)
            _in_double(finer)
            batch = workload.batch
            workload.batch = lambda rank: _double(batch(rank))  # type: ignore[method-assign]  # noqa: B023
            workload.average_gradients(finer, ranks)
            workload.batch = batch  # type: ignore[method-assign]
            for (name, here), there in zip(model.named_parameters(), finer.parameters(), strict=True):
                if here.grad is not None and not torch.equal(here.grad.double(), there.grad):  # type: ignore[arg-type]
                    wrong.append(f"{type(workload).__name__} {ranks} {name}")
    return wrong


def _in_double(model: nn.Module) -> None:
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(parameter.detach().double(), requires_grad=parameter.requires_grad))
    if isinstance(model, Awkward):
        model.head.weight = model.tokens.weight


def _double(batch: torch.Tensor) -> torch.Tensor:
    return batch.double() if batch.is_floating_point() else batch


_TYPES: Final = (torch.int16, torch.uint16, torch.float8_e4m3fn, torch.bfloat16, torch.bool, torch.complex64)


def drifted_types(rank: int) -> list[str]:
    """Let buffers of every kind drift apart and make them equal; return which are not rank 0's afterwards."""
    model = nn.Module()
    for number, dtype in enumerate(_TYPES):
        model.register_buffer(f"scalar{number}", torch.tensor(rank).to(dtype))
        model.register_buffer(f"turned{number}", torch.full((2, 3), rank).to(dtype).T)
        model.register_buffer(f"empty{number}", torch.empty(0, 2, dtype=dtype))
    state_dict.replicate(model, None, whole=False)
    return [f"{name} {each.dtype}" for name, each in model.named_buffers() if each.float().any()]


def drifted_replicas(rank: int) -> list[str]:
    """Let replicas drift apart and make them equal; return what is not rank 0's afterwards."""
    drift: list[dict[str, Any]] = []
    for of in (0, rank):
        torch.manual_seed(of)
        model = Awkward()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        torch.autograd.backward(model(torch.full((2, 3), of)).sum())
        optimizer.step()
        model.running += of
        drift.append({**model.state_dict(), **_flat(optimizer)})
    parted = differences(drift[0], drift[1])
    buffers = {name: value for name, value in model.state_dict().items() if name in {"running", "seen"}}
    state_dict.replicate(model, optimizer, whole=False)
    only_buffers = {**drift[1], "running": drift[0]["running"], "seen": drift[0]["seen"]}
    wrong = differences({**model.state_dict(), **_flat(optimizer)}, only_buffers)
    state_dict.replicate(model, optimizer, whole=True)
    wrong += differences({**model.state_dict(), **_flat(optimizer)}, drift[0])
    dist.barrier()
    return wrong + ([] if bool(parted) == bool(rank) and buffers else ["the replicas had not drifted apart"])


class Nested(nn.Module):
    """Blocks in blocks, one block twice, and a list of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.outer = nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)]))])
        shared = nn.Linear(2, 2)
        self.twice = nn.ModuleList([shared, shared])
        self.lists = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2)])])


class Knotted(nn.Module):
    """A block that shares a parameter with the head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.head = nn.Linear(2, 2)
        self.head.weight = self.blocks[1].weight  # type: ignore[assignment]


def noted(place: Place) -> bool:
    """Return whether a parameter without memory keeps what is noted on it once it has some."""
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    model.bias.decays = False  # type: ignore[attr-defined]
    sharding.materialize(model, torch.device("cpu"))
    return not model.bias.is_meta and model.bias.decays is False  # type: ignore[attr-defined]


GROUPS: Final[dict[str, tuple[str, str, bool, str]]] = {
    "without what is frozen": ("abz", "ab", True, ""),
    "the same": ("ab c", "ab c", True, ""),
    "in another order": ("ab c", "c ba", True, ""),
    "more in the checkpoint": ("a", "ab c", True, ""),
    "fewer in the checkpoint": ("abc", "a", True, "no settings for b, c"),
    "fewer in the checkpoint, of a part": ("abc", "a", False, ""),
    "a group without settings": ("ab c", "ab", False, "no settings for c"),
    "others": ("bc", "ab", True, "no settings for c"),
    "one of two": ("abc", "ab c", True, "other groups, which differ in a, b, c"),
    "two of one": ("a bc d", "abc d", False, "other groups, which differ in a, b, c"),
    "exchanged": ("ab cd", "ad cb", True, "other groups, which differ in a, b, c, d"),
    "in two": ("ab c", "ab ab c", False, "other groups, which differ in a, b"),
    "none": ("", "", True, ""),
}
"""Groups here and in the checkpoint, whether all is loaded, and what is wrong; z is frozen."""


def group_mismatch(place: Place, name: str) -> str:
    """Return what is said of two optimizers' groups."""
    *texts, whole, _ = GROUPS[name]
    here, there = ([set(group) for group in text.split()] for text in texts)
    try:
        state_dict.check_groups(here, there, whole=whole, unneeded="z")
    except StateMismatch as error:
        return error.message.removeprefix("the checkpoint's optimizer has ")
    return ""


LAYOUTS: Final[dict[str, tuple[Callable[[], nn.Module], list[str], list[str]]]] = {
    "one unit": (MyTestModule, [""], []),
    "nested": (Nested, ["lists.0.0", "outer.0.1.0", "outer.0", ""], []),
    "shared": (Knotted, ["blocks.0", ""], []),
    "types": (Awkward, ["blocks.1", "blocks.0", "narrow", ""], ["blocks.0.shift", "blocks.1.shift", "scale"]),
}


def layout(place: Place, name: str) -> tuple[tuple[list[str], list[str]], tuple[list[str], list[str]]]:
    """Return the units and the parameters that stay whole, found and wanted."""
    make, *wanted = LAYOUTS[name]
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        units, loose = sharding.units(model)
    names = {module: path for path, module in model.named_modules()}
    found = [names[unit] for unit in units], sorted(path for path, each in model.named_parameters() if each in loose)
    return found, (wanted[0], wanted[1])

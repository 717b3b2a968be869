"""Model and optimizer as a DCP state dict, the same names under every strategy, and back.

The names are `model.<parameter>`, `optim.state.<parameter>.<state>` and `optim.param_groups`, as
`torch.distributed.checkpoint.state_dict` makes them; for FSDP1 it goes through SHARDED_STATE_DICT and
`FSDP.optim_state_dict`, so that PyTorch's own `load_sharded_optimizer_state_dict` reads what is saved here.
"""

import inspect
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.nn.parallel import DistributedDataParallel

from dcp_engine.errors import StateMismatch, some
from dcp_engine.torch_internals import names_in_state_dict
from dcp_engine.transfer import tensors
from dcp_worker.training.failures import user_code

_NEAR: Final = 5
"""Names that a message shows of those that a pattern could have meant."""
_START_AT_ONE: Final = {"mu", "mu_product"}
_START_AT_RATE: Final = {"eta", "step_size"}
"""Optimizer state that does not start at zero: of NAdam, ASGD and Rprop."""
_EFFECTS: Final = {"lr", "weight_decay"}
_WRAPPERS: Final = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_checkpoint_wrapped_module)\.")
"""What torch.compile and activation checkpointing put into names; torch leaves out the one only outside the other."""


def state_dict(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Return `{"model": ..., "optim": ...}` over the tensors themselves, not copies; collective."""
    model = _without_ddp(model)
    with _known_warnings():
        found: dict[str, Any] = {"model": _renamed(get_model_state_dict(model), plain_name)}
        if optimizer is not None:
            found["optim"] = _renamed_optim(get_optimizer_state_dict(model, optimizer), plain_name)
    return found


def plain_name(name: str) -> str:
    """Return the name that a parameter has without wrappers around its modules."""
    return _WRAPPERS.sub("", name)


def _renamed(values: Mapping[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    return {rename(name): value for name, value in values.items()}


def _renamed_optim(values: Mapping[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    groups = [{**group, "params": [*map(rename, group["params"])]} for group in values["param_groups"]]
    return {**values, "state": _renamed(values["state"], rename), "param_groups": groups}


def _own_names(model: nn.Module) -> Callable[[str], str]:
    """Return what gives a plain name back its wrappers; collective."""
    if not any(_WRAPPERS.search(f"{name}.") for name, _ in model.named_modules()):
        return str
    own = {plain_name(name): name for name in get_model_state_dict(model)}
    return lambda name: own.get(name, name)


def load_state_dict(model: nn.Module, optimizer: torch.optim.Optimizer | None, loaded: Mapping[str, Any]) -> None:
    """Put a filled `state_dict` back into model and optimizer; collective."""
    # The planner was strict already. Strict here means that every parameter is in the state dict, which may leave
    # some out, and that each has optimizer state, which not every optimizer makes.
    lenient = StateDictOptions(strict=False)
    model = _without_ddp(model)
    with _known_warnings():
        own = _own_names(model)
        left = set_model_state_dict(model, _renamed(loaded["model"], own), options=lenient).unexpected_keys
        if left:
            raise StateMismatch(f"the model does not take back its own {', '.join(left[:_NEAR])}")
        if optimizer is not None:
            values = _renamed_optim(loaded["optim"], lambda name: own(plain_name(name)))
            with _types_kept(optimizer):
                set_optimizer_state_dict(model, optimizer, values, options=lenient)


@contextmanager
def _types_kept(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Have the optimizer keep the types of the state that it loads; left to itself it casts it to the parameter's."""
    given: dict[str, Any] = {}

    def note(optimizer: torch.optim.Optimizer, values: dict[str, Any]) -> None:
        del optimizer
        given.update(values)

    def restore(optimizer: torch.optim.Optimizer) -> None:
        numbers = [number for group in given["param_groups"] for number in group["params"]]
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, value in given["state"].get(number, {}).items():
                if name != "step":  # whose type depends on the optimizer's own options
                    optimizer.state[parameter][name] = _uncast(value, optimizer.state[parameter][name])

    hooks = [optimizer.register_load_state_dict_pre_hook(note), optimizer.register_load_state_dict_post_hook(restore)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _uncast(value: Any, cast: Any) -> Any:  # noqa: ANN401 - whatever an optimizer keeps
    """Return a value of the type that was given, on the device that it was put on."""
    if isinstance(value, torch.Tensor) and isinstance(cast, torch.Tensor):
        return cast if cast.dtype == value.dtype else value.to(cast.device)
    if isinstance(value, Mapping) and isinstance(cast, Mapping):
        return {key: _uncast(value[key], cast[key]) for key in value}
    if isinstance(value, list) and isinstance(cast, list):
        return [*map(_uncast, value, cast)]
    return cast


def _without_ddp(model: nn.Module) -> nn.Module:
    """Return the model itself: where a module has two names, torch puts DDP's prefix before one of them alone."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def groups(values: Mapping[str, Any]) -> list[set[str]]:
    """Return which parameters each of the optimizer's groups in a `state_dict` has, by name."""
    return [set(map(plain_name, group["params"])) for group in values.get("optim", {}).get("param_groups", ())]


def frozen(model: nn.Module) -> set[str]:
    """Return the names of the parameters that no optimizer changes."""
    model = _without_ddp(model)
    fixed = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    return set(map(plain_name, _union(names_in_state_dict(model, name) for name in fixed)))


def check_groups(here: list[set[str]], there: list[set[str]], *, whole: bool, unneeded: Collection[str] = ()) -> None:
    """Compare the optimizer's groups with those that were loaded; what the checkpoint optimizes beyond is left.

    torch gives each group the settings of a loaded group that has one of its parameters, and asks no more.

    Args:
        here: The groups before the load.
        there: What was loaded in their place.
        whole: Whether all is loaded: then no parameter may be unknown to the checkpoint's optimizer.
        unneeded: Parameters for which it may have no settings all the same: an optimizer leaves what is frozen alone.

    Raises:
        StateMismatch: parameters have no settings in the checkpoint, or share them with others than here.
    """
    known, wanted = _union(there), _union(here)
    missing = wanted - known if whole else _union(group for group in here if group.isdisjoint(known))
    missing -= set(unneeded)
    if missing:
        raise StateMismatch(f"the checkpoint's optimizer has no settings for {some(missing, _NEAR)}")
    here, there = ([common for group in each if (common := group & known & wanted)] for each in (here, there))
    apart = _union(group for group in here + there if here.count(group) != there.count(group))
    if apart:
        raise StateMismatch(f"the checkpoint's optimizer has other groups, which differ in {some(apart, _NEAR)}")


def _union(sets: Iterable[set[str]]) -> set[str]:
    return set().union(*sets)


def init_optimizer_state(optimizer: torch.optim.Optimizer | None) -> None:
    """Create the optimizer state that each parameter would have before its first step. No parameter changes.

    Left to themselves, the APIs of torch differ: one saves no state, the other that of one step of zero gradients. Only
    SGD with dampening, whose very first step has none, can't be started from a state. What an optimizer that is not
    torch's own starts with only it knows: its state stays as a step without effect leaves it, but for the count.
    """
    if optimizer is None:
        return
    every = [(group, each) for group in optimizer.param_groups for each in group["params"] if each.requires_grad]
    bare = [(group, each) for group, each in every if not optimizer.state.get(each)]
    if not bare or (optimizer.state and needs_closure(optimizer)):
        return
    kept = [(each, each.grad) for _, each in every]
    for parameter, _ in kept:
        parameter.grad = None
    for _, parameter in bare:
        parameter.grad = torch.zeros_like(parameter)
    with _without_effect(optimizer), user_code("the optimizer's step with zero gradients"):
        optimizer.step(*([_no_loss] if needs_closure(optimizer) else []))
    for parameter, gradient in kept:
        parameter.grad = gradient
    known = type(optimizer).step.__module__.startswith("torch.optim.")
    with torch.no_grad():
        for group, parameter in bare:
            for name, value in optimizer.state.get(parameter, {}).items():
                start = group["lr"] if name in _START_AT_RATE else float(name in _START_AT_ONE)
                if isinstance(value, torch.Tensor) and (known or name == "step"):
                    value.fill_(start)
                elif name == "step" or (known and isinstance(value, int)):
                    optimizer.state[parameter][name] = 0


def needs_closure(optimizer: torch.optim.Optimizer | None) -> bool:
    """Tell whether a step has to be given what computes the loss, as that of LBFGS.

    What such an optimizer keeps grows as it searches, so that only a checkpoint knows all of it.
    """
    if optimizer is None:
        return False
    wanted = [*inspect.signature(optimizer.step).parameters.values()][:1]
    return any(each.default is each.empty and each.kind is not each.VAR_POSITIONAL for each in wanted)


def _no_loss() -> float:
    return 0.0


@contextmanager
def _without_effect(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Set rates and decays to zero, as a step that changes parameters regardless of gradients would heed.

    Afterwards every group is as it was: some optimizers count their steps there.
    """
    before = [
        {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in group.items()}
        for group in optimizer.param_groups
    ]
    for group in optimizer.param_groups:
        for name in _EFFECTS & group.keys():
            value = group[name]
            group[name] = torch.zeros_like(value) if isinstance(value, torch.Tensor) else 0.0
    try:
        yield
    finally:
        for group, values in zip(optimizer.param_groups, before, strict=True):
            group.clear()
            group.update(values)


def replicate(model: nn.Module, optimizer: torch.optim.Optimizer | None, *, whole: bool) -> None:
    """Make buffers, and if the replicas are `whole` all else, those of rank 0; collective.

    DCP saves each replicated tensor from some rank: where they had drifted apart, what is saved would be a mixture.
    Nothing holds buffers together, nor anything else under strategy `none`. A buffer that no checkpoint can hold, such
    as a sparse one that is not persistent, is equal by its seed.
    """
    values: list[torch.Tensor] = [each for each in model.buffers() if not tensors.fault(each)]
    if whole:
        values += model.parameters()
    if whole and optimizer is not None:
        values += [
            value
            for parameter in model.parameters()
            for _, value in sorted(optimizer.state.get(parameter, {}).items())
            if isinstance(value, torch.Tensor)
        ]
    with torch.no_grad():
        for tensor in values:
            first = tensor.detach().contiguous()
            # As bytes: gloo sends no integers of 16 bits, nor floats of 8.
            dist.broadcast(first.reshape(-1).view(torch.uint8), src=0)
            if first.data_ptr() != tensor.data_ptr() and not torch.equal(first, tensor):
                tensor.copy_(first)


@contextmanager
def _known_warnings() -> Iterator[None]:
    """Leave out torch's warnings about its own internals, on which a user can do nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="torch.distributed")
        warnings.filterwarnings("ignore", "When using ``NO_SHARD``", UserWarning)  # it points at its caller
        yield

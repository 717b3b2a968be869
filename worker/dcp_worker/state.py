"""Model and optimizer as a DCP state dict, the same names under every strategy, and back.

The names are `model.<parameter>`, `optim.state.<parameter>.<state>` and `optim.param_groups`, as
`torch.distributed.checkpoint.state_dict` makes them; for FSDP1 it goes through SHARDED_STATE_DICT and
`FSDP.optim_state_dict`, so that PyTorch's own `load_sharded_optimizer_state_dict` reads what is saved here.
"""

import fnmatch
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, create_default_local_load_plan
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from dcp_worker.contract import LoadSelection
from dcp_worker.engine.errors import InvalidOption, StateMismatch
from dcp_worker.errors import user_code

_NEAR: Final = 5
"""Names that a message shows of those that a pattern could have meant."""
_START_AT_ONE: Final = {"mu", "mu_product"}
_START_AT_RATE: Final = {"eta", "step_size"}
"""Optimizer state that does not start at zero: of NAdam, ASGD and Rprop."""


def state_dict(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Return `{"model": ..., "optim": ...}` over the tensors themselves, not copies; collective."""
    with _known_warnings():
        found: dict[str, Any] = {"model": get_model_state_dict(model)}
        if optimizer is not None:
            found["optim"] = get_optimizer_state_dict(model, optimizer)
    return found


def load_state_dict(model: nn.Module, optimizer: torch.optim.Optimizer | None, loaded: Mapping[str, Any]) -> None:
    """Put a filled `state_dict` back into model and optimizer; collective."""
    # The planner was strict already. Strict here means that every parameter is in the state dict, which may leave
    # some out, and that each has optimizer state, which not every optimizer makes.
    lenient = StateDictOptions(strict=False)
    with _known_warnings():
        left = set_model_state_dict(model, loaded["model"], options=lenient).unexpected_keys
        if left:
            raise StateMismatch(f"the model does not take back its own {', '.join(left[:_NEAR])}")
        if optimizer is not None:
            set_optimizer_state_dict(model, optimizer, loaded["optim"], options=lenient)


def init_optimizer_state(optimizer: torch.optim.Optimizer | None) -> None:
    """Give each parameter that has no optimizer state that of before its first step; the parameter stays as it is.

    Left to themselves, the APIs of torch differ: one saves no state, the other that of one step of zero gradients. Only
    SGD with dampening, whose very first step has none, can't be started from a state.
    """
    if optimizer is None:
        return
    every = [(group, each) for group in optimizer.param_groups for each in group["params"] if each.requires_grad]
    bare = [(group, each) for group, each in every if not optimizer.state.get(each)]
    if not bare:
        return
    kept = [(each, each.grad) for _, each in every]
    for parameter, _ in kept:
        parameter.grad = None
    for _, parameter in bare:
        parameter.grad = torch.zeros_like(parameter)
    with _without_effect(optimizer), user_code("the optimizer's step with zero gradients"):
        optimizer.step()
    for parameter, gradient in kept:
        parameter.grad = gradient
    with torch.no_grad():
        for group, parameter in bare:
            for name, value in optimizer.state.get(parameter, {}).items():
                start = group["lr"] if name in _START_AT_RATE else float(name in _START_AT_ONE)
                if isinstance(value, torch.Tensor):
                    value.fill_(start)
                elif name == "step":
                    optimizer.state[parameter][name] = 0


@contextmanager
def _without_effect(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Set every learning rate to zero, as a step that changes parameters regardless of gradients would heed."""
    rates = [group.get("lr") for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = torch.zeros_like(rate) if isinstance(rate, torch.Tensor) else 0.0
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def replicate(model: nn.Module, optimizer: torch.optim.Optimizer | None, *, whole: bool) -> None:
    """Make buffers, and if the replicas are `whole` all else, those of rank 0; collective.

    DCP saves each replicated tensor from some rank: where they had drifted apart, what is saved would be a mixture.
    Nothing holds buffers together, nor anything else under strategy `none`.
    """
    tensors: list[torch.Tensor] = list(model.buffers())
    if whole:
        tensors += model.parameters()
    if whole and optimizer is not None:
        tensors += [
            value
            for parameter in model.parameters()
            for _, value in sorted(optimizer.state.get(parameter, {}).items())
            if isinstance(value, torch.Tensor)
        ]
    with torch.no_grad():
        for tensor in tensors:
            first = tensor.detach().contiguous()
            dist.broadcast(first, src=0)
            if first.data_ptr() != tensor.data_ptr() and not torch.equal(first, tensor):
                tensor.copy_(first)


class SelectingLoadPlanner(DefaultLoadPlanner):
    """Loads what `spec.load` selects: globs over DCP names such as `model.blocks.0.*`; everything if there are none."""

    def __init__(self, selection: LoadSelection) -> None:
        super().__init__(allow_partial_load=not selection.strict)
        self.selection = selection

    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        metadata: Metadata | None = None,
        is_coordinator: bool = False,  # noqa: FBT001, FBT002 - torch's signature
    ) -> None:
        """Flatten the state dict and leave out what is not selected.

        Raises:
            InvalidOption: a pattern matches no name; the message shows some that there are.
        """
        super().set_up_planner(state_dict, metadata, is_coordinator)
        known = {*self.state_dict, *(metadata.state_dict_metadata if metadata is not None else ())}
        for field, patterns in (("include", self.selection.include), ("exclude", self.selection.exclude)):
            for pattern in patterns:
                if not fnmatch.filter(known, pattern):
                    raise InvalidOption(f"spec.load.{field}: {pattern!r} matches no entry; {_examples(known)}")
        self.state_dict = {name: value for name, value in self.state_dict.items() if self._is_selected(name)}

    def create_local_plan(self) -> LoadPlan:
        """Plan exactly what is selected.

        The default compares the checkpoint's names with those asked for, and where some are not asked for it may take
        the checkpoint for one of torch 2.3, with other names for all that is nested. That undoes a selection; and on a
        rank that has no shard of some FSDP1 parameter it does not find extra state that is there.
        """
        assert self.metadata is not None  # noqa: S101 - set_up_planner got it
        return create_default_local_load_plan(self.state_dict, self.metadata, strict=self.selection.strict)

    def _is_selected(self, name: str) -> bool:
        include, exclude = self.selection.include, self.selection.exclude
        return (not include or _matches(name, include)) and not _matches(name, exclude)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _examples(names: Iterable[str]) -> str:
    some = sorted(names)
    more = f" and {len(some) - _NEAR} more" if len(some) > _NEAR else ""
    return f"there are {', '.join(some[:_NEAR])}{more}"


@contextmanager
def _known_warnings() -> Iterator[None]:
    """Leave out torch's warnings about its own internals, on which a user can do nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="torch.distributed")
        warnings.filterwarnings("ignore", "When using ``NO_SHARD``", UserWarning)  # it points at its caller
        yield

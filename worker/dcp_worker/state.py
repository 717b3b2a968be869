"""Model and optimizer as a DCP state dict, the same names under every strategy, and back.

The names are `model.<parameter>`, `optim.state.<parameter>.<state>` and `optim.param_groups`, as
`torch.distributed.checkpoint.state_dict` makes them; for FSDP1 it goes through SHARDED_STATE_DICT and
`FSDP.optim_state_dict`, so that PyTorch's own `load_sharded_optimizer_state_dict` reads what is saved here.
"""

import fnmatch
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from dcp_worker.contract import LoadSelection
from dcp_worker.engine.errors import InvalidOption

_NEAR = 5
"""Names that a message shows of those that a pattern could have meant."""


def state_dict(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Return `{"model": ..., "optim": ...}` over the tensors themselves, not copies; collective."""
    with _known_warnings():
        found: dict[str, Any] = {"model": get_model_state_dict(model)}
        if optimizer is not None:
            found["optim"] = get_optimizer_state_dict(model, optimizer)
    return found


def load_state_dict(model: nn.Module, optimizer: torch.optim.Optimizer | None, loaded: Mapping[str, Any]) -> None:
    """Put a filled `state_dict` back into model and optimizer; collective."""
    with _known_warnings():
        set_model_state_dict(model, loaded["model"], options=StateDictOptions(strict=True))
        if optimizer is not None:
            set_optimizer_state_dict(model, optimizer, loaded["optim"])


def init_optimizer_state(optimizer: torch.optim.Optimizer | None) -> None:
    """Make the state that an optimizer otherwise makes in its first step: all zeros, step 0, parameters untouched.

    Left to themselves, the APIs of torch differ: one saves no state, the other that of one step of zero gradients.
    """
    if optimizer is None or optimizer.state:
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    parameters = [each for group in optimizer.param_groups for each in group["params"] if each.requires_grad]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = torch.zeros_like(rate) if isinstance(rate, torch.Tensor) else 0.0
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    with torch.no_grad():
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    value.zero_()


def replicate(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    """Make every replica that of rank 0; collective. Nothing else holds replicas together under strategy `none`.

    DCP saves each replicated tensor from some rank: replicas that had drifted apart would be mixed.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if optimizer is not None:
        tensors += [
            value
            for parameter in model.parameters()
            for _, value in sorted(optimizer.state.get(parameter, {}).items())
            if isinstance(value, torch.Tensor)
        ]
    with torch.no_grad():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


class SelectingLoadPlanner(DefaultLoadPlanner):
    """Loads what `spec.load` selects: globs over DCP names such as `model.blocks.0.*`; everything if there are none."""

    def __init__(self, selection: LoadSelection) -> None:
        super().__init__(allow_partial_load=not selection.strict)
        self.selection = selection

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
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
        yield

"""Model and optimizer as a DCP state dict, the same names under every strategy, and back.

The names are `model.<parameter>`, `optim.state.<parameter>.<state>` and `optim.param_groups`, as
`torch.distributed.checkpoint.state_dict` makes them; for FSDP1 it goes through SHARDED_STATE_DICT and
`FSDP.optim_state_dict`, so that PyTorch's own `load_sharded_optimizer_state_dict` reads what is saved here.
"""

import fnmatch
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner, create_default_local_load_plan
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    _get_fqns,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.nn.parallel import DistributedDataParallel

from dcp_worker.contract import LoadSelection
from dcp_worker.engine.errors import EngineError, InvalidOption, StateMismatch, some
from dcp_worker.engine.objects import decode
from dcp_worker.engine.planner import ByNameLoadPlanner
from dcp_worker.errors import WorkloadFailed, user_code

_NEAR: Final = 5
"""Names that a message shows of those that a pattern could have meant."""
_START_AT_ONE: Final = {"mu", "mu_product"}
_START_AT_RATE: Final = {"eta", "step_size"}
"""Optimizer state that does not start at zero: of NAdam, ASGD and Rprop."""
_EFFECTS: Final = {"lr", "weight_decay"}


def state_dict(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Return `{"model": ..., "optim": ...}` over the tensors themselves, not copies; collective."""
    model = _without_ddp(model)
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
    model = _without_ddp(model)
    with _known_warnings():
        left = set_model_state_dict(model, loaded["model"], options=lenient).unexpected_keys
        if left:
            raise StateMismatch(f"the model does not take back its own {', '.join(left[:_NEAR])}")
        if optimizer is not None:
            set_optimizer_state_dict(model, optimizer, loaded["optim"], options=lenient)


def _without_ddp(model: nn.Module) -> nn.Module:
    """Return the model itself: where a module has two names, torch puts DDP's prefix before one of them alone."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def groups(values: Mapping[str, Any]) -> list[set[str]]:
    """Return which parameters each of the optimizer's groups in a `state_dict` has, by name."""
    return [set(group["params"]) for group in values.get("optim", {}).get("param_groups", ())]


def frozen(model: nn.Module) -> set[str]:
    """Return the names of the parameters that no optimizer changes."""
    model = _without_ddp(model)
    return _union(_get_fqns(model, name) for name, each in model.named_parameters() if not each.requires_grad)


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
    """Give each parameter that has no optimizer state that of before its first step; the parameter stays as it is.

    Left to themselves, the APIs of torch differ: one saves no state, the other that of one step of zero gradients. Only
    SGD with dampening, whose very first step has none, can't be started from a state. What an optimizer that is not
    torch's own starts with only it knows: its state stays as a step without effect leaves it, but for the count.
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
    known = type(optimizer).step.__module__.startswith("torch.optim.")
    with torch.no_grad():
        for group, parameter in bare:
            for name, value in optimizer.state.get(parameter, {}).items():
                start = group["lr"] if name in _START_AT_RATE else float(name in _START_AT_ONE)
                if isinstance(value, torch.Tensor) and (known or name == "step"):
                    value.fill_(start)
                elif name == "step":
                    optimizer.state[parameter][name] = 0


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
            # As bytes: gloo sends no integers of 16 bits, nor floats of 8.
            dist.broadcast(first.reshape(-1).view(torch.uint8), src=0)
            if first.data_ptr() != tensor.data_ptr() and not torch.equal(first, tensor):
                tensor.copy_(first)


class LoadableSavePlanner(DefaultSavePlanner):
    """Saves nothing that no Load would read back."""

    def transform_object(self, write_item: WriteItem, object: Any) -> Any:  # noqa: A002, ANN401 - torch's signature
        """Encode what is no tensor, and decode it as a Load does.

        Raises:
            WorkloadFailed: it can't be pickled, or holds what a Load refuses.
        """
        name = write_item.index.fqn
        if write_item.type != WriteItemType.BYTE_IO:
            return super().transform_object(write_item, object)
        with user_code(f"pickling {name}"):
            made = super().transform_object(write_item, object)
        made.seek(0)
        try:
            decode(name, "the state to save", made)
        except EngineError as error:
            raise WorkloadFailed(
                f"no Load would accept what is to be saved: {error.message.partition(', which')[0]}. Save tensors, "
                "arrays, numbers and strings, and lists and dicts of them."
            ) from error
        return made


class SelectingLoadPlanner(ByNameLoadPlanner):
    """Loads what `spec.load` selects: globs over DCP names such as `model.blocks.0.*`; everything if there are none."""

    def __init__(self, selection: LoadSelection, whole: Iterable[str] = ()) -> None:
        # Else a rank would not know the names of FSDP1's parameters of which it has no shard.
        super().__init__(whole, flatten_sharded_tensors=False, allow_partial_load=not selection.strict)
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
            StateMismatch: there is nothing to load.
        """
        super().set_up_planner(state_dict, metadata, is_coordinator)
        there = metadata.state_dict_metadata if metadata is not None else {}
        here = self.state_dict.keys()
        # The checkpoint's own names are known to `exclude` alone: to include what is not here would load nothing.
        self._need_matches("include", self.selection.include, here)
        self._need_matches("exclude", self.selection.exclude, here | there.keys())
        self.state_dict = {name: value for name, value in self.state_dict.items() if self._is_selected(name)}
        if here and not self.state_dict:
            raise InvalidOption("spec.load: include and exclude leave nothing to load")
        if self.state_dict.keys().isdisjoint(there):
            raise StateMismatch(f"the checkpoint holds nothing of what is to be loaded; {_examples(there)}")

    def plan_asked(self, metadata: Metadata) -> LoadPlan:
        """Plan exactly what is selected: a checkpoint of torch 2.3, with other names, is none that a selection fits."""
        return create_default_local_load_plan(self.state_dict, metadata, strict=self.selection.strict)

    @staticmethod
    def _need_matches(field: str, patterns: Iterable[str], names: Collection[str]) -> None:
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                raise InvalidOption(f"spec.load.{field}: {pattern!r} matches no entry; {_examples(names)}")

    def _is_selected(self, name: str) -> bool:
        include, exclude = self.selection.include, self.selection.exclude
        return (not include or _matches(name, include)) and not _matches(name, exclude)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _examples(names: Iterable[str]) -> str:
    return f"there are {some(names, _NEAR)}"


@contextmanager
def _known_warnings() -> Iterator[None]:
    """Leave out torch's warnings about its own internals, on which a user can do nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="torch.distributed")
        warnings.filterwarnings("ignore", "When using ``NO_SHARD``", UserWarning)  # it points at its caller
        yield

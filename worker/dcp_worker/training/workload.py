"""What a Checkpoint's `entrypoint` names: the user's own model, optimizer and further state."""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Protocol, runtime_checkable

import torch
from torch import nn

from dcp_engine.errors import StateMismatch, UnsavableState, some
from dcp_engine.transfer import tensors
from dcp_worker.training.failures import WorkloadFailed, user_code

_POISON: Final = 0xA5
"""A byte that memory is filled with to see whether somebody else fills it."""


class UserWorkload(Protocol):
    """The least that a workload has; made by calling the entrypoint with `workload.args`, in every rank.

    Optional further methods:

    - `step(model, optimizer)`: one optimisation step, collective as the model is; needed where `save.steps` > 0.
    - `extra_state() -> Mapping[str, Stateful]`: what is saved beside model and optimizer: data loader, scheduler. It
      is asked before a load, and again after the steps of a Save. Only a Stateful gets back what `save.from` holds;
      a plain value that is loaded is given to `loaded`.
    - `loaded(model, optimizer, extra)`: called after a Load; what it raises fails the Load with StateMismatch.
    - `init_buffers(model)`: fills the buffers that no checkpoint holds; with it, a model that has such buffers can be
      built on the meta device for a Load.
    """

    def model(self) -> nn.Module:
        """Return the unsharded model. For a Load it is called on the meta device; its values come from the store.

        The random number generators have the same seed in every rank.
        """

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer | None:
        """Return the optimizer over the parameters, which are sharded by now; None saves and loads without one."""


@runtime_checkable
class Steps(Protocol):
    """A workload that can train."""

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """Run one optimisation step."""


@runtime_checkable
class HasExtraState(Protocol):
    """A workload with state beside model and optimizer."""

    def extra_state(self) -> Mapping[str, Any]:
        """Return named Statefuls, or values to be saved as they are."""


@runtime_checkable
class ChecksLoaded(Protocol):
    """A workload that looks at what was loaded."""

    def loaded(self, model: nn.Module, optimizer: torch.optim.Optimizer | None, extra: Mapping[str, Any]) -> None:
        """Raise if the loaded state is not what it should be."""


@runtime_checkable
class InitsBuffers(Protocol):
    """A workload that can fill its non-persistent buffers."""

    def init_buffers(self, model: nn.Module) -> None:
        """Fill the buffers that are not in the state dict; the model is sharded and on its device."""


def make(entrypoint: str, args: Mapping[str, Any]) -> UserWorkload:
    """Import `module:Factory` and call it with the arguments.

    Raises:
        WorkloadFailed: the module does not import, has no such name, or the call raises.
    """
    module_name, _, path = entrypoint.partition(":")
    with user_code(f"importing {module_name}"):
        found: Any = importlib.import_module(module_name)
    for name in path.split("."):
        if not hasattr(found, name):
            raise WorkloadFailed(f"entrypoint {entrypoint}: {module_name} has no {path!r}")
        found = getattr(found, name)
    with user_code(f"{entrypoint}({', '.join(args)})"):
        made = found(**args)
    for method in ("model", "optimizer"):
        if not callable(getattr(made, method, None)):
            raise WorkloadFailed(f"entrypoint {entrypoint}: what it returns has no method {method}()")
    return made  # type: ignore[no-any-return]


def classes(names: Iterable[str]) -> list[type]:
    """Import the classes of `workload.allow`.

    Raises:
        WorkloadFailed: one is not there, or is no class; the message names all of these.
    """
    found, wrong = [], []
    for name in names:
        try:
            value: object = pkgutil.resolve_name(name)
        except (ImportError, AttributeError) as error:
            wrong.append(f"{name} can't be imported ({error})")
        except Exception as error:  # noqa: BLE001 - the module runs code of the user's
            wrong.append(f"{name} can't be imported ({type(error).__name__}: {error})")
        else:
            if isinstance(value, type):
                found.append(value)
            else:
                wrong.append(f"{name} is no class, but a {type(value).__name__}")
    if wrong:
        raise WorkloadFailed(f"workload.allow: {'; '.join(wrong)}. Write classes as module.Class.")
    return found


def unsaved(model: nn.Module) -> tuple[set[str], dict[str, tuple[nn.Module, str]]]:
    """Return what the model's state dict, and so every checkpoint, leaves out: parameters; buffers with their holders.

    A wrapper changes names but not holders, so this is to be asked before the model is sharded.
    """
    saved = model.state_dict().keys()
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)} - saved
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)} - saved
    places = {name: name.rpartition(".") for name in buffers}
    return parameters, {name: (model.get_submodule(path), attribute) for name, (path, _, attribute) in places.items()}


def has_loose_meta(model: nn.Module) -> bool:
    """Tell whether a module holds a meta tensor that is neither parameter nor buffer, which nothing would ever fill."""
    return any(
        tensor.is_meta
        for module in model.modules()
        for name, value in vars(module).items()
        if name not in {"_parameters", "_buffers", "_modules"}
        for tensor in _tensors(value)
    )


def _tensors(value: object) -> Iterator[torch.Tensor]:
    left, seen = [value], set()
    while left:
        each = left.pop()
        if isinstance(each, torch.Tensor):
            yield each
        elif isinstance(each, list | tuple | set | dict) and id(each) not in seen:
            seen.add(id(each))  # a container may be in itself
            left += each.values() if isinstance(each, dict) else each


def need_shapes(model: nn.Module) -> None:
    """Refuse a model with layers that find out their own shape at their first call: nothing could be sharded.

    Raises:
        WorkloadFailed: it has a parameter or a buffer without a shape.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    if missing := [name for name, each in named if nn.parameter.is_lazy(each)]:
        raise WorkloadFailed(
            f"model(): no shape is known of {some(missing, 5)}. Give the sizes, or call the model once before it is "
            "returned."
        )


def need_savable(model: nn.Module) -> None:
    """Refuse a model that no checkpoint can hold, before it is sharded, which may fail on it in words of its own.

    Raises:
        UnsavableState: it names every parameter and buffer of such a kind, sparse ones for example.
    """
    parameters, buffers = unsaved(model)
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    saved = {f"model.{name}": named[name] for name in named.keys() - parameters - buffers.keys()}
    if faults := tensors.faults({name: saved[name] for name in sorted(saved) if not saved[name].is_meta}):
        raise UnsavableState.of(faults)


def need_own(optimizer: torch.optim.Optimizer | None, model: nn.Module) -> None:
    """Refuse an optimizer over other parameters than the model's: their state would have no name.

    Raises:
        WorkloadFailed: it has such a parameter, such as one of before the model was sharded.
    """
    own = set(model.parameters())
    for number, group in enumerate(optimizer.param_groups if optimizer is not None else ()):
        for place, each in enumerate(group["params"]):
            if each not in own:
                raise WorkloadFailed(
                    f"optimizer(): parameter {place} of group {number}, of shape {tuple(each.shape)}, is none of the "
                    "model's. Make the optimizer from the parameters that it is given."
                )


def init_buffers(workload: InitsBuffers, model: nn.Module, buffers: Mapping[str, tuple[nn.Module, str]]) -> None:
    """Have the buffers filled that no checkpoint holds; `buffers` is what `unsaved` says of them.

    Raises:
        WorkloadFailed: `init_buffers` raises.
        StateMismatch: it leaves one of them as it was, which would be garbage.
    """
    for module, name in buffers.values():
        _memory(module.get_buffer(name)).fill_(_POISON)
    with user_code("init_buffers()"):
        workload.init_buffers(model)
    left = [name for name, (module, attribute) in buffers.items() if _is_poisoned(module.get_buffer(attribute))]
    if left:
        raise StateMismatch(f"neither loaded nor filled by init_buffers(): {', '.join(sorted(left))}")


def _memory(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


def _is_poisoned(tensor: torch.Tensor) -> bool:
    return bool(tensor.numel()) and bool((_memory(tensor) == _POISON).all())


def extra_state(workload: UserWorkload) -> dict[str, Any]:
    """Return the further state, under names of its own."""
    if not isinstance(workload, HasExtraState):
        return {}
    with user_code("extra_state()"):
        extra = dict(workload.extra_state())
    taken = sorted(extra.keys() & {"model", "optim"})
    if taken:
        raise WorkloadFailed(f"extra_state() returns {', '.join(taken)}, which names the model's own part; rename it")
    return extra

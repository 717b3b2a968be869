"""The copy in host memory that a background save is made of: exactly what the state is at the call.

torch's stager makes each tensor anew by what it says of itself, which for a subclass that wraps others is memory that
nobody filled. Here it does so for those whose values lie in their own memory; a wrapper is copied by its parts.
"""

from typing import Any

import torch
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from dcp_engine.errors import EngineError
from dcp_engine.torch_internals import ShardedTensor, StateDictStager
from dcp_engine.transfer import tensors


def copied(values: dict[str, Any], *, pinned: bool) -> dict[str, Any]:
    """Return the values with a copy of each tensor in host memory.

    From other devices the copies may still be on their way if `pinned`: synchronize those before they are read.

    Raises:
        EngineError: a value can't be copied; its entry is named.
    """
    stager = _Stager(pin_memory=pinned)
    memo: dict[int, Any] = {}
    try:
        return {key: _copied(stager, str(key), value, memo, pinned=pinned) for key, value in values.items()}
    finally:
        stager.close()  # type: ignore[no-untyped-call]


def _copied(stager: "_Stager", name: str, value: Any, memo: dict[int, Any], *, pinned: bool) -> Any:  # noqa: ANN401
    """Copy dicts and lists entry by entry, so that one that can't be copied has a name."""
    if type(value) is dict:
        return {key: _copied(stager, f"{name}.{key}", each, memo, pinned=pinned) for key, each in value.items()}
    if type(value) is list:
        return [_copied(stager, f"{name}.{number}", each, memo, pinned=pinned) for number, each in enumerate(value)]
    try:
        return stager.deepcopy_with_tensor_offload(value, memo, non_blocking=pinned)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise EngineError(
            f"{name} ({type(value).__name__}) can't be copied: {type(error).__name__}: {error}"
        ) from error


class _Stager(StateDictStager):
    """Copies wrappers by their parts, tensors of FSDP1 by their shards, and everything else as torch does."""

    def _offload_tensor(self, x: torch.Tensor, memo: dict[int, Any], non_blocking: bool = False) -> torch.Tensor:  # noqa: FBT001, FBT002 - torch's
        made: torch.Tensor
        self._keep_alive(x, memo)  # type: ignore[no-untyped-call] # what is known by its id must not give it to another
        if isinstance(x, ShardedTensor):
            made = BlockingAsyncStager(type_check=False).stage({"": x})[""]
        elif tensors.is_wrapper(x):
            made = tensors.on_host(x, lambda part: self._offload_tensor(part, memo, non_blocking))
        else:
            values = tensors.as_lies(x)
            self._keep_alive(values, memo)  # type: ignore[no-untyped-call]
            made = super()._offload_tensor(values, memo, non_blocking)  # type: ignore[no-untyped-call]
            if type(x) not in tensors.PLAIN:
                made = made.as_subclass(type(x))
                vars(made).update(self.deepcopy_with_tensor_offload(vars(x), memo, non_blocking=non_blocking))  # type: ignore[no-untyped-call]
        memo[id(x)] = made
        return made

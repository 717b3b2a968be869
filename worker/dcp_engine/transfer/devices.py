"""What the engine asks of accelerators: wait for what they compute, and let its threads work on their rank's own.

The current device belongs to a thread, and a new thread begins on device 0: whatever it does there without naming a
device makes a context on the GPU of another rank. Streams belong to a thread, too: those that copy a rank's tensors see
none of the order of the streams that compute them, so a whole device is waited for, and only if a tensor lies on it.
"""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

import torch

from dcp_engine.torch_internals import ShardedTensor


class Layer(Protocol):
    """The runtime of the accelerators; tests put another in its place."""

    host: frozenset[str]
    """Types of device whose memory is not waited for."""

    def current(self) -> torch.device | None:
        """Return the calling thread's device, or None where this process uses none: to ask makes no context."""

    def use(self, device: torch.device) -> None:
        """Make it the calling thread's device."""

    def synchronize(self, device: torch.device) -> None:
        """Wait for all that was queued on any stream of the device."""


class TorchLayer:
    """torch's own, for CUDA, ROCm and whatever else `torch.accelerator` knows."""

    host = frozenset({"cpu", "meta"})

    def current(self) -> torch.device | None:  # noqa: D102 - see Layer
        kind = torch.accelerator.current_accelerator()
        if kind is None or not torch.get_device_module(kind).is_initialized():
            return None
        return torch.device(kind.type, torch.accelerator.current_device_index())

    def use(self, device: torch.device) -> None:  # noqa: D102 - see Layer
        torch.accelerator.set_device_index(device)

    def synchronize(self, device: torch.device) -> None:  # noqa: D102 - see Layer
        torch.get_device_module(device).synchronize(device)


layer: Layer = TorchLayer()
_NOTHING: Final[Callable[[], None]] = lambda: None  # noqa: E731 - what a thread of a process without devices runs first


def of(values: Iterable[object]) -> tuple[torch.device, ...]:
    """Return the devices on which tensors among the values lie: none for memory of the host."""
    found = {tensor.device for value in values for tensor in _tensors(value) if tensor.device.type not in layer.host}
    return tuple(sorted(found, key=str))


def synchronize(devices: Iterable[torch.device]) -> None:
    """Wait for all that was queued on each device."""
    for device in devices:
        layer.synchronize(device)


def own_device() -> Callable[[], None]:
    """Return what a new thread runs first, to work on the device of the thread that starts it."""
    device = layer.current()
    return _NOTHING if device is None else lambda: layer.use(device)


def _tensors(value: object) -> Iterable[torch.Tensor]:
    if isinstance(value, ShardedTensor):
        return [shard.tensor for shard in value.local_shards()]
    return [value] if isinstance(value, torch.Tensor) else []

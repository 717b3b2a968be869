"""What a rank has at hand while it carries out an operation: its Task, its place, its launcher's eye and voice.

The launcher imports this module, too: it loads no torch until a rank joins the others.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Final

from dcp_contract.sections import Device
from dcp_contract.task import Task
from dcp_worker.heartbeat import Slot
from dcp_worker.training.failures import DeviceUnavailable, Stopped

if TYPE_CHECKING:
    import torch

COLLECTIVE_SLACK_SECONDS: Final = 60
"""By this much a collective may outlast the attempt: the launcher, who sees which rank is waited for, ends it first."""


@dataclass(frozen=True)
class Place:
    """Where a rank stands among the others, in torchrun's words."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    node: int
    master_addr: str
    master_port: int

    def environment(self) -> dict[str, str]:
        """Return what a workload written for torchrun looks for."""
        return {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_WORLD_SIZE": str(self.local_world_size),
            "GROUP_RANK": str(self.node),
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": str(self.master_port),
        }


@dataclass
class RankContext:
    """One rank, as the operation sees it that it carries out."""

    task: Task
    """What the attempt was told."""
    place: Place
    slot: Slot
    """What the launcher sees of this rank."""
    stop_asked: bool = field(default=False, init=False)
    """Whether the launcher has told this rank to stop."""
    bytes_moved: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)
    """Of the last stage that moved bytes."""

    @contextmanager
    def stage(self, name: str, *, transfers: bool = False) -> Iterator[None]:
        """Name what the rank does now.

        Args:
            name: The stage, in words.
            transfers: It moves bytes, so that standing still means something is wrong. The last such stage is the one
                whose seconds are reported.
        """
        before = self.stage_name, bool(self.slot.transfers)
        started = self._enter(name, transfers=transfers)
        yield
        # Not in a finally: after an error the stage says where it happened.
        ended = self._enter(before[0], transfers=before[1])
        if transfers:
            self.seconds = ended - started

    @property
    def stage_name(self) -> str:
        """The stage that the rank is in."""
        return bytes(self.slot.stage).decode(errors="replace")

    def on_progress(self, done: int, total: int) -> None:
        """Note this rank's bytes so far and in all; the engine calls it from its threads.

        Raises:
            Stopped: the launcher has told this rank to stop. The transfer fails, and the engine cleans up.
        """
        self.bytes_moved = done
        self.slot.done, self.slot.total = done, total
        self.slot.moved = time.monotonic()
        if self.stop_asked:
            raise Stopped("the launcher was told to stop")

    def heed_stop(self) -> None:
        """Let a SIGTERM stop this rank: at once, or in a transfer at its next bytes, so that no commit is torn off."""
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def ignore_stop(self) -> None:
        """Let a SIGTERM change nothing any more."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def join(self) -> "torch.device":
        """Join the other ranks, and return where the model is to live; collective.

        Raises:
            DeviceUnavailable: this rank was promised a GPU, and there is none for it.
        """
        import torch.distributed as dist  # noqa: PLC0415 - as said above

        device = self._device()
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            init_method=f"tcp://{self.place.master_addr}:{self.place.master_port}",
            rank=self.place.rank,
            world_size=self.place.world_size,
            timeout=timedelta(seconds=self.task.active_seconds + COLLECTIVE_SLACK_SECONDS),
        )
        return device

    def _device(self) -> "torch.device":
        import torch  # noqa: PLC0415 - as said above

        wanted = self.task.workers.device
        if wanted is Device.CPU or (wanted is Device.AUTO and not torch.cuda.is_available()):
            return torch.device("cpu")
        found = torch.cuda.device_count()
        if self.place.local_rank >= found:
            raise DeviceUnavailable(
                f"device {wanted}: local rank {self.place.local_rank} needs a GPU of its own, and {found} are visible"
            )
        device = torch.device("cuda", self.place.local_rank)
        torch.cuda.set_device(device)
        return device

    def _enter(self, name: str, *, transfers: bool) -> float:
        """Show a stage, and return when it began."""
        now = time.monotonic()
        self.slot.stage = name.encode()[:63]
        self.slot.transfers = transfers
        self.slot.moved = now
        return now

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.stop_asked = True
        if not self.slot.transfers:
            raise Stopped("the launcher was told to stop")

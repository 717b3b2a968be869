"""Entrypoints that go wrong, each in one way; mounted into the workers from a ConfigMap."""

import os
import signal
import time
from typing import Any

import torch.distributed as dist

import gpt


class RaisesInRankOne(gpt.Workload):
    def step(self, *arguments: Any) -> None:
        if dist.get_rank() == 1:
            raise ValueError("rank 1 says no")
        super().step(*arguments)


class DiesInRankOne(gpt.Workload):
    def step(self, *arguments: Any) -> None:
        if dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        super().step(*arguments)


class HangsInRankOne(gpt.Workload):
    def step(self, *arguments: Any) -> None:
        if dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        super().step(*arguments)


class Slow(gpt.Workload):
    def step(self, *arguments: Any) -> None:
        time.sleep(1)
        super().step(*arguments)

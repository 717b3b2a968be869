"""A training of two ranks: a small model over gloo, an agent, and the loss of each step in its log.

The steps are the same in every run, to the last bit. It ends after STEPS, and saves by itself at each
multiple of EVERY_STEPS alone.
"""

import json
import os
import time
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from dcp_agent import Agent


def main() -> None:
    """Train."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.Tanh(), torch.nn.Linear(256, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def get() -> dict[str, Any]:
        return dict(zip(("model", "optim"), get_state_dict(model, optimizer), strict=True))

    def put(state: dict[str, Any]) -> None:
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"])

    every = int(os.environ.get("EVERY_STEPS", "0")) or None
    agent = Agent((get, put), os.environ["PREFIX"], every_steps=every)
    for step in range(agent.resume(), int(os.environ["STEPS"])):
        generator = torch.Generator().manual_seed(1000 * step + rank)
        batch = torch.randn(32, 64, generator=generator)
        loss = (model(batch).squeeze() - batch.sum(dim=1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        for each in model.parameters():
            assert each.grad is not None
            dist.all_reduce(each.grad)
        optimizer.step()
        if rank == 0:
            print(json.dumps({"step": step + 1, "loss": loss.item().hex()}), flush=True)
        time.sleep(float(os.environ.get("STEP_SECONDS", "0.05")))
        agent.step(step + 1)
    agent.close(save=False)


if __name__ == "__main__":
    main()

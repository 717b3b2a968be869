"""Train a small GPT on text, sharded over all ranks (FSDP2); an agent saves and resumes the training.

    torchrun --nproc-per-node 2 train_gpt.py s3://bucket/run --steps 200 --every-steps 50

Run it again, and it goes on where it was: after SIGTERM, after kill -9, on other machines. Rank 0 prints the loss of
each step to its last bit, so that two runs can be compared. The text is the help on Python's own statements, byte by
byte, which every Python brings along.
"""

import argparse
import os
import pydoc_data.topics
import time
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn import functional

from dcp_agent import Agent, Keep
from gpt import GPT, Shape

CONTEXT: Final = 64
BATCH: Final = 4
"""Sequences of each rank in a step."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefix", help="where the checkpoints go, as <prefix>/step-<n>: a URL or a path")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument(
        "--every-steps", type=int, help="save at each multiple of this; default: when asked, and at the end"
    )
    parser.add_argument("--keep-last", type=int, help="checkpoints that stay; default: all")
    parser.add_argument("--size", default="300K", help="parameters of the model, such as 10M")
    parser.add_argument("--step-seconds", type=float, default=0.0, help="how long a step takes at least")
    parser.add_argument("--endpoint-url", help="of an S3 server that is not AWS")
    return parser.parse_args()


def text() -> Tensor:
    """Return the text that is learned, as bytes."""
    topics: dict[str, str] = pydoc_data.topics.topics
    whole = "\n".join(topics[name] for name in sorted(topics)).encode()
    return torch.frombuffer(bytearray(whole), dtype=torch.uint8).long()


def batch(data: Tensor, step: int) -> Tensor:
    """Return this rank's sequences of a step, by rank and step alone: a resumed run needs no loader's state."""
    generator = torch.Generator().manual_seed(step * dist.get_world_size() + dist.get_rank())
    places = torch.randint(len(data) - CONTEXT - 1, (BATCH,), generator=generator).tolist()
    return torch.stack([data[place : place + CONTEXT + 1] for place in places])


def main() -> None:
    """Train to the last step, from the newest checkpoint."""
    asked = arguments()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else None
    dist.init_process_group("nccl" if device else "gloo")
    torch.set_num_threads(1)  # the same sums in the same order, on any machine
    torch.manual_seed(0)
    model = GPT(Shape.of(asked.size), CONTEXT, tied=False).to(device or "cpu")
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    data = text()
    # With its end in one write: the ranks share a log, and print writes the end by itself.
    print(f"rank {dist.get_rank()} is process {os.getpid()}\n", end="", flush=True)

    def get() -> dict[str, Any]:
        return dict(zip(("model", "optim"), get_state_dict(model, optimizer), strict=True))

    def put(loaded: dict[str, Any]) -> None:
        set_state_dict(model, optimizer, model_state_dict=loaded["model"], optim_state_dict=loaded["optim"])

    agent = Agent(
        (get, put),
        asked.prefix,
        every_steps=asked.every_steps,
        keep=Keep(last=asked.keep_last) if asked.keep_last else None,
        storage_options={"endpoint_url": asked.endpoint_url} if asked.endpoint_url else None,
    )
    for step in range(agent.resume(), asked.steps):
        began = time.monotonic()
        tokens = batch(data, step).to(device or "cpu")
        logits = model(tokens[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call] # torch's own
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach()
        dist.all_reduce(mean, op=dist.ReduceOp.SUM)
        if dist.get_rank() == 0:
            value = mean.item() / dist.get_world_size()
            print(f"step {step + 1} loss {value:.4f} {value.hex()}", flush=True)
        time.sleep(max(0.0, began + asked.step_seconds - time.monotonic()))
        agent.step(step + 1)
    agent.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

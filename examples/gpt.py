"""A small GPT of any size as a Workload: for demos and benchmarks that should need no download.

`size` is a number of parameters (`10M`, `125M`, `1B`, or any other); depth and width follow from it. The model is
trained on made-up tokens, which are the same in every run. Beside model and optimizer it saves a digest of every
parameter, and after a Load `loaded` computes the digests again: whatever strategy and number of ranks the checkpoint
was saved and loaded with, each parameter has to be the same to the last bit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.nn import functional

VOCABULARY: Final = 8192
HEAD: Final = 64
"""Width of one attention head; the model's width is a multiple of it."""
SUFFIXES: Final = {"K": 10**3, "M": 10**6, "B": 10**9}
INTEGERS: Final = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
CHUNK: Final = 1 << 22
"""Elements that are digested at a time, so that a large parameter is not copied whole."""


class UnknownSizeError(ValueError):
    """`size` is no number of parameters."""

    def __init__(self, size: object) -> None:
        super().__init__(f"size {size!r} is not a number of parameters; write it as 10M, 125M or 1B")


class ParametersDifferError(ValueError):
    """A loaded parameter is not the one that was saved."""

    def __init__(self, names: list[str], total: int) -> None:
        super().__init__(f"{len(names)} of {total} parameters differ from the saved ones, first {names[0]}")


@dataclass(frozen=True)
class Shape:
    """How deep and wide a GPT with about `parameters` parameters is: about 64 times as wide as deep."""

    layers: int
    width: int

    @classmethod
    def of(cls, size: str | int) -> "Shape":
        """Return the shape for a size such as `125M`; raise UnknownSizeError for what is not one."""
        parameters = _number(size)
        return min(
            (cls._with_width(parameters, width) for width in range(HEAD, 8192 + HEAD, HEAD)),
            key=lambda shape: abs(shape.parameters / parameters - 1) + abs(shape.width / shape.layers / HEAD - 1) / 10,
        )

    @classmethod
    def _with_width(cls, parameters: int, width: int) -> "Shape":
        return cls(layers=max(1, round((parameters - VOCABULARY * width) / (12 * width**2))), width=width)

    @property
    def parameters(self) -> int:
        """Roughly, with tied embeddings: the attention's and the feed-forward's matrices, and the vocabulary."""
        return 12 * self.layers * self.width**2 + VOCABULARY * self.width


def _number(size: str | int) -> int:
    text = str(size).strip().upper()
    try:
        number = float(text.rstrip("".join(SUFFIXES))) * SUFFIXES.get(text[-1:], 1)
    except ValueError as error:
        raise UnknownSizeError(size) from error
    if not 1 <= number <= 1e12:  # noqa: PLR2004 - a trillion parameters is a slip of the hand
        raise UnknownSizeError(size)
    return int(number)


class Block(nn.Module):
    """One transformer block: attention, then feed-forward, each on the normalised residual stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD
        self.attention_norm = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, stream: Tensor) -> Tensor:
        """Map (batch, context, width) to the same shape."""
        query, key, value = (
            part.unflatten(-1, (self.heads, HEAD)).transpose(1, 2)
            for part in self.attention(self.attention_norm(stream)).chunk(3, dim=-1)
        )
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        stream = stream + self.projection(attended.transpose(1, 2).flatten(2))
        fed: Tensor = self.feed(self.feed_norm(stream))
        return stream + fed


class GPT(nn.Module):
    """Tokens in, logits of the next token out. Has no buffers, so that a Load may build it on the meta device."""

    def __init__(self, shape: Shape, context: int, *, tied: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, shape.width)
        self.positions = nn.Embedding(context, shape.width)
        self.blocks = nn.ModuleList(Block(shape.width) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (batch, context) of token numbers to (batch, context, vocabulary)."""
        stream = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            stream = block(stream)
        logits: Tensor = self.head(self.norm(stream))
        return logits


class Digests:
    """The saved extra state: the step, and one number for each parameter, in the order of their names."""

    def __init__(self, count: int) -> None:
        self.step = 0
        self.values = torch.zeros(count, dtype=torch.int64)
        self.trained: nn.Module | None = None
        """The sharded model, once steps have changed it."""

    def state_dict(self) -> dict[str, Any]:
        """Return step and digests; every rank calls this, since sharded parameters are gathered one by one."""
        if self.trained is not None:
            self.values.copy_(digests(self.trained)[1])
        return {"step": self.step, "digests": self.values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what a checkpoint holds."""
        self.step = int(state["step"])
        self.values = state["digests"]


class Workload:
    """A GPT with Adam; `entrypoint: gpt:Workload`.

    Args:
        size: Number of parameters, such as `10M` or `1B`.
        context: Tokens in a sequence.
        batch: Sequences in each rank's share of a step.
        tied: Whether input and output embedding are one parameter.
        optimizer: Whether to train, and so to save, with Adam.
        check: Whether to save digests. They cost a pass over all parameters on each rank.
        seed: What the first values and the tokens derive from.
    """

    def __init__(
        self,
        size: str | int = "10M",
        *,
        context: int = 64,
        batch: int = 2,
        tied: bool = True,
        optimizer: bool = True,
        check: bool = True,
        seed: int = 0,
    ) -> None:
        self.shape = Shape.of(size)
        self.context = context
        self.batch = batch
        self.tied = tied
        self.adam = optimizer
        self.check = check
        self.seed = seed
        self.state = Digests(0)

    def model(self) -> nn.Module:
        """Return the model with its first values, or without any on the meta device."""
        torch.manual_seed(self.seed)
        model = GPT(self.shape, self.context, tied=self.tied)
        if self.check:
            self.state = Digests(len(model.state_dict()))
            if not next(model.parameters()).is_meta:
                self.state.values.copy_(digests(model)[1])
        return model

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer | None:
        """Return Adam over the sharded parameters."""
        return torch.optim.Adam(params, lr=1e-3) if self.adam else None

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """Train on one batch, each rank on its own."""
        rank = dist.get_rank() if dist.is_initialized() else 0
        generator = torch.Generator().manual_seed(hash((self.seed, self.state.step, rank)) % (1 << 63))
        tokens = torch.randint(VOCABULARY, (self.batch, self.context + 1), generator=generator)
        tokens = tokens.to(next(model.parameters()).device)
        logits = model(tokens[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        torch.autograd.backward(loss)
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        self.state.step += 1
        if self.check:
            self.state.trained = model

    def extra_state(self) -> Mapping[str, Any]:
        """Return the step and the digests, saved and loaded beside the model."""
        return {"gpt": self.state}

    def loaded(self, model: nn.Module, optimizer: torch.optim.Optimizer | None, extra: Mapping[str, Any]) -> None:
        """Compare every loaded parameter with what was saved; raise ParametersDifferError."""
        del optimizer, extra
        if not self.check:
            return
        names, values = digests(model)
        different = [
            name for name, here, saved in zip(names, values, self.state.values, strict=True) if bool(here != saved)
        ]
        if different:
            raise ParametersDifferError(different, len(names))
        if not dist.is_initialized() or dist.get_rank() == 0:
            print(f"all {len(names)} parameters are equal to the saved ones, bit for bit (step {self.state.step})")


def digests(model: nn.Module) -> tuple[list[str], Tensor]:
    """Return the model's names, sorted, and a number for each value; every rank of the model has to call it.

    The whole model is gathered on every rank for this, which is why a benchmark says `check: false`.
    """
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    found = {name: _digest(value) for name, value in whole.items() if isinstance(value, Tensor)}
    names = sorted(found)
    return names, torch.tensor([found[name] for name in names], dtype=torch.int64)


def _digest(value: Tensor) -> int:
    """Return a number that depends on every bit of the tensor and on the bit's place."""
    bits = value.detach().contiguous().flatten().view(INTEGERS[value.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for start in range(0, len(bits), CHUNK):
        chunk = bits[start : start + CHUNK].to(torch.int64)
        place = torch.arange(start, start + len(chunk), dtype=torch.int64, device=bits.device)
        total += (chunk * (2 * place + 1)).sum()
    return int(total)

"""Workloads whose state is known in advance, to the last bit, whatever strategy and number of ranks they run under.

With `exact`, every value that a step adds or multiplies is a small multiple of a power of two, and every gradient a
multiple of 12. So no sum depends on its order, and dividing by 2, 3 or 4 ranks leaves no remainder: what any strategy
computes has to be exactly what `reference` computes without sharding. Else the values are random, each of them another,
so that a value in a wrong place shows.
"""

import os
import random
import signal
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map

SEED = 0
"""The worker seeds the generators with it before it calls `model`."""


class MyTestModule(nn.Module):
    """8-16-32-64-8."""

    def __init__(self) -> None:
        super().__init__()
        self.net1 = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.net2 = nn.Sequential(nn.Linear(16, 32), nn.ReLU())
        self.net3 = nn.Linear(32, 64)
        self.net4 = nn.Sequential(nn.ReLU(), nn.Linear(64, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.net4(self.net3(self.net2(self.net1(x))))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Uneven shapes, and one parameter of another type than its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 7)
        self.outer = nn.Linear(7, 5, bias=False)
        self.shift = nn.Parameter(torch.randn(5).bfloat16())

    def forward(self, stream: Tensor) -> Tensor:
        return self.outer(self.inner(stream))  # type: ignore[no-any-return]


class Awkward(nn.Module):
    """Whatever makes sharding hard.

    Uneven shapes, a scalar, parameters smaller than the number of ranks, bf16 in a layer and beside fp32, tied weights,
    a frozen parameter; buffers that are saved, that are integers, and that are not saved.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(13, 5)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.narrow = nn.Linear(5, 3, bias=False, dtype=torch.bfloat16)
        self.head = nn.Linear(5, 13, bias=False)
        self.head.weight = self.tokens.weight
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.offset = nn.Parameter(torch.randn(1))
        self.cube = nn.Parameter(torch.randn(3, 2, 5))
        self.frozen = nn.Parameter(torch.randn(3, 5), requires_grad=False)
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("running", torch.randn(5))
        self.register_buffer("mask", mask(), persistent=False)

    seen: Tensor
    running: Tensor
    mask: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits for (batch, context) tokens, with everything else that has a gradient added to the first."""
        if self.training:
            self.seen += 1
            self.running += 0.5
        stream = self.tokens(tokens) * self.mask
        for block in self.blocks:
            stream = stream + block(stream)
        logits = (self.head(stream * self.scale) + self.offset).flatten()
        # In bf16 a sum of many terms would round: each of these gradients is one term per rank.
        brief = self.narrow(torch.ones(1, 5, dtype=self.narrow.weight.dtype)).to(stream.dtype).sum()
        brief = brief + torch.stack([block.shift for block in self.blocks]).to(stream.dtype).sum()  # type: ignore[misc]
        side = brief * tokens[0, 0] + (self.cube * 2 * self.frozen[:, None, :]).sum()
        return torch.cat([logits[:1] + side, logits[1:]])


def mask() -> Tensor:
    """Return what `Awkward` holds and no checkpoint does."""
    return torch.tensor([1.0, 2.0, 1.0, 0.5, 1.0])


class Count:
    """The number of steps, as extra state."""

    def __init__(self) -> None:
        self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]


class MismatchError(Exception):
    """What was loaded is not what should be there."""


class Seed:
    """`MyTestModule` with Adam.

    Args:
        exact: Values that a step computes without rounding, in place of random ones.
        expect: After a Load: the steps and ranks that the checkpoint was saved with.
        meta: After a Load: whether the model was built without memory.
        rate: The learning rate; a Load has to bring back the saved one.
    """

    architecture: ClassVar[Callable[[], nn.Module]] = MyTestModule

    def __init__(
        self,
        *,
        exact: bool = False,
        expect: Mapping[str, int] | None = None,
        meta: bool | None = None,
        rate: float = 0.1,
    ) -> None:
        self.exact = exact
        self.expect = expect
        self.expect_meta = meta
        self.was_meta = False
        self.rate = rate
        self.count = Count()

    def model(self) -> nn.Module:
        model = type(self).architecture()
        self.was_meta = next(model.parameters()).is_meta
        if self.exact:
            with torch.no_grad():
                for tensor in model.parameters():
                    tensor.copy_(torch.randint(-1, 2, tensor.shape) / 2)
        return model

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(params, lr=self.rate)

    def batch(self, rank: int) -> Tensor:
        generator = torch.Generator().manual_seed(100 + rank)
        return torch.randint(-2, 3, (8, 8), generator=generator).float()

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        model.train()
        self.backward(model, dist.get_rank())
        optimizer.step()
        optimizer.zero_grad()
        self.count.steps += 1

    def backward(self, model: nn.Module, rank: int) -> None:
        torch.autograd.backward(model(self.batch(rank)).sum() * 12)

    def extra_state(self) -> Mapping[str, Count]:
        return {"count": self.count}

    def loaded(self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Mapping[str, Any]) -> None:
        """Compare all that was loaded, bit for bit, with the unsharded reference."""
        if self.expect is None:
            return
        wanted, trained = self.reference(**self.expect)
        wrong = differences(whole_state(model, optimizer), wanted)
        wrong += [] if extra["count"].steps == self.expect["steps"] else ["count"]
        wrong += self.structure(model)
        wrong += [] if self.expect_meta in {None, self.was_meta} else [f"built on the meta device: {self.was_meta}"]
        with torch.no_grad():
            there, here = trained.eval()(self.batch(7)), model.eval()(self.batch(7))
        wrong += [] if torch.allclose(here, there, rtol=1e-4, atol=1e-3) else ["what the model computes"]
        if wrong:
            raise MismatchError("; ".join(wrong))

    def structure(self, model: nn.Module) -> list[str]:
        """Return what is wrong with the model beside what its checkpoint holds."""
        return []

    def reference(self, steps: int, ranks: int) -> tuple[dict[str, Any], nn.Module]:
        """Return the state and the model after training, without sharding, on what `ranks` ranks would have seen."""
        twin = type(self)(exact=self.exact)
        torch.manual_seed(SEED)
        model = twin.model()
        optimizer = twin.optimizer(model.parameters())
        for _ in range(steps):
            twin.average_gradients(model, ranks)
            optimizer.step()
        names = {parameter: name for name, parameter in model.named_parameters()}
        found: dict[str, Any] = {f"model.{name}": value for name, value in model.state_dict().items()}
        for each in filter(lambda each: each.requires_grad, names):
            state = optimizer.state.get(each) or _untrained(each)
            found |= {f"optim.{names[each]}.{key}": value for key, value in state.items()}
        found["groups"] = [
            {**group, "params": [names[each] for each in group["params"]]} for group in optimizer.param_groups
        ]
        return found, model

    def average_gradients(self, model: nn.Module, ranks: int) -> None:
        """Give each parameter the mean of the gradients that the ranks would have; buffers go one forward pass on."""
        model.train()
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        sums: dict[nn.Parameter, Tensor] = {}
        for rank in range(ranks):
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
            model.zero_grad()
            self.backward(model, rank)
            for each in model.parameters():
                if each.grad is not None:
                    sums[each] = sums[each] + each.grad if each in sums else each.grad
        for each in model.parameters():
            each.grad = sums[each] / ranks if each in sums else None


def _untrained(parameter: Tensor) -> dict[str, Tensor]:
    zeros = torch.zeros_like(parameter, requires_grad=False)
    return {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros}


class AwkwardSeed(Seed):
    """`Awkward` with Adam; built in memory for a Load, since nobody says how to fill its mask."""

    architecture = Awkward

    def batch(self, rank: int) -> Tensor:
        generator = torch.Generator().manual_seed(100 + rank)
        return torch.randint(0, 13, (2, 3), generator=generator)

    def structure(self, model: nn.Module) -> list[str]:
        """Check the ties and the mask."""
        named = {_plain(name): module for name, module in model.named_modules()}
        wrong = [] if torch.equal(dict(unwrapped(model))["mask"], mask()) else ["mask"]
        wrong += [] if named["head"].weight is named["tokens"].weight else ["head and tokens are no longer tied"]
        return wrong


class MetaAwkward(AwkwardSeed):
    """`Awkward`, built on the meta device for a Load."""

    def init_buffers(self, model: nn.Module) -> None:
        dict(unwrapped(model))["mask"].copy_(mask())


class Transient(MyTestModule):
    """`MyTestModule` with a buffer that keeps it off the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unused", torch.ones(1), persistent=False)


class InMemory(Seed):
    """`Seed`, built in memory for a Load."""

    architecture = Transient


def unwrapped(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return buffers by the names that they have without a wrapper."""
    return [(_plain(name), buffer) for name, buffer in model.named_buffers()]


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in {"module", "_fsdp_wrapped_module"})


def whole_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return every value of model and optimizer, gathered from all ranks by torch; collective."""
    options = StateDictOptions(full_state_dict=True)
    values = get_model_state_dict(model, options=options)
    found: dict[str, Any] = {f"model.{name}": value for name, value in values.items()}
    optim: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=options)
    found |= {f"optim.{name}.{key}": value for name, each in optim["state"].items() for key, value in each.items()}
    found["groups"] = optim["param_groups"]
    return found


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return the names of what is not the same to the last bit, of another type, missing or too many."""
    wrong = sorted(found.keys() ^ wanted.keys())
    return wrong + [name for name in sorted(found.keys() & wanted.keys()) if not _is_same(found[name], wanted[name])]


def _is_same(here: Any, there: Any) -> bool:
    if not isinstance(there, Tensor):
        return bool(here == there)
    if here.dtype != there.dtype or here.shape != there.shape:
        return False
    return torch.equal(_bits(here), _bits(there))


def _bits(value: Tensor) -> Tensor:
    return value.detach().contiguous().reshape(-1).view(torch.uint8)


class Forgetful(MetaAwkward):
    """Says that it fills its buffers, and does not."""

    def init_buffers(self, model: nn.Module) -> None:
        pass


class Looking(MyTestModule):
    """Looks at a value while it is made, which a tensor on the meta device has not."""

    def __init__(self) -> None:
        super().__init__()
        self.bound = float(self.net3.weight.abs().max())


class Looks(Seed):
    """`Looking` with Adam."""

    architecture = Looking


class Secretive(MyTestModule):
    """Keeps a parameter out of its state dict, as adapters do with the model that they adapt."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.full((8,), 3.0), requires_grad=False)
        self.register_state_dict_post_hook(self._without_base)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(self._not_missed)  # type: ignore[no-untyped-call]

    @staticmethod
    def _without_base(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        state.pop(f"{prefix}base", None)

    @staticmethod
    def _not_missed(module: nn.Module, incompatible: Any) -> None:
        incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if not key.endswith("base")]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.base


class Adapted(Seed):
    """`Secretive` with Adam."""

    architecture = Secretive

    def structure(self, model: nn.Module) -> list[str]:
        base = next(each for name, each in model.named_parameters() if _plain(name) == "base")
        whole = base.full_tensor() if isinstance(base, DTensor) else base
        return [] if torch.equal(whole, torch.full((8,), 3.0)) else ["base"]


class Wider(MyTestModule):
    """Another shape in one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.net3 = nn.Linear(32, 65)
        self.net4 = nn.Sequential(nn.ReLU(), nn.Linear(65, 8))


class Reshaped(Seed):
    """`Wider` with Adam."""

    architecture = Wider


class Longer(MyTestModule):
    """One layer more."""

    def __init__(self) -> None:
        super().__init__()
        self.net5 = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.net5(super().forward(x))  # type: ignore[no-any-return]


class Constant(Seed):
    """`Longer` with Adam, every parameter 7 at first; checks by glob what was loaded and what is as it was built."""

    architecture = Longer

    def __init__(self, kept: list[str] | None = None, *, trained: bool = True) -> None:
        super().__init__()
        self.kept = kept or []
        self.trained = trained

    def model(self) -> nn.Module:
        model = super().model()
        with torch.no_grad():
            for each in model.parameters():
                each.fill_(7)
        return model

    def loaded(self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Mapping[str, Any]) -> None:
        found = whole_state(model, optimizer)
        wanted, _ = Seed(exact=True).reference(steps=1, ranks=1)
        wrong = []
        for name, value in found.items():
            as_built = any(fnmatchcase(name, glob) for glob in self.kept)
            start: Any = 7.0 if name.startswith("model.") else 0.0
            right = bool((value == start).all()) if as_built else name == "groups" or _is_same(value, wanted[name])
            wrong += [] if right else [name]
        if wrong:
            raise MismatchError("; ".join(wrong))


class Stateless(Seed):
    """Trained by an optimizer that keeps no state."""

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=0.5)

    def loaded(self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Mapping[str, Any]) -> None:
        if optimizer.param_groups[0]["lr"] != 0.5:
            raise MismatchError(str(optimizer.param_groups))
        if self.expect is not None:
            wanted, _ = self.reference(**self.expect)
            wanted = {name: value for name, value in wanted.items() if not name.startswith("optim.")}
            if wrong := differences(whole_state(model, optimizer), wanted):
                raise MismatchError("; ".join(wrong))


class Frozen(Seed):
    """Is not trained at all: no parameter has a gradient, and there is no optimizer."""

    def model(self) -> nn.Module:
        return super().model().requires_grad_(False)

    def optimizer(self, params: Iterable[nn.Parameter]) -> None:  # type: ignore[override]
        return None

    def loaded(self, model: nn.Module, optimizer: None, extra: Mapping[str, Any]) -> None:  # type: ignore[override]
        wanted, _ = Seed(exact=self.exact).reference(steps=0, ranks=1)
        found = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
        if wrong := [name for name, value in found.items() if not _is_same(value, wanted[f"model.{name}"])]:
            raise MismatchError("; ".join(wrong))


class Stuck(torch.optim.SGD):
    """Makes no step."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        raise TypeError("no step without a batch")


class Stalled(Seed):
    """Has an optimizer that can't make a step of its own."""

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return Stuck(params)


class Plain(Seed):
    """Keeps its count as a plain value beside the Stateful; may fail once it has made a step."""

    def __init__(self, *, fails: bool = False, count: int | None = None) -> None:
        super().__init__()
        self.fails = fails
        self.expect_count = count

    def extra_state(self) -> Mapping[str, Any]:
        if self.fails and self.count.steps:
            raise KeyError("epoch")
        return {"count": self.count, "plain": {"steps": self.count.steps}}

    def loaded(self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Mapping[str, Any]) -> None:
        if extra["plain"]["steps"] != self.expect_count or self.count.steps != self.expect_count:
            raise MismatchError(f"{extra['plain']}, {self.count.steps}")


class Siamese(nn.Module):
    """One module under two names, and one block twice; the blocks in a list, as those that FSDP wraps on their own."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.Linear(8, 8)
        self.blocks = nn.ModuleList([block, nn.Linear(8, 8), block])
        self.left = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.right = self.left

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.left(x) + self.right(x)  # type: ignore[no-any-return]


class Twice(Seed):
    """`Siamese` with Adam."""

    architecture = Siamese

    def loaded(self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Mapping[str, Any]) -> None:
        super().loaded(model, optimizer, extra)
        named = {_plain(name): module for name, module in model.named_modules(remove_duplicate=False)}
        if named["left"] is not named["right"] or named["blocks.0"] is not named["blocks.2"]:
            raise MismatchError("no longer one module under two names")


class Small(Seed):
    """Has buffers of types that gloo does not send by itself."""

    def model(self) -> nn.Module:
        model = super().model()
        model.register_buffer("brief", torch.arange(4, dtype=torch.int16))
        model.register_buffer("eighth", torch.ones(4).to(torch.float8_e4m3fn))
        return model


class Stray(Seed):
    """Optimizes a parameter that is not the model's."""

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam([*params, nn.Parameter(torch.ones(2, 3))], lr=0.1)


class Grouped(Seed):
    """Trains without state, each group at a rate of its own: layers by glob."""

    def __init__(self, groups: list[str], rates: list[float] | None = None) -> None:
        super().__init__()
        self.groups = groups
        self.rates = rates

    def model(self) -> nn.Module:
        self.made = super().model()
        return self.made

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        del params
        named = list(self.made.named_parameters())
        groups = [[each for name, each in named if fnmatchcase(name, glob)] for glob in self.groups]
        return torch.optim.SGD([{"params": each, "lr": 2.0**-place} for place, each in enumerate(groups)])

    def loaded(self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Mapping[str, Any]) -> None:
        if (rates := [group["lr"] for group in optimizer.param_groups]) != self.rates:
            raise MismatchError(str(rates))


class Retyped(Seed):
    """Holds its values, or a buffer, in another type than `Seed` does."""

    def __init__(self, parameters: str = "float32", scale: str = "float32") -> None:
        super().__init__()
        self.types = getattr(torch, parameters), getattr(torch, scale)

    def model(self) -> nn.Module:
        parameters, scale = self.types
        model = super().model().to(parameters)
        model.register_buffer("scale", torch.full((2,), 1.5).to(scale))
        return model


class Extra(Seed):
    """Has numpy's state and others' as extra state; or the same names with nothing behind them."""

    def __init__(self, kind: str, *, blank: bool = False) -> None:
        super().__init__()
        self.blank = blank
        generator = np.random.RandomState(7)
        self.values: dict[str, Any] = {
            "arrays": {"rng": generator.get_state(), "new": np.random.default_rng(7).bit_generator.state},
            "scalars": {"float": np.float32(0.5), "date": np.datetime64("2026-01-01"), "text": np.array(["a", "bc"])},
            "python": {"rng": random.Random(7).getstate(), "set": {1, 2}},
            "numbers": {0: "a", 7: {3: "b"}},
            "objects": np.array([{}], dtype=object),
            "deque": deque([1]),
            "function": len,
            "local": lambda: 1,
        }
        self.kind = kind

    def extra_state(self) -> Mapping[str, Any]:
        value = self.values[self.kind]
        return {"extra": tree_map(lambda _: None, value) if self.blank else value}

    def loaded(self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Mapping[str, Any]) -> None:
        if repr(extra["extra"]) != repr(self.values[self.kind]):
            raise MismatchError(repr(extra["extra"]))


class Drawing(Seed):
    """Draws its values from every generator that there is."""

    def model(self) -> nn.Module:
        model = super().model()
        self.drawn = [random.random(), np.random.rand(), float(torch.rand(()))]  # noqa: NPY002 - what is to be seeded
        return model

    def extra_state(self) -> Mapping[str, Any]:
        return {"drawn": self.drawn}

    def loaded(self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Mapping[str, Any]) -> None:
        if extra["drawn"] != self.drawn:
            raise MismatchError(f"{extra['drawn']} {self.drawn}")


class Offhand(MyTestModule):
    """Keeps tensors that are neither parameters nor buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.full((8,), 2.0)
        tables: list[Any] = [{"rotary": (torch.full((2,), 3.0),)}]
        self.net3.tables = [*tables, tables]  # type: ignore[assignment]
        tables.append(tables)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


class Holds(Seed):
    """`Offhand` with Adam."""

    architecture = Offhand


class Interrupted(Seed):
    """Is told to stop while it is built without memory."""

    def model(self) -> nn.Module:
        model = super().model()
        if self.was_meta:
            os.kill(os.getpid(), signal.SIGTERM)
        return model

"""Workloads whose checkpoint and whose own state are not quite alike; each says what must have come of a Load."""

import io
import optparse
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.tensor import DTensor

import dcp_engine
from workloads import MismatchError, MyTestModule, differences


class Stack(nn.Module):
    """Some equal layers."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Layered:
    """`Stack` with Adam; layers may be frozen or wrapped, the optimizer may have been given a scheduler.

    Args:
        layers: How many.
        frozen: Layers whose parameters have no gradient.
        scheduled: Make a learning rate scheduler, which adds to the optimizer's settings.
        wrapped: Compile each layer within activation checkpointing.
        plain: Extra state, as it is.
        expect: What the first weights of the layers are after a Load.
    """

    def __init__(
        self,
        layers: int = 2,
        frozen: tuple[int, ...] = (),
        *,
        scheduled: bool = False,
        wrapped: bool = False,
        plain: Mapping[str, Any] | None = None,
        trained: bool = True,
    ) -> None:
        self.layers, self.frozen, self.scheduled, self.wrapped = layers, frozen, scheduled, wrapped
        self.plain, self.trained = plain or {}, trained

    def model(self) -> nn.Module:
        model = Stack(self.layers)
        for number in self.frozen:
            model.layers[number].requires_grad_(False)
        if self.wrapped:
            compiled: list[Any] = [torch.compile(each) for each in model.layers]
            model.layers = nn.ModuleList([checkpoint_wrapper(each) for each in compiled])
        return model

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer | None:
        if not self.trained:
            return None
        optimizer = torch.optim.Adam(params, lr=0.1)
        if self.scheduled:
            torch.optim.lr_scheduler.StepLR(optimizer, 10)
        return optimizer

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for each in model.parameters():
            if each.requires_grad:
                each.grad = torch.ones_like(each)
        optimizer.step()
        optimizer.zero_grad()

    def extra_state(self) -> Mapping[str, Any]:
        return dict(self.plain)


class Typed:
    """bf16 parameters under an optimizer that keeps float32 and, if it is `packed`, uint8 beside each."""

    def __init__(self, *, packed: bool = True) -> None:
        self.packed = packed

    def model(self) -> nn.Module:
        return MyTestModule().bfloat16()

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return Keeping(params, packed=self.packed)

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for each in model.parameters():
            each.grad = torch.ones_like(each)
        optimizer.step()

    def loaded(self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Mapping[str, Any]) -> None:
        wrong = []
        for number, state in enumerate(optimizer.state.values()):
            for name, value in optimizer.made(torch.zeros(()), 1).items():  # type: ignore[attr-defined]
                here = state[name]
                local = here.to_local() if isinstance(here, DTensor) else here
                if local.dtype != value.dtype or not bool((local == value).all()):
                    wrong.append(f"{number}.{name} {local.dtype}")
        if wrong:
            raise MismatchError("; ".join(wrong))


class Keeping(torch.optim.Optimizer):
    """Keeps types of its own, each with a value that bf16 has not."""

    def __init__(self, params: Any, *, packed: bool) -> None:
        super().__init__(params, {"lr": 0.1})
        self.packed = packed

    def made(self, parameter: Tensor, steps: int) -> dict[str, Tensor]:
        exact = {"exact": torch.full_like(parameter, steps / 3, dtype=torch.float32)}
        packed = {"packed": torch.full_like(parameter, 200 + steps, dtype=torch.uint8)} if self.packed else {}
        return exact | packed

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for each in group["params"]:
                if each.grad is not None:
                    moved = bool(group["lr"])
                    self.state[each].update(self.made(each, int(moved)))


class Searching:
    """`Stack` with LBFGS."""

    def __init__(self, steps: int | None = None) -> None:
        self.expect = steps

    def model(self) -> nn.Module:
        return Stack(2)

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(params, lr=0.1, max_iter=3)

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        def loss() -> Tensor:
            optimizer.zero_grad()
            found: Tensor = (model(torch.ones(4)) - 3).square().sum()
            torch.autograd.backward(found)
            return found

        optimizer.step(loss)  # type: ignore[arg-type]

    def loaded(self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Mapping[str, Any]) -> None:
        torch.manual_seed(0)
        twin = Searching()
        reference = twin.model()
        search = twin.optimizer(reference.parameters())
        for _ in range(self.expect or 0):
            twin.step(reference, search)
        # The next step shows whether all that the search remembers came back.
        for one, other in ((reference, search), (model, optimizer)):
            self.step(one, other)
        here = {name.removeprefix("module."): each for name, each in model.state_dict().items()}
        if wrong := differences(here, reference.state_dict()):
            raise MismatchError("; ".join(wrong))


class Stateful(nn.Linear):
    """Has state of its own beside its parameters: as many bytes as it has seen calls, in one form or another."""

    def __init__(self, form: str, length: int) -> None:
        super().__init__(4, 4)
        self.form, self.length = form, length
        self.got: Any = None

    def get_extra_state(self) -> Any:
        content = bytes(range(self.length))
        match self.form:
            case "tensor":
                return torch.tensor([*content], dtype=torch.uint8)
            case "stream":
                return io.BytesIO(content)
            case "none":
                return None
        return {"content": content}

    def set_extra_state(self, state: Any) -> None:
        if isinstance(state, Tensor):
            state = bytes(state.tolist())
        elif isinstance(state, io.BytesIO):
            state = state.getvalue()
        self.got = state


class Stated(Layered):
    """A model with a `Stateful`."""

    def __init__(self, form: str, length: int, expect: int | None = None) -> None:
        super().__init__()
        self.form, self.length, self.expect = form, length, expect

    def model(self) -> nn.Module:
        return nn.Sequential(Stateful(self.form, self.length))

    def loaded(self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Mapping[str, Any]) -> None:
        (module,) = [each for each in model.modules() if isinstance(each, Stateful)]
        if module.got != (None if self.expect is None else bytes(range(self.expect))):
            raise MismatchError(f"{module.got}")


class Config(Layered):
    """Keeps a value of a class that no Load knows to be safe."""

    def extra_state(self) -> Mapping[str, Any]:
        return {"config": optparse.Values({"size": 3})}

    def loaded(self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Mapping[str, Any]) -> None:
        if extra["config"] != optparse.Values({"size": 3}):
            raise MismatchError(str(extra))


class Lazy(Layered):
    """Has a layer without a shape before its first call."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.LazyLinear(4))


class Marked(torch.Tensor):
    """A tensor of a class of its own."""


class Labelled(Layered):
    """Has a buffer of a class of its own."""

    def model(self) -> nn.Module:
        model = super().model()
        model.register_buffer("marks", torch.ones(3).as_subclass(Marked))
        return model


class Sparse(Layered):
    """Has a tensor whose values lie beside their indices, as a buffer or a frozen parameter.

    Args:
        held: As what: a buffer that is not persistent is in no checkpoint.
    """

    def __init__(self, held: str) -> None:
        super().__init__()
        self.held = held

    def model(self) -> nn.Module:
        model, adjacent = super().model(), torch.eye(3).to_sparse()
        if self.held == "parameter":
            model.register_parameter("adjacent", nn.Parameter(adjacent, requires_grad=False))
        else:
            model.register_buffer("adjacent", adjacent, persistent=self.held == "buffer")
        return model


class Position:
    """A place in the data, as a loader keeps it."""

    def __init__(self, place: int) -> None:
        self.place = place

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.place = state["place"]


class PerRank(Layered):
    """Has values that are others in each rank.

    Args:
        wrapped: Say so.
        blank: Start with none of them, and expect the saved ones.
        kept: Start with none of them, and expect to keep that.
    """

    def __init__(self, *, wrapped: bool = True, blank: bool = False, kept: bool = False) -> None:
        super().__init__()
        self.wrapped, self.blank, self.kept = wrapped, blank, kept

    def extra_state(self) -> Mapping[str, Any]:
        own = -1 if self.blank or self.kept else torch.distributed.get_rank()
        if not self.wrapped:
            return {"position": {"place": own}}
        return {
            "rng": dcp_engine.per_rank(torch.tensor([own])),
            "loader": dcp_engine.per_rank(Position(own)),
            "epoch": 3,
        }

    def loaded(self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Mapping[str, Any]) -> None:
        wanted = -1 if self.kept else torch.distributed.get_rank()
        found = int(extra["rng"].value), extra["loader"].value.place, extra["epoch"]
        if found != (wanted, wanted, 3):
            raise MismatchError(f"{found} on rank {torch.distributed.get_rank()}")

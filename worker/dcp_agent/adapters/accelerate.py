"""The state of what an Accelerator has prepared.

model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
agent = Agent(prepared(accelerator), "s3://bucket/run", every=timedelta(minutes=30))
"""

from typing import Any

from accelerate import Accelerator
from torch import nn

from dcp_agent.adapters.parts import model_and_optimizers, put_model_and_optimizers, random_numbers, set_random_numbers
from dcp_agent.state import StateDict
from dcp_engine import per_rank


def prepared(accelerator: Accelerator) -> tuple[Any, Any]:
    """Return a pair `(get, put)` for an Agent: models, optimizers, schedulers, random numbers, and what is registered.

    The place in the data is in it where the Accelerator uses stateful loaders; elsewhere training goes to it by
    `accelerator.skip_first_batches`. Random numbers are set as a model in training is first called: the start of a
    loader draws from them.

    Args:
        accelerator: After `prepare`, and after `register_for_checkpointing`.
    """
    models = accelerator._models  # noqa: SLF001 - what its own save_state saves
    optimizers = [each.optimizer for each in accelerator._optimizers]  # noqa: SLF001
    kept = {
        **{f"scheduler-{at}": each for at, each in enumerate(accelerator._schedulers)},  # noqa: SLF001
        **{f"custom-{at}": each for at, each in enumerate(accelerator._custom_objects)},  # noqa: SLF001
    }
    if accelerator.scaler is not None:
        kept["scaler"] = accelerator.scaler
    loaders = accelerator._dataloaders if accelerator.use_stateful_dataloader else []  # noqa: SLF001

    def get() -> StateDict:
        own = {f"loader-{at}": per_rank(each) for at, each in enumerate(loaders)}
        return {**model_and_optimizers(models, optimizers), **kept, **own, "random": per_rank(random_numbers())}

    def put(loaded: StateDict) -> None:
        put_model_and_optimizers(models, optimizers, loaded)
        numbers = loaded["random"].value

        def before_the_first_call(model: nn.Module, *_: object) -> None:
            if model.training:
                hook.remove()
                set_random_numbers(numbers)

        hook = models[0].register_forward_pre_hook(before_the_first_call)

    return get, put

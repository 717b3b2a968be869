"""Values that have `state_dict` and `load_state_dict`: a save asks them for a state, a load hands them one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.distributed.checkpoint.stateful import Stateful

from dcp_engine.errors import EngineError, StateMismatch


def state_of(value: Any) -> Any:  # noqa: ANN401 - whatever a state dict holds
    """Return what a Stateful has to save, or the value itself."""
    if not isinstance(value, Stateful):
        return value
    with _naming_its_files(value, "state_dict"):
        return value.state_dict()


def load_into(target: Stateful, state: dict[str, Any]) -> None:
    """Hand a Stateful what was loaded for it.

    Raises:
        StateMismatch: it does not take it.
    """
    with _naming_its_files(target, "load_state_dict"):
        try:
            target.load_state_dict(state)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            what = f"{type(target).__name__}.load_state_dict()"
            raise StateMismatch(f"{what} does not take what was loaded: {type(error).__name__}: {error}") from error


@contextmanager
def _naming_its_files(owner: Stateful, method: str) -> Iterator[None]:
    """Tell a file that an object misses from one of the checkpoint."""
    try:
        yield
    except OSError as error:
        raise EngineError(f"{type(owner).__name__}.{method}(): {type(error).__name__}: {error}") from error

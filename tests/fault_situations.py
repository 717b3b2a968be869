"""What is struck at each of its steps: saves over all that may stand at a URL, a clean-up, and removals."""

import logging
import os
import signal
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import torch

import dcp_engine
import engine_programs as programs
import file_steps
from dcp_engine.format import layout
from rank_group import in_own_processes

HOUR: Final = timedelta(hours=1)
NOW: Final = timedelta(0)
Act = Callable[[Path], object]


@dataclass(frozen=True)
class Situation:
    """What stands at a URL, what is done there, and which seed's state stands before and after that; 0 for none."""

    stands: Sequence[Act]
    act: Act
    before: int
    after: int
    sure: bool = True
    """An error says that nothing has changed; of a removal it may come after that."""


def state(seed: int) -> dict[str, Any]:
    return {"w": torch.full((300,), float(seed)), "step": seed}


def held(url: Path | str, options: dict[str, Any] | None = None) -> int:
    """Return which seed's state is at the URL, having compared every value and every digest; 0 if there is none."""
    if dcp_engine.find(url, storage_options=options) is None:
        return 0
    found = {"w": torch.zeros(300), "step": -1}
    dcp_engine.load(found, url, storage_options=options)
    step = found["step"]
    assert isinstance(step, int)
    assert torch.equal(torch.as_tensor(found["w"]), state(step)["w"])
    dcp_engine.verify(url, storage_options=options)
    return step


def save_to(url: str, options: dict[str, Any], seed: int) -> None:
    """Replace what stands in a store, and keep that for an hour."""
    dcp_engine.save(state(seed), url, storage_options=options, overwrite=True, keep_replaced=HOUR)


def save_in(environment: dict[str, str], url: str, options: dict[str, Any], seed: int) -> None:
    """Do so in a process of its own, which may have been forked of one that knows no credentials yet."""
    os.environ.update(environment)
    save_to(url, options, seed)


def delete_in(environment: dict[str, str], url: str, options: dict[str, Any]) -> None:
    """Remove what stands there, in a process of its own."""
    os.environ.update(environment)
    dcp_engine.delete(url, storage_options=options)


def save(seed: int, keep: timedelta = NOW, *, overwrite: bool = True) -> Act:
    return lambda url: dcp_engine.save(state(seed), url, overwrite=overwrite, keep_replaced=keep)


def clean(url: Path) -> list[str]:
    return dcp_engine.clean(url, older_than=NOW, keep_replaced=NOW)


def delete(url: Path) -> object:
    return dcp_engine.delete(url)


def _stock(url: Path) -> None:
    import stock_dcp as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state(1), checkpoint_id=url, no_dist=True)


def _orphans(url: Path) -> None:
    """Leave what saves leave that were killed here and there."""
    folder = url / layout.data_folder("a" * 32)
    folder.mkdir()
    (folder / "__0_0.distcp").write_bytes(b"half")
    (url / layout.data_folder("b" * 32)).mkdir()
    (url / f".metadata.{'c' * 32}.tmp").touch()
    (url / f"probe.{'c' * 32}.link").touch()
    (url / layout.REPLACED / f"{'d' * 32}.{'e' * 32}.{'f' * 32}.tmp").touch()


KEPT: Final = [save(1), save(2, HOUR), save(3, HOUR)]
SITUATIONS: Final = {
    "first save": Situation([], save(1, overwrite=False), 0, 1),
    "replaces": Situation([save(1)], save(2), 1, 2),
    "keeps, and removes what is due": Situation(KEPT, save(4, HOUR), 3, 4),
    "cleans": Situation([*KEPT, _orphans], clean, 3, 3),
    "replaces a stock checkpoint": Situation([_stock], save(2), 1, 2),
    "keeps a stock checkpoint": Situation([_stock], save(2, HOUR), 1, 2),
    "removes": Situation(KEPT, delete, 3, 0, sure=False),
    "removes a stock checkpoint": Situation([_stock], delete, 1, 0, sure=False),
}


def die_at(name: str, url: Path, number: int) -> None:
    """Be killed before the n-th step."""
    logging.disable()
    with file_steps.counted(url, number, _die):
        SITUATIONS[name].act(url)


@in_own_processes
def rank_dies_at(rank: int, url: Path, dying: int, number: int, keep: timedelta) -> int:
    """Replace the checkpoint, but one rank is killed before its n-th step; return how many steps this one took."""
    with file_steps.counted(url, number if rank == dying else -1, _die) as steps:
        programs.save(rank, str(url), None, 2, overwrite=True, keep_replaced=keep)
    return len(steps)


def _die(_name: str, _step: Callable[[], Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)

"""A folder of a store, what is done there in tests, and races of removals with loads and saves."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final

import torch

import dcp_engine
from dcp_engine.errors import CheckpointNotFound, SaveMismatch
from dcp_engine.stores.opening import open_store

NONE: Final = timedelta(0)
SIZE: Final = 70_000


@dataclass(frozen=True)
class Place:
    """A folder of a store, for one test."""

    url: str
    options: dict[str, Any] | None

    def at(self, name: str) -> "Place":
        return Place(f"{self.url}/{name}", self.options)

    def save(self, seed: int, **more: Any) -> str:
        state = {"w": torch.full((SIZE,), float(seed)), "step": seed}
        return dcp_engine.save(state, self.url, storage_options=self.options, no_dist=True, **more).save_id

    def load(self) -> int:
        """Return which seed's state is there; every value of it."""
        found: dict[str, Any] = {"w": torch.zeros(SIZE), "step": -1}
        dcp_engine.load(found, self.url, storage_options=self.options, no_dist=True)
        assert torch.equal(found["w"], torch.full((SIZE,), float(found["step"]))), "values of two saves"
        return int(found["step"])

    def delete(self, save_id: str | None = None, saved_by: str = "") -> Any:
        return dcp_engine.delete(self.url, save_id, saved_by=saved_by, storage_options=self.options)

    def files(self) -> list[str]:
        return sorted(entry.path for entry in open_store(self.url, self.options).list(""))

    def put(self, path: str, data: bytes = b"mine") -> None:
        open_store(self.url, self.options).write(path, [data], part_size=1 << 20, parallel=1)

    def listed(self) -> list[int | None]:
        return [each.step for each in dcp_engine.list_checkpoints(self.url, storage_options=self.options)]

    def latest(self) -> int | None:
        found = dcp_engine.latest(self.url, storage_options=self.options)
        return found.step if found else None


def raced(steps: list[Callable[[], object]], seed: int, spread: float = 0.004) -> list[object]:
    """Run steps at once, each up to `spread` seconds late; return what each came to."""
    barrier = threading.Barrier(len(steps))
    late = random.Random(seed)
    delays = [late.choice([0, late.random() * spread]) for _ in steps]

    def one(step: Callable[[], object], delay: float) -> object:
        barrier.wait(20)
        threading.Event().wait(delay)
        try:
            return step()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(steps)) as pool:
        return list(pool.map(one, steps, delays))


def race_loads(place: Place, rounds: int) -> dict[str, int]:
    """Remove under two loads, and return how many of these were whole, and how many found nothing."""
    ends = {"whole": 0, "gone": 0}
    for number in range(1, rounds + 1):
        save_id = place.save(number)
        removed, *loads = raced([partial(place.delete, save_id), place.load, place.load], number)
        assert not isinstance(removed, Exception), removed
        for found in loads:
            # Never another error, and never other values: `load` compares each.
            assert found == number or isinstance(found, CheckpointNotFound), found
            ends["whole" if found == number else "gone"] += 1
        assert place.files() == []
    return ends


def race_saves(place: Place, rounds: int) -> dict[str, int]:
    """Replace a checkpoint under its removal: whoever is first, the new one stands."""
    ends = {"removed": 0, "refused": 0}
    for number in range(1, rounds + 1):
        save_id = place.save(0, overwrite=True)
        replace = partial(place.save, number, overwrite=True, keep_replaced=NONE)
        removed, saved = raced([partial(place.delete, save_id), replace], number, 0.02)
        assert isinstance(saved, str), saved
        assert not isinstance(removed, Exception) or isinstance(removed, SaveMismatch), removed
        assert place.load() == number
        ends["refused" if isinstance(removed, SaveMismatch) else "removed"] += 1
    return ends

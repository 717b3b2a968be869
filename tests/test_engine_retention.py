"""A run that is saved, kept by rule, resumed and loaded at once: nobody loses what a rule or a reader keeps."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import pytest

import dcp_engine
from dcp_contract.retention import Retained, Retention, judge
from dcp_engine.errors import CheckpointNotFound
from engine_places import Place, raced

pytestmark = pytest.mark.tier("ranks")

KEEP: Final = Retention(last=2, every_steps=25)


@dataclass
class Turns:
    """Who reads and who removes what: as the operator's claims keep the two apart (`UrlUse`)."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _reads: list[str] = field(default_factory=list)
    _removes: set[str] = field(default_factory=set)

    @contextmanager
    def reading(self, url: str) -> Iterator[bool]:
        """Keep a URL for the block; give False where it is being removed."""
        with self._lock:
            mine = url not in self._removes
            self._reads += [url] * mine
        try:
            yield mine
        finally:
            with self._lock:
                if mine:
                    self._reads.remove(url)

    def remove(self, place: Place, verdicts_for: Retention) -> list[int]:
        """List a run, judge it, and remove what no rule and no reader keeps; return the steps that went."""
        listed = dcp_engine.list_checkpoints(place.url)
        with self._lock:
            run = [
                Retained(
                    url=each.url,
                    save_id=each.save_id,
                    step=each.step,
                    time=each.created_time,
                    readers=["a load"] * (each.url in self._reads),
                )
                for each in listed
            ]
            going = [each.checkpoint for each in judge(run, verdicts_for, datetime.now(UTC)) if not each.kept]
            self._removes |= {each.url for each in going}
        gone = [each.step or 0 for each in going if dcp_engine.delete(each.url, each.save_id)]
        with self._lock:
            self._removes -= {each.url for each in going}
        return gone


@pytest.mark.parametrize("rounds", [50, pytest.param(200, marks=pytest.mark.tier("matrix"))])
def test_a_retention_races_with_loads_of_its_run(tmp_path: Path, rounds: int) -> None:
    """A load that has its turn is whole. One that nobody knows of is whole, or finds nothing."""
    place, turns, chance = Place(str(tmp_path / "run"), None), Turns(), random.Random(1)
    ends = {"whole": 0, "not my turn": 0, "whole unasked": 0, "gone unasked": 0, "removed": 0}

    def load_in_turn(step: int) -> str:
        with turns.reading(place.at(f"step-{step}").url) as mine:
            if not mine:
                return "not my turn"
            assert place.at(f"step-{step}").load() == step
            return "whole"

    def resume() -> str:
        newest = place.latest()
        assert newest is not None
        try:
            assert place.at(f"step-{newest}").load() == newest
        except CheckpointNotFound:
            return "gone unasked"
        return "whole unasked"

    for step in range(1, rounds + 1):
        chosen = chance.choice(place.listed() or [step]) or 0
        place.at(f"step-{step}").save(step)
        removed, *loads = raced([partial(turns.remove, place, KEEP), partial(load_in_turn, chosen), resume], step)
        assert isinstance(removed, list), removed
        assert all(isinstance(each, str) for each in loads), loads
        ends["removed"] += len(removed)
        for end in loads:
            ends[str(end)] += 1
    turns.remove(place, KEEP)
    print(ends)
    kept = {rounds, rounds - 1, *range(25, rounds + 1, 25)}
    assert set(place.listed()) == kept
    assert ends["whole"] > 0
    assert 0 < ends["removed"] <= rounds - len(kept)

"""The budget of a training over a day of crashes: the operator is killed between any two writes, and quotas refuse."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_operator.controllers.disruption.budget import (
    Budget,
    CreateGuard,
    DeleteBudget,
    DeleteGuard,
    Guard,
    PutBudget,
    drop,
    keep,
    selecting,
)
from hypothesis_profile import examples
from scenes import at

LABELS: Final = {"app": "train"}
HOLD: Final = 60
ROUND: Final = 5


@dataclass
class Cluster:
    """What Kubernetes has and does: it starts Jobs, ends them in time, and removes with a Job what belongs to it."""

    second: int = 0
    jobs: list[Guard] = field(default_factory=list)
    budget: Budget | None = None
    made: int = 0

    def passes(self) -> None:
        self.second += ROUND
        now = at(self.second)
        started = [each if each.started is not None else replace(each, started=now) for each in self.jobs]
        self.jobs = [each for each in started if each.left(now) > timedelta(0)]
        if self.budget is not None and self.budget.guard not in {each.uid for each in self.jobs}:
            self.budget = None

    def round(self, *, held: bool, writes: int, quota: bool) -> None:
        """Have the operator look once; it is killed after so many writes."""
        now = at(self.second)
        actions = (
            keep(self.jobs, self.budget, 1, LABELS, timedelta(seconds=HOLD), now)
            if held
            else drop(self.jobs, self.budget)
        )
        for action in actions[:writes]:
            match action:
                case CreateGuard():
                    if not quota:
                        self.made += 1
                        lasts = timedelta(seconds=action.seconds)
                        made = Guard(name=str(action.number), uid=f"u{self.made}", number=action.number, lasts=lasts)
                        assert made.name not in {each.name for each in self.jobs}
                        self.jobs.append(made)
                case PutBudget():
                    self.budget = Budget(
                        name="b", uid="b", version="1", guard=action.guard.uid, minimum=1, selector=selecting(LABELS)
                    )
                case DeleteBudget():
                    self.budget = None
                case DeleteGuard():
                    self.jobs.remove(action.guard)
                    if self.budget is not None and self.budget.guard == action.guard.uid:
                        self.budget = None


TURNS: Final = st.tuples(st.booleans(), st.sampled_from([9, 9, 9, 9, 0, 1, 2]), st.sampled_from([False, False, True]))


@settings(max_examples=examples(100, 3000))
@given(st.lists(TURNS, max_size=60))
def test_whenever_the_operator_is_killed_the_budget_stands_again_and_goes_without_it(
    turns: Sequence[tuple[bool, int, bool]],
) -> None:
    cluster = Cluster()
    for held, writes, quota in turns:
        cluster.round(held=held, writes=writes, quota=quota)
        cluster.passes()
        assert len(cluster.jobs) <= 3
    # It is there for a while: the budget stands, and is never gone for a moment.
    stood = []
    for _ in range(3 * HOLD // ROUND):
        cluster.round(held=True, writes=9, quota=False)
        cluster.passes()
        stood.append(cluster.budget is not None)
    assert all(stood[3:])
    assert len(cluster.jobs) <= 2
    # It lets go, or it is gone.
    gone = replace(cluster, jobs=list(cluster.jobs))
    for _ in range(HOLD // ROUND):
        gone.passes()
    assert (gone.budget, gone.jobs) == (None, [])
    cluster.round(held=False, writes=9, quota=False)
    assert (cluster.budget, cluster.jobs) == (None, [])

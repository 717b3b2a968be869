"""Tiers: what a test needs decides which command runs it. `tests/conftest.py` gives pytest these hooks.

A file or a test says its tier with `pytest.mark.tier("ranks")`; nearer marks win, and who says nothing is `pure`. Each
test gets its tier as a plain marker, so that `pytest -m ranks` finds it. What every tier is for stands in TIERS.
"""

import gc
import re
import resource
import sys
from collections import Counter, defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import pytest

PURE: Final = "pure"
TIERS: Final = {
    PURE: "imports no torch, neither itself nor what it starts: `make test-fast`",
    "ranks": "the engine and the worker's ranks, with torch, on this machine's files or a server of this process",
    "pods": "whole launchers, `dcp run`, and the programs of a user",
    "faults": "servers of their own (versitygw, the clouds' stand-ins), stock DCP: `make test-faults`",
    "stacks": "training stacks, each in an environment of its own: `make test-stacks`",
    "matrix": "more cases of a rule that a daily tier proves with fewer: `make test-matrix`",
    "e2e": "needs the cluster that `make cluster` brings up",
    "e2e_long": "end to end, for minutes: `make e2e-long`, which no merge waits for",
}
_OF_FILE: Final = re.compile(r'^pytestmark = \[?\s*pytest\.mark\.tier\("(\w+)"\)', re.MULTILINE)
_ANYWHERE: Final = re.compile(r'pytest\.mark\.tier\("(\w+)"\)')
_LOADED: Final = "a pure test loads no torch, and after this one it is loaded: mark the test, or its file, tier(...)"

_seconds: Final[defaultdict[str, float]] = defaultdict(float)
_processor_seconds: Final[defaultdict[str, float]] = defaultdict(float)
_tests: Final[Counter[str]] = Counter()


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers; leave garbage alone until all tests are collected, of which nearly nothing is any."""
    gc.disable()
    config.addinivalue_line("markers", "tier(name): one of the tiers of tests/tiers.py")
    for name, meaning in TIERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave a file unread that has no test of the wanted tiers: reading it takes time, and may load torch."""
    if not collection_path.name.startswith("test_") or not collection_path.is_file():
        return None
    wanted = set(re.findall(r"\w+", config.option.markexpr)) - {"or"}
    if not wanted or not wanted <= TIERS.keys():
        return None  # an expression of other marks too
    return None if tiers_of_file(collection_path) & wanted else True


def tier_of_file(path: Path) -> str:
    """Return what a file says of all its tests."""
    found = _OF_FILE.search(path.read_text(encoding="utf-8"))
    return found[1] if found else PURE


def tiers_of_file(path: Path) -> set[str]:
    """Return the tiers that its tests may have."""
    return {tier_of_file(path), *_ANYWHERE.findall(path.read_text(encoding="utf-8"))}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test its one tier as a marker, before -m looks for it."""
    for item in items:
        mark = item.get_closest_marker("tier")
        name = mark.args[0] if mark else PURE
        if name not in TIERS:
            raise pytest.UsageError(f"{item.nodeid}: tier {name!r} is none of {', '.join(TIERS)}")
        if others := [each.name for each in item.iter_markers() if each.name in TIERS]:
            raise pytest.UsageError(f"{item.nodeid}: say tier({others[0]!r}), so that it has one tier and no two")
        item.add_marker(name)


def pytest_collection_finish() -> None:
    """Look for garbage from now on."""
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Refuse a file that says it is pure and loads torch when it is read."""
    before = _torch()
    report = yield
    if isinstance(collector, pytest.Module) and _torch() > before and tier_of_file(collector.path) == PURE:
        report.outcome = "failed"
        report.longrepr = _LOADED
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a pure test that has loaded torch, and note what each stage took of the processors."""
    report = yield
    started: dict[str, Any] = item.stash.setdefault(_STARTED, {})
    used = _used()
    took = (f"processor seconds, {call.when}", round(used - started.get("used", used), 2))
    item.user_properties.append(took)  # for the JUnit file, which is written of the last stage
    report.user_properties.append(took)
    started["used"] = used
    if item.get_closest_marker(PURE) and _torch() and not started["torch"] and report.passed:
        report.outcome = "failed"
        report.longrepr = _LOADED
        started["torch"] = True  # said once
    return report


_STARTED: Final = pytest.StashKey[dict[str, Any]]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Remember how things stood before the test."""
    item.stash[_STARTED] = {"used": _used(), "torch": _torch()}
    return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add a stage of a test up to its tier."""
    tier = next((name for name in TIERS if name in report.keywords), PURE)
    _seconds[tier] += report.duration
    _tests[tier] += report.when == "call"
    took = dict(report.user_properties)
    _processor_seconds[tier] += float(str(took.get(f"processor seconds, {report.when}", 0)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what each tier took."""
    for tier in (each for each in TIERS if _tests[each]):
        terminalreporter.write_line(
            f"{tier}: {_tests[tier]} tests, {_seconds[tier]:.0f} s, {_processor_seconds[tier]:.0f} s of a processor"
        )


def _torch() -> bool:
    return "torch" in sys.modules


def _used() -> float:
    """Return the processor seconds of this process and of its children that have ended."""
    both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in both)

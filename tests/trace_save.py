"""The route of one Save through the modules: `make trace-save`, or `python tests/trace_save.py [--beside COMMIT]`.

One Save is traced end to end: a Checkpoint is heard of and reconciled for the first time, against an API server in
memory; then its worker runs, with one rank and a local disk. What is counted is a call from a function of one of our
modules to a function of another, in order, by thread; loops are collapsed. A generator that goes on is not called
again. Packages are those of the second level, such as dcp_engine.transfer.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).resolve().parent
ROOTS = ("dcp_operator", "dcp_worker", "dcp_agent", "dcp_engine", "dcp_contract")
"""From the top layer down."""
LONGEST_LOOP = 12
T = TypeVar("T")
Call = tuple[str, str, str]


@dataclass(frozen=True)
class Tree:
    """A source tree: where its packages are, and which layer each package is of."""

    root: Path

    @property
    def path(self) -> str:
        return os.pathsep.join(str(self.root / each) for each in ("operator", "worker", "tests"))

    def package(self, module: str) -> str:
        """Return the package of the second level that a module is of; of a module outside of any, the first one."""
        parts = module.split(".")
        for base in ("operator", "worker"):
            if len(parts) > 1 and (self.root / base / parts[0] / parts[1] / "__init__.py").exists():
                return ".".join(parts[:2])
        return parts[0]

    def levels(self) -> dict[str, tuple[int, int]]:
        """Return name of the second level -> its place among the layers, from the top down; {} where there are none."""
        found = {}
        contracts = tomllib.loads((self.root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
        for contract in contracts:
            for container in contract.get("containers", ()):
                if container in ROOTS:
                    for level, layer in enumerate(contract["layers"]):
                        for name in layer.replace("(", "").replace(")", "").split("|"):
                            found[f"{container}.{name.strip()}"] = (ROOTS.index(container), level)
        return found


def collapsed(items: Sequence[T]) -> list[T]:
    """Return the items without the repetitions of what has just been."""
    found: list[T] = []
    for item in items:
        found.append(item)
        for length in range(1, LONGEST_LOOP + 1):
            if len(found) >= 2 * length and found[-length:] == found[-2 * length : -length]:
                del found[-length:]
                break
    return found


def is_up(levels: Mapping[str, tuple[int, int]], one: str, other: str) -> bool:
    """Return whether a call goes from a module to one of a layer above: a callback, or an iterator that is drawn on."""
    here, there = (levels.get(".".join(each.split(".")[:2])) for each in (one, other))
    return here is not None and there is not None and here > there


@dataclass(frozen=True)
class Route:
    """The calls of one stretch, by thread."""

    name: str
    threads: list[list[Call]]

    def modules(self) -> set[str]:
        return {module for calls in self.threads for call in calls for module in call[:2] if module}

    def moves(self, names: Any = str) -> list[tuple[str, str]]:
        """Return the moves between what `names` makes of modules, loops collapsed by thread."""
        found: list[tuple[str, str]] = []
        for calls in self.threads:
            named = [(names(one), names(other)) for one, other, _ in calls if one]
            found += collapsed([move for move in named if move[0] != move[1]])
        return found


def traced(tree: Tree) -> list[Route]:
    """Run one Save of a tree's own code in processes of its own and return its route."""
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "notes"
        notes.mkdir()
        environment = {
            **os.environ,
            "DCP_TRACE": str(notes),
            "PYTHONPATH": os.pathsep.join([str(HERE / "tracing"), tree.path]),
        }
        command = [sys.executable, "-P", __file__, "--run", folder]
        subprocess.run(command, env=environment, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        stretches = {"operator": "event to Job and status", "launcher": "launcher", "rank": "rank"}
        return [
            Route(title, [calls for path in sorted(notes.glob(f"{name}-*.json")) for calls in threads(path)])
            for name, title in stretches.items()
        ]


def threads(path: Path) -> list[list[Call]]:
    return [[(one, other, name) for one, other, name in calls] for calls in json.loads(path.read_text()).values()]


def run(folder: Path) -> None:
    """Reconcile a Checkpoint and run its worker; the notes are taken by `tracing/sitecustomize.py`."""
    import asyncio

    # As they are in the tree that is traced.
    fake_api, scenes, worker_process, tracer = map(
        importlib.import_module, ("fake_api", "scenes", "worker_process", "sitecustomize")
    )
    api = fake_api.FakeApi()
    api.add(fake_api.CHECKPOINTS, scenes.manifest())
    # An earlier tree has another name for the type, and fewer fields.
    kind = fake_api.ObjectKey if hasattr(fake_api, "ObjectKey") else fake_api.Key
    fields = {"namespace": "team", "name": "save-1000", "kind": "Checkpoint"}
    key = kind(*(fields[each] for each in kind._fields))
    tracer.start("operator")
    reconciler = fake_api.reconciling(api)
    asyncio.run(reconciler(key))
    tracer.write("operator")
    assert fake_api.status(api, key)["phase"] == "Starting"
    # A launcher of its own, which reads `sitecustomize`; an earlier tree starts no others.
    ran = getattr(worker_process, "ran_anew", worker_process.ran)
    report = ran(worker_process.task(folder / "checkpoint"), folder / "pod")
    assert report.result == "Saved", report


@contextmanager
def checkout(commit: str) -> Iterator[Tree]:
    """Give a commit's tree in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", commit], cwd=HERE.parent, capture_output=True, check=True)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Tree(Path(folder))


def calls_up(tree: Tree, routes: Sequence[Route]) -> set[tuple[str, str]]:
    """Return the pairs of modules between which a call goes up."""
    levels = tree.levels()
    return {call[:2] for route in routes for calls in route.threads for call in calls if is_up(levels, *call[:2])}


def figures(tree: Tree, routes: Sequence[Route]) -> dict[str, Any]:
    """Return what is counted of one Save."""
    modules = set().union(*(route.modules() for route in routes))
    between = [move for route in routes for move in route.moves(tree.package)]
    found: dict[str, Any] = {}
    for route in routes:
        found[f"{route.name}: modules, moves"] = f"{len(route.modules())}, {len(route.moves())}"
    return found | {
        "packages entered": len({tree.package(each) for each in modules}),
        "moves between packages": len(between),
        "pairs of modules with a call up": len(calls_up(tree, routes)) if tree.levels() else "no layers",
        "modules entered": len(modules),
        "moves between modules": sum(len(route.moves()) for route in routes),
    }


def print_route(tree: Tree, routes: Sequence[Route]) -> None:
    for route in routes:
        print(f"\n{route.name}")
        for calls in route.threads:
            steps = collapsed([call for call in calls if call[0]])
            before = ""
            for one, other, name in steps:
                print(f"  {one if one != before else '':45} > {other}: {name}")
                before = one
    levels = tree.levels()
    every = [call for route in routes for calls in route.threads for call in calls]
    up = Counter(call for call in every if is_up(levels, *call[:2]))
    print("\ncalls up, to a module of a layer above: callbacks, and iterators that are drawn on")
    for (one, other, name), count in sorted(up.items()):
        print(f"  {one} > {other}: {name} ({count}x)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", metavar="COMMIT", help="trace the tree of a commit, too, and print both")
    parser.add_argument("--figures", action="store_true", help="print the figures alone, without the route")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        run(given.run)
        return
    tree = Tree(HERE.parent)
    routes = traced(tree)
    columns = [("now", figures(tree, routes))]
    if given.beside:
        with checkout(given.beside) as other:
            columns.insert(0, (given.beside, figures(other, traced(other))))
    if not given.figures:
        print_route(tree, routes)
    print(f"\n{'':45}" + "".join(f"{name:>12}" for name, _ in columns))
    for name in columns[-1][1]:
        print(f"{name:45}" + "".join(f"{column[name]:>12}" for _, column in columns))


if __name__ == "__main__":
    main()

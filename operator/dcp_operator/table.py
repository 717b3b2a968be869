"""The table that `kubectl get checkpoints` shows, for objects that never saw a cluster: same columns, same strings."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from dcp_operator.conditions import human_duration, human_ranks
from dcp_operator.spec import Checkpoint
from dcp_operator.view import STYLES

Cell = Callable[[Mapping[str, Any]], object]


def _at(*path: str) -> Cell:
    def cell(body: Mapping[str, Any]) -> object:
        value: Any = body
        for key in path:
            value = (value or {}).get(key)
        return value

    return cell


def _age(body: Mapping[str, Any]) -> str:
    created = datetime.fromisoformat(body["metadata"]["creationTimestamp"])
    return human_duration(int((datetime.now(UTC) - created).total_seconds()))


COLUMNS: Final[Mapping[str, Cell]] = {
    "Name": _at("metadata", "name"),
    "Operation": _at("spec", "operation"),
    "Phase": _at("status", "phase"),
    "Step": _at("status", "checkpoint", "step"),
    "Size": _at("status", "size"),
    "Duration": _at("status", "duration"),
    "Reason": _at("status", "reason"),
    "Age": _age,
}
WIDE: Final[Mapping[str, Cell]] = {
    "Ranks": _at("status", "ranks"),
    "Throughput": _at("status", "throughput"),
    "URL": _at("spec", "storage", "url"),
}


def results(bodies: Iterable[Mapping[str, Any]], *, wide: bool) -> Table:
    """Return the printer columns of objects with a status."""
    columns = {**COLUMNS, **WIDE} if wide else COLUMNS
    table = _table(columns)
    for body in bodies:
        cells = [Text("" if (value := cell(body)) is None else str(value)) for cell in columns.values()]
        table.add_row(*cells, style=STYLES.get(body["status"]["phase"]))
    return table


def rehearsal(checkpoints: Iterable[Checkpoint]) -> Table:
    """Return what would run, in order."""
    table = _table(["Name", "Operation", "Ranks", "Strategy", "Device", "Overwrite", "Entrypoint", "URL"])
    for checkpoint in checkpoints:
        spec = checkpoint.spec
        modelled = spec.workload is not None
        table.add_row(
            *map(
                Text,
                (
                    checkpoint.name,
                    spec.operation,
                    human_ranks(spec.workers),
                    spec.parallelism.strategy if modelled else "",
                    spec.workers.device,
                    "true" if spec.storage.overwrite else "",
                    spec.workload.entrypoint if spec.workload is not None else "",
                    spec.storage.url,
                ),
            )
        )
    return table


def _table(columns: Iterable[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table

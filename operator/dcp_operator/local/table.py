"""The table that `kubectl get checkpoints` shows, for objects that never saw a cluster: same columns, same strings."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from dcp_operator.api.checkpoint.printer_columns import PRINTER_COLUMNS, PrinterColumn
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.text import human_duration, human_ranks
from dcp_operator.local.view import STYLES


def results(bodies: Iterable[Mapping[str, Any]], *, wide: bool) -> Table:
    """Return the printer columns of objects with a status."""
    columns = [each for each in PRINTER_COLUMNS if wide or not each.wide]
    table = _table(["Name", *(each.name for each in columns)])
    for body in bodies:
        cells = [body["metadata"]["name"], *(_cell(body, each) for each in columns)]
        table.add_row(*map(Text, cells), style=STYLES.get(body["status"]["phase"]))
    return table


def _cell(body: Mapping[str, Any], column: PrinterColumn) -> str:
    value: Any = body
    for key in column.path.removeprefix(".").split("."):
        value = (value or {}).get(key)
    if value is not None and column.kind == "date":
        return human_duration(int((datetime.now(UTC) - datetime.fromisoformat(value)).total_seconds()))
    return "" if value is None else str(value)


def rehearsal(checkpoints: Iterable[Checkpoint]) -> Table:
    """Return what would run, in order."""
    table = _table(["Name", "Operation", "Ranks", "Strategy", "Device", "IfExists", "Entrypoint", "URL"])
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
                    spec.of_save.if_exists if spec.operation.traits.writes else "",
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

"""The columns of `kubectl get checkpoints`: the CRD declares them, and `dcp run` prints the same ones."""

from typing import Final, NamedTuple


class PrinterColumn(NamedTuple):
    """One column: its heading, the type of its values, and where in the object they stand."""

    name: str
    kind: str
    path: str
    """A JSON path, such as `.status.phase`."""
    wide: bool = False
    """Whether only `-o wide` shows it."""


PRINTER_COLUMNS: Final = (
    PrinterColumn("Operation", "string", ".spec.operation"),
    PrinterColumn("Phase", "string", ".status.phase"),
    PrinterColumn("Step", "integer", ".status.checkpoint.step"),
    PrinterColumn("Size", "string", ".status.size"),
    PrinterColumn("Duration", "string", ".status.duration"),
    PrinterColumn("Reason", "string", ".status.reason"),
    PrinterColumn("Age", "date", ".metadata.creationTimestamp"),
    PrinterColumn("Ranks", "string", ".status.ranks", wide=True),
    PrinterColumn("Throughput", "string", ".status.throughput", wide=True),
    PrinterColumn("Entries", "string", ".status.entries", wide=True),
    PrinterColumn("URL", "string", ".spec.storage.url", wide=True),
    PrinterColumn("Target", "string", ".status.target.name", wide=True),
)

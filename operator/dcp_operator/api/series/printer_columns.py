"""The columns of `kubectl get checkpointseries`."""

from typing import Final

from dcp_operator.api.checkpoint.printer_columns import PrinterColumn

PRINTER_COLUMNS: Final = (
    PrinterColumn("Schedule", "string", ".status.schedule"),
    PrinterColumn("State", "string", '.status.conditions[?(@.type=="Ready")].reason'),
    PrinterColumn("Active", "integer", ".status.activeCount"),
    PrinterColumn("Succeeded", "date", ".status.lastSuccessfulTime"),
    PrinterColumn("Step", "integer", ".status.latest.step"),
    PrinterColumn("Next", "string", ".status.next"),
    PrinterColumn("Age", "date", ".metadata.creationTimestamp"),
    PrinterColumn("Begun", "date", ".status.lastScheduleTime", wide=True),
    PrinterColumn("Kept", "integer", ".status.retention.keptCount", wide=True),
    PrinterColumn("Removed", "integer", ".status.retention.removedCount", wide=True),
    PrinterColumn("Missed", "integer", ".status.missed.count", wide=True),
    PrinterColumn("Failed", "string", ".status.lastFailure.reason", wide=True),
    PrinterColumn("Latest", "string", ".status.latest.url", wide=True),
)

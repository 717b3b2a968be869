"""The columns of `kubectl get checkpointstores`."""

from typing import Final

from dcp_operator.api.checkpoint.printer_columns import PrinterColumn

PRINTER_COLUMNS: Final = (
    PrinterColumn("URL", "string", ".spec.url"),
    PrinterColumn("Access", "string", ".spec.accessMode"),
    PrinterColumn("Available", "string", '.status.conditions[?(@.type=="Available")].status'),
    PrinterColumn("Reason", "string", '.status.conditions[?(@.type=="Available")].reason'),
    PrinterColumn("Default", "string", '.status.conditions[?(@.type=="Default")].status'),
    PrinterColumn("Validated", "date", ".status.lastValidationTime"),
    PrinterColumn("Age", "date", ".metadata.creationTimestamp"),
    PrinterColumn("Create-Guard", "string", ".status.guards.create", wide=True),
    PrinterColumn("Replace-Guard", "string", ".status.guards.replace", wide=True),
    PrinterColumn("Versioning", "string", ".status.versioning", wide=True),
    PrinterColumn("Object-Lock", "string", ".status.objectLock", wide=True),
    PrinterColumn("Validation", "string", ".status.validation", wide=True),
)

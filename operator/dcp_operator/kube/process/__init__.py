"""The operator's process: its parts, its settings, its Lease, its pages."""

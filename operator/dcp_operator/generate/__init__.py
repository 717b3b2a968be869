"""Writes what the repository keeps generated: CRD, admission policies, a pod's fields, and docs/reference."""

"""Writes what the repository keeps generated: the CRD, the admission policies, the table of a pod's fields."""

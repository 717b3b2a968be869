"""Collective steps: every rank raises the same error, and it names the rank that failed first."""

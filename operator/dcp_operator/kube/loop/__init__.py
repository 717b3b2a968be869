"""The control loop: each key of the work queue is reconciled."""

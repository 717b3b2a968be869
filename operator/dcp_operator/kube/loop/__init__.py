"""The control loop: watches feed a queue, and each key of the queue is reconciled."""

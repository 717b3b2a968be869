"""Whether a pod of a training may be evicted now, or waits for a save first."""

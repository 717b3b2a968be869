"""What follows for a CheckpointStore: (store, its validation, the others, status, now) -> actions, status, events."""

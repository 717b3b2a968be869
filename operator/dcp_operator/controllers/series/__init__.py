"""What follows for a CheckpointSeries: (series, its Checkpoints, status, now) -> actions, status, events. Pure."""

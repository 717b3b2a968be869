"""The CheckpointSeries object: spec, schedule, status, and what the API server refuses of it. Pure."""

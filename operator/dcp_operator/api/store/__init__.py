"""The CheckpointStore object: spec, status, and what the API server refuses of it. Pure."""

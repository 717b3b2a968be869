"""What follows for a Checkpoint: (spec, observed, now) -> actions, status, events, and when to look again. Pure."""

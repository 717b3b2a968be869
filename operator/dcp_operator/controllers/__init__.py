"""What follows: (spec, observed, now) -> actions, status, events, and when to look again. Pure."""

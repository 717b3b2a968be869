"""What follows for a deleted Checkpoint whose data go with it: (what it saved, its Delete, now) -> actions. Pure."""

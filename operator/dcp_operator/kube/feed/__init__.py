"""What keeps the view current: lists at the start, watches from then on, a resync for what a watch has lost."""

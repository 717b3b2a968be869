"""Bytes between the state of the ranks and the files of a checkpoint: planned, moved, checked."""

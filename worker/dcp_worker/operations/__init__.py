"""What the ranks do with a checkpoint."""

"""The commands of `dcp` that look at checkpoints, copy, export and remove them."""

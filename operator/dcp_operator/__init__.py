"""The control plane: what a Checkpoint asks for, what is observed, what follows. Loads neither torch nor fsspec."""

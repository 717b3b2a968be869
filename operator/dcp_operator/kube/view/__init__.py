"""What the cluster holds, as the watches have shown it."""

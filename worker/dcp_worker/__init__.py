"""The data plane: ranks that save and load with `torch.distributed.checkpoint`. Knows nothing of Kubernetes."""

"""The edge to Kubernetes: gather from watches, act through the one writer, report; runs the operator's process."""

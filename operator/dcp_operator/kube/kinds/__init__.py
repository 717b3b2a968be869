"""The kinds that the operator serves, as pure code: all that the edge to Kubernetes knows of them."""

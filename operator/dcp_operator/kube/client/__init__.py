"""The Kubernetes API: requests, their refusals, whose an object is, and the one module that writes."""

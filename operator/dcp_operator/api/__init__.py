"""The Checkpoint object: spec, status, conditions, names, and the CRD that says all of it to the API server. Pure."""

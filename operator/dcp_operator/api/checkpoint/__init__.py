"""The Checkpoint: spec, status, conditions and the rules of its CRD. Pure."""

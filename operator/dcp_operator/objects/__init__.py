"""The objects of an attempt: Job, Service, NetworkPolicy, pod template. Deterministic builders."""

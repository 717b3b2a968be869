"""Checkpoints with a target, good and bad: the operator's own check and the API server's are held to these."""

from typing import Any, Final

TARGETED: Final = {
    "spec.workload": None,
    "spec.workers": None,
    "spec.storage": None,
    "spec.target": {"kind": "Job", "name": "train"},
}
"""What makes the usual manifest one with a target."""

REFUSED: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "a workload": ({"spec.workload": {"entrypoint": "a:B"}}, "spec.workload: the training of spec.target has its own"),
    "credentials": (
        {"spec.storage": {"credentialsSecretRef": {"name": "x"}}},
        "spec.storage.credentialsSecretRef: the",
    ),
    "a CA": ({"spec.storage": {"caSecretRef": {"name": "x"}}}, "spec.storage.caSecretRef: the training"),
    "options": ({"spec.storage": {"options": {"region": "x"}}}, "spec.storage.options: the training"),
    "workers": (
        {"spec.workers": {"numNodes": 2}},
        "spec.workers: the training of spec.target has its own; drop workers",
    ),
    "a podTemplate of nothing": (
        {"spec.workers": {"podTemplate": {}}},
        "spec.workers: the training of spec.target has",
    ),
    "no options": ({"spec.storage": {"options": {}}}, "spec.storage.options: the training"),
    "the latest of a series": (
        {"spec.storage": {"latestOf": {"series": "x"}}},
        "spec.storage.latestOf: is for a Load or a Verify",
    ),
    "parallelism": ({"spec.parallelism": {"strategy": "ddp"}}, "spec.parallelism: the training"),
    "steps": ({"spec.save": {"steps": 3}}, "spec.save.steps: the training"),
    "a source": ({"spec.save": {"from": {"url": "s3://b/x"}}}, "spec.save.from: the training"),
    "load": ({"spec.load": {"strict": False}}, "spec.load: the training"),
    "a Load": ({"spec.operation": "Load"}, "spec.target: is for a Save, and this is a Load; drop it"),
    "nothing": ({"spec.target": {}}, "spec.target: names no training"),
    "no name": ({"spec.target": {"kind": "Job"}}, "spec.target: names no training"),
    "both": (
        {"spec.target": {"kind": "Job", "name": "x", "selector": {"matchLabels": {"a": "b"}}}},
        "spec.target: has a selector, and kind or name; write one of them",
    ),
    "no label": (
        {"spec.target": {"selector": {"matchLabels": {"a,b": "c"}}}},
        "matchLabels.a,b: is no name of a label",
    ),
    "a bad URL": ({"spec.storage": {"url": "s3://b/../x"}}, "spec.storage.url: is not a plain URL"),
    "neither": ({"spec.target": None, "spec.storage": {"url": "s3://b/x"}}, "for a Save, or a target"),
    "no URL": ({"spec.target": None, "spec.workload": {"entrypoint": "a:B"}}, "spec.storage.url: is missing"),
}
"""What is changed of that, and what the operator says."""
JUDGED_BY_THE_OPERATOR: Final = {"no label", "a bad URL"}
"""What CEL can't see, or says in other words."""
TAKEN: Final[dict[str, dict[str, Any]]] = {
    "a Job": {},
    "a selector": {"spec.target": {"selector": {"matchLabels": {"app": "train", "a.b/c": "d"}}}},
    "a TrainJob": {"spec.target": {"kind": "TrainJob", "name": "train"}},
    "a URL": {"spec.storage": {"url": "s3://bucket/run/mine"}},
    "a file": {"spec.storage": {"url": "file:///mnt/run/mine"}},
    "replacing": {"spec.save": {"ifExists": "Replace"}},
    "a run": {"spec.runId": "again", "spec.timeouts": {"activeSeconds": 60}, "spec.suspend": True},
}

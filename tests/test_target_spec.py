"""What a Checkpoint with a target may say, and which pods it means."""

from collections.abc import Mapping
from typing import Any

import pytest

from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.problems import SpecError
from dcp_operator.api.site import LOCAL
from scenes import manifest
from target_cases import REFUSED, TAKEN, TARGETED


def save(changes: Mapping[str, Any] | None = None) -> Checkpoint:
    return parse(manifest({**TARGETED, **(changes or {})}))


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_training_has_of_its_own_is_refused(name: str) -> None:
    changes, line = REFUSED[name]
    with pytest.raises(SpecError) as caught:
        save(changes)
    assert [each for each in caught.value.problems if line in each], caught.value.problems


@pytest.mark.parametrize("name", TAKEN)
def test_what_may_be_said_of_a_target_is_taken(name: str) -> None:
    assert save(TAKEN[name]).spec.target is not None


def test_a_target_is_of_a_cluster() -> None:
    with pytest.raises(SpecError, match="names a training in a cluster"):
        parse(manifest(TARGETED), site=LOCAL)


@pytest.mark.parametrize(
    ("target", "selector", "shown"),
    [
        ({"kind": "Job", "name": "a"}, "batch.kubernetes.io/job-name=a", "Job a"),
        ({"kind": "JobSet", "name": "a"}, "jobset.sigs.k8s.io/jobset-name=a", "JobSet a"),
        ({"kind": "TrainJob", "name": "a"}, "jobset.sigs.k8s.io/jobset-name=a", "TrainJob a"),
        ({"kind": "PyTorchJob", "name": "a"}, "training.kubeflow.org/job-name=a", "PyTorchJob a"),
        ({"selector": {"matchLabels": {"x/b": "2", "a": "1"}}}, "a=1,x/b=2", "pods with a=1,x/b=2"),
    ],
)
def test_which_pods_are_meant(target: dict[str, Any], selector: str, shown: str) -> None:
    found = save({"spec.target": target}).spec.target
    assert found is not None
    assert (found.label_selector, str(found)) == (selector, shown)

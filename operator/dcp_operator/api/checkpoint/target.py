"""A training that runs already, by its pods: those of a workload's controller, or those that labels select."""

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import Field, ValidationError

from dcp_contract.message import Wire

LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
WorkloadName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
_LABEL_KEY: Final = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


class TargetKind(StrEnum):
    """Which controller's pods are meant."""

    JOB = "Job"
    JOB_SET = "JobSet"
    TRAIN_JOB = "TrainJob"
    PYTORCH_JOB = "PyTorchJob"


_LABELS: Final = {
    TargetKind.JOB: "batch.kubernetes.io/job-name",
    TargetKind.JOB_SET: "jobset.sigs.k8s.io/jobset-name",
    # A TrainJob makes a JobSet of its own name.
    TargetKind.TRAIN_JOB: "jobset.sigs.k8s.io/jobset-name",
    TargetKind.PYTORCH_JOB: "training.kubeflow.org/job-name",
}
"""The label that each controller puts on its pods, with its object's name."""


class LabelSelector(Wire):
    """Pods by their labels."""

    match_labels: dict[str, LabelValue] = Field(
        min_length=1, max_length=8, description="Labels that every pod of the training has, and no other pod."
    )


class Target(Wire):
    """A training that runs already, in the Checkpoint's own namespace: by a selector, or by kind and name."""

    kind: TargetKind | None = Field(
        default=None, description="Whose pods train, with name: Job, JobSet, TrainJob or PyTorchJob."
    )
    name: WorkloadName | None = Field(default=None, description="Name of the object of that kind.")
    selector: LabelSelector | None = Field(
        default=None, description="The pods that train, by their labels; in place of kind and name."
    )

    @classmethod
    def read(cls, said: object) -> Self | None:
        """Return the target that a spec names; None where that makes no sense."""
        try:
            return cls.model_validate(said)
        except ValidationError:
            return None

    @property
    def labels(self) -> dict[str, str]:
        """The labels that its pods have."""
        if self.selector is not None:
            return self.selector.match_labels
        return {_LABELS[self.kind]: self.name} if self.kind is not None and self.name is not None else {}

    @property
    def label_selector(self) -> str:
        """The selector, as a query of the Kubernetes API has it."""
        return ",".join(f"{key}={value}" for key, value in sorted(self.labels.items()))

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Return whether a pod with these labels is one of its own."""
        return bool(self.labels) and self.labels.items() <= labels.items()

    def __str__(self) -> str:
        """Return how a person names it."""
        return f"{self.kind} {self.name}" if self.selector is None else f"pods with {self.label_selector}"

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with it, in lines `field: what is wrong; write ...`."""
        if self.selector is not None and (self.kind is not None or self.name is not None):
            yield "spec.target: has a selector, and kind or name; write one of them"
        elif self.selector is None and (self.kind is None or self.name is None):
            yield "spec.target: names no training; write kind and name, or selector: {matchLabels: {...}}"
        for key in self.selector.match_labels if self.selector is not None else ():
            if not _LABEL_KEY.fullmatch(key):
                yield f"spec.target.selector.matchLabels.{key}: is no name of a label; write one such as app or a.b/c"

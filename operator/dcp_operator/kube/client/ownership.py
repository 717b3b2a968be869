"""Whose an object is: the one check by which it is taken in, adopted and deleted.

Labels, names and owner references are free for an object's author to write, and the operator may delete what its author
may not. So an attempt is only a Job that the Checkpoint controls and that has the very name that we would have given
it; its Service and its NetworkPolicy are only what the Checkpoint controls; its Pods what such a Job controls.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import ATTEMPT_LABEL, JOB_LABEL, RUN_LABEL, job_name
from dcp_operator.controllers.checkpoint.pods import shared
from dcp_operator.kube.client.api import CHECKPOINTS, JOBS, Resource


def controller(body: Body) -> Mapping[str, Any]:
    """Return the owner reference of the object's controller; an empty mapping where it has none."""
    owners = body["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller") is True), {})


def controlled_by(body: Body, resource: Resource, uid: str) -> bool:
    """Return whether the object's controller is of that kind, in any version of its group, and has that uid."""
    owner = controller(body)
    return bool(uid) and owner.get("uid") == uid and _is(owner, resource)


def is_attempt(job: Body, name: str, uid: str) -> bool:
    """Return whether a Job is an attempt of the Checkpoint that has this name and uid."""
    return controlled_by(job, CHECKPOINTS, uid) and job["metadata"]["name"] == _due_name(job, name, uid)


class Membership(NamedTuple):
    """Of which attempt a Pod says to be a worker; the same for all of its Pods."""

    job: str
    job_uid: str
    run_id: str
    number: int

    @classmethod
    def of(cls, pod: Body) -> "Membership | None":
        """Return what a Pod says; None where its controller is no Job, or another than its label names."""
        owner, labels = controller(pod), _labels(pod)
        job, number = labels.get(JOB_LABEL, ""), labels.get(ATTEMPT_LABEL, "")
        if not _is(owner, JOBS) or owner.get("name") != job or not number.isdecimal():
            return None
        return cls(shared(job), shared(owner.get("uid", "")), shared(labels.get(RUN_LABEL, "")), int(number))

    def holds(self, name: str, uid: str, job_uid: str | None) -> bool:
        """Return whether that is an attempt of the Checkpoint that has this name and uid.

        Args:
            name: Of the Checkpoint.
            uid: Of the Checkpoint.
            job_uid: Of the Job of that name; None where it is gone. Then nobody is left to ask: a Pod that makes up a
                controller is removed by the cluster's garbage collector.
        """
        if self.number < 1 or self.job != job_name(name, uid, self.run_id, self.number):
            return False
        return job_uid is None or self.job_uid == job_uid


def same_attempt(one: Body, other: Body) -> bool:
    """Return whether two objects are of one attempt: their controller and what their labels say of it are the same."""
    ours = controller(one)
    if not ours or not controlled_by(other, CHECKPOINTS, ours["uid"]):
        return False
    return all(_labels(one).get(key) == _labels(other).get(key) for key in (RUN_LABEL, ATTEMPT_LABEL))


def _is(owner: Mapping[str, Any], resource: Resource) -> bool:
    return owner.get("kind") == resource.kind and _group(owner.get("apiVersion", "")) == _group(resource.api_version)


def _group(api_version: str) -> str:
    return api_version.rpartition("/")[0]


def _due_name(body: Body, name: str, uid: str) -> str:
    """Return the name that the Job of the attempt has, of which the object's labels speak; empty where they don't."""
    labels = _labels(body)
    number = labels.get(ATTEMPT_LABEL, "")
    if not (number.isdecimal() and int(number) > 0):
        return ""
    return job_name(name, uid, labels.get(RUN_LABEL, ""), int(number))


def _labels(body: Body) -> Mapping[str, str]:
    return body["metadata"].get("labels") or {}

"""Whose an object is: the one check by which it is taken in, adopted and deleted.

Labels, names and owner references are free for an object's author to write, and the operator may delete what its author
may not. So an object belongs to a Checkpoint (or to another object that is served) only if that is its controller and
it has the very name that we would have given it; a Pod only if its controller is a Job that belongs to it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from dcp_operator.api.bodies import shared
from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.naming import ATTEMPT_LABEL, GROUP, JOB_LABEL, RUN_LABEL, job_name
from dcp_operator.kube.client.api import Resource


class Owner(NamedTuple):
    """An object that others may belong to."""

    resource: Resource
    name: str
    uid: str


class Claimed(NamedTuple):
    """Whose an object says to be, by its controller reference and its labels. All Pods of an attempt say the same."""

    group: str
    kind: str
    """Of its controller, in whatever version; empty where it has none."""
    uid: str
    name: str
    job: str
    """Of the Job that its label names."""
    run_id: str
    number: int
    """Of the attempt that its labels name; 0 where they name none."""

    @classmethod
    def of(cls, body: ReadBody) -> "Claimed":
        """Return what a body says."""
        owner, labels = controller(body), body["metadata"].get("labels") or {}
        number, job, name = labels.get(ATTEMPT_LABEL, ""), labels.get(JOB_LABEL, ""), body["metadata"].get("name", "")
        return cls(
            shared(_group(owner.get("apiVersion", ""))),
            shared(owner.get("kind", "")),
            owner.get("uid", ""),
            owner.get("name", ""),
            # Of a Job it is its own name, which is kept anyway.
            name if job == name else job,
            labels.get(RUN_LABEL, ""),
            int(number) if number.isdecimal() else 0,
        )

    @property
    def attempt(self) -> tuple[str, int]:
        """Run and number of the attempt that the labels name."""
        return self.run_id, self.number

    def due_name(self, owner: Owner) -> str:
        """Return the name that an object of that attempt has by its owner; empty where the labels name no attempt."""
        return job_name(owner.name, owner.uid, self.run_id, self.number) if self.number > 0 else ""


def belongs(
    claimed: Claimed, name: str, owner: Owner, through: Resource | None = None, by: Mapping[str, str] | None = None
) -> bool:
    """Return whether an object belongs to an owner.

    Args:
        claimed: Whose the object says to be.
        name: The object's own name.
        owner: Whose it may be.
        through: The resource of its controller, where that is not the owner itself but belongs to it.
        by: With `through`, the uids of the objects of that resource that are the owner's, by name. Where the
            controller is not among them it is gone, and nobody is left to ask: an object that makes up a controller is
            removed by the cluster's garbage collector.
    """
    due = claimed.due_name(owner)
    if not due or not owner.uid:
        return False
    if through is None:
        return name == due and claimed.uid == owner.uid and _is(claimed, owner.resource)
    held = (by or {}).get(due, claimed.uid)
    return claimed.job == claimed.name == due and claimed.uid == held and _is(claimed, through)


def controlled(body: ReadBody, owner: Owner) -> bool:
    """Return whether an object has an owner for its controller: a Checkpoint that has is a run of that series."""
    claimed = Claimed.of(body)
    return bool(owner.uid) and claimed.uid == owner.uid and _is(claimed, owner.resource)


def controller(body: ReadBody) -> Mapping[str, Any]:
    """Return the owner reference of the object's controller; an empty mapping where it has none."""
    owners = body["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller") is True), {})


def kept_owners(body: ReadBody) -> dict[str, Any]:
    """Return of an object's metadata what says that an object of ours is its controller; nothing where none is."""
    owner = controller(body)
    ours = _group(str(owner.get("apiVersion", ""))) == GROUP
    return {"ownerReferences": [owner]} if ours else {}


def _is(claimed: Claimed, resource: Resource) -> bool:
    return claimed.kind == resource.kind and claimed.group == _group(resource.api_version)


def _group(api_version: str) -> str:
    return api_version.rpartition("/")[0]

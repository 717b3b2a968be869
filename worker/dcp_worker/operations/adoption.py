"""Whether a Save takes over what stands at its URL: namespace, name, spec and cluster of who saved it have to match.

What does not match is told by both values. A second cluster with the same manifests must not take another one's data
for its own, and a Save of a spec that was changed must not take old data for new.
"""

from collections.abc import Iterator

from dcp_contract.checkpoint_info import CheckpointInfo, Conflict, Provenance
from dcp_contract.task import Task
from dcp_engine.errors import CheckpointExists


class NotAdopted(CheckpointExists):
    """A committed checkpoint stands at the URL, and it is none that this Save may take over."""

    def __init__(self, found: CheckpointInfo, differences: list[str]) -> None:
        self.message = f"The checkpoint at {found.url} is not adopted: {'; '.join(differences)}"
        super(CheckpointExists, self).__init__(self.message)
        self.conflict = Conflict(
            save_id=found.save_id, origin=found.origin, created_time=found.created_time, message=self.message
        )


def differences(task: Task, found: CheckpointInfo) -> Iterator[str]:
    """Yield what keeps a checkpoint from being taken over, each with both values; nothing where it may be."""
    ours, theirs = task.origin, found.origin
    if theirs is None or not theirs.name:
        yield "no Checkpoint object is known to have saved it"
        return
    if not isinstance(theirs, Provenance) or not (theirs.cluster_id and theirs.spec_digest):
        yield f"{theirs} saved it, and its manifest does not say both in which cluster and by which spec"
        return
    own = f"this is Checkpoint {ours.namespace}/{ours.name}"
    for what, same in (("namespace", ours.namespace == theirs.namespace), ("name", ours.name == theirs.name)):
        if not same:
            yield f"its {what} is another: {theirs} saved it, and {own}"
    if ours.spec_digest != theirs.spec_digest:
        yield (
            f"its spec is another: {theirs.spec_digest} is the digest of what it said of what is saved, and "
            f"{ours.spec_digest} that of this one"
        )
    if theirs.cluster_id not in {ours.cluster_id, task.of_save.adopt_from}:
        here = f"this one is {ours.cluster_id}" if ours.cluster_id else "the id of this one is not known"
        named = f", and save.adoptFrom names {task.of_save.adopt_from}" if task.of_save.adopt_from else ""
        yield (
            f"its cluster is another: it was saved in {theirs.cluster_id}, {here}{named}; if that is this cluster "
            f"before it was rebuilt, write save.adoptFrom: {theirs.cluster_id} in a new Checkpoint"
        )

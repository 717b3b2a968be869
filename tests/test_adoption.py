"""What a Save with ifExists Adopt takes over, and what it says where it does not."""

from typing import Any

import pytest

import dcp_engine
from dcp_contract.checkpoint_info import CheckpointInfo, Origin, Provenance
from dcp_contract.operations import Operation
from dcp_contract.reasons import Reason
from dcp_contract.report import Report
from dcp_contract.save_fields import IfSaved, SaveFields
from dcp_contract.sections import Storage
from dcp_contract.task import Task
from dcp_engine.errors import StorageUnavailable
from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.problems import SpecError
from dcp_operator.api.site import CLUSTER, LOCAL, Site
from dcp_worker.operations import Settled, save
from dcp_worker.operations.adoption import NotAdopted, differences
from scenes import UID, URL, after_first_attempt, ended, manifest, message, phase

OURS = Provenance(namespace="team", name="one", uid="new", cluster_id="c-1", spec_digest="d-1")
THEIRS = OURS.model_copy(update={"uid": "old", "run_id": ""})
ADOPTS = {"spec.save": {"ifExists": "Adopt"}}
FROM = {"spec.save": {"ifExists": "Adopt", "adoptFrom": "c-0"}}


def why_not(theirs: Origin | None, ours: Provenance = OURS, adopt_from: str | None = None) -> str:
    save = SaveFields(if_exists=IfSaved.ADOPT, adopt_from=adopt_from)
    asked = Task(operation=Operation.SAVE, origin=ours, storage=Storage(url=URL), save=save)
    return "; ".join(differences(asked, CheckpointInfo(url=URL, origin=theirs)))


@pytest.mark.parametrize(
    ("theirs", "ours", "adopt_from"),
    [
        pytest.param(THEIRS, OURS, None, id="the same cluster"),
        pytest.param(THEIRS, OURS, "c-0", id="the same cluster, beside another one"),
        pytest.param(THEIRS.model_copy(update={"cluster_id": "c-0"}), OURS, "c-0", id="the cluster before"),
        pytest.param(THEIRS, OURS.model_copy(update={"cluster_id": ""}), "c-1", id="named, by who knows no cluster"),
    ],
)
def test_what_matches_is_taken_over(theirs: Provenance, ours: Provenance, adopt_from: str | None) -> None:
    assert why_not(theirs, ours, adopt_from) == ""


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"namespace": "prod"}, ["namespace", "Checkpoint prod/one (uid old)", "team/one"], id="namespace"),
        pytest.param({"name": "two"}, ["its name", "Checkpoint team/two (uid old)", "team/one"], id="name"),
        pytest.param({"spec_digest": "d-2"}, ["its spec", "d-2", "d-1"], id="spec"),
        pytest.param({"cluster_id": "c-2"}, ["its cluster", "c-2", "c-1", "save.adoptFrom: c-2"], id="cluster"),
        pytest.param({"cluster_id": ""}, ["does not say both in which cluster and by which spec"], id="no cluster"),
        pytest.param({"spec_digest": ""}, ["does not say both in which cluster and by which spec"], id="no digest"),
        pytest.param({"name": "two", "cluster_id": "c-2"}, ["its name", "its cluster"], id="two of them"),
    ],
)
def test_what_differs_is_told_by_both_values(changes: dict[str, str], says: list[str]) -> None:
    found = why_not(THEIRS.model_copy(update=changes))
    assert [each for each in says if each not in found] == []
    assert found.count("another") == sum(each in {"namespace", "its name", "its spec", "its cluster"} for each in says)


@pytest.mark.parametrize(
    ("theirs", "says"),
    [
        pytest.param(None, "no Checkpoint object is known to have saved it", id="stock, or a training script"),
        pytest.param(Origin(namespace="team", name="one", uid="old"), "does not say both", id="an earlier release"),
    ],
)
def test_what_nobody_can_tell_is_not_adopted(theirs: Origin | None, says: str) -> None:
    assert says in why_not(theirs)
    assert says in why_not(theirs, OURS.model_copy(update={"cluster_id": ""}), "c-1")


def test_no_id_of_a_cluster_matches_no_id() -> None:
    nowhere = OURS.model_copy(update={"cluster_id": ""})
    assert "does not say both" in why_not(THEIRS.model_copy(update={"cluster_id": ""}), nowhere)
    assert "the id of this one is not known" in why_not(THEIRS, nowhere)
    assert "save.adoptFrom names c-0" in why_not(THEIRS, nowhere, "c-0")


def told(error: NotAdopted) -> Any:
    return after_first_attempt(ended(0, Report(conflict=error.conflict)), of=parse(manifest(ADOPTS)))


def test_a_conflict_says_why_and_what_to_do() -> None:
    found = CheckpointInfo(url=URL, save_id="s0", origin=THEIRS)
    decided = told(NotAdopted(found, ["its spec is another: d-2 and d-1"]))
    assert phase(decided) == ("Conflict", "OverwriteConflict")
    assert "its spec is another: d-2 and d-1. To save anew, write another spec.storage.url" in message(decided)


@pytest.mark.adversary
def test_a_conflict_names_no_object_of_another_namespace() -> None:
    theirs = THEIRS.model_copy(update={"namespace": "secret", "name": "plan"})
    ours = OURS.model_copy(update={"name": "save-1000"})
    asked = Task(operation=Operation.SAVE, origin=ours, storage=Storage(url=URL))
    found = CheckpointInfo(url=URL, save_id="s0", origin=theirs)
    decided = told(NotAdopted(found, [*differences(asked, found)]))
    assert "secret" not in str(decided.status)
    assert "plan" not in str(decided.status)
    assert "a Checkpoint of another namespace saved it, and this is Checkpoint team/save-1000" in message(decided)


def test_what_was_adopted_says_whose_it_was_and_that_it_stays() -> None:
    info = CheckpointInfo(
        url=URL, save_id="0" * 32, step=7, origin=Origin(namespace="team", name="save-1000", uid="old")
    )
    decided = after_first_attempt(
        ended(0, Report(result=Reason.ALREADY_SAVED, checkpoint=info)), of=parse(manifest(ADOPTS))
    )
    assert phase(decided) == ("Succeeded", "AlreadySaved")
    assert "It was saved by Checkpoint team/save-1000 (uid old)" in message(decided)
    assert "stays when this Checkpoint is deleted" in message(decided)
    assert decided.status["checkpoint"]["saveId"] == "0" * 32


def test_only_a_save_may_find_its_work_done() -> None:
    verify = {"spec.operation": "Verify", "spec.workload": None, "spec.workers": None}
    found = after_first_attempt(ended(0, Report(result=Reason.ALREADY_SAVED)), of=parse(manifest(verify)))
    assert phase(found)[0] != "Succeeded"


KNOWS_NOT = CLUSTER.model_copy(update={"knows_cluster": False})
TARGET = {"spec.workload": None, "spec.workers": None, "spec.target": {"kind": "Job", "name": "train"}}


@pytest.mark.parametrize(
    ("changes", "site", "says"),
    [
        pytest.param(ADOPTS, KNOWS_NOT, "spec.save.ifExists: Adopt compares the id of the cluster", id="no id"),
        pytest.param(ADOPTS, LOCAL, "spec.save.ifExists: Adopt compares the id of the cluster", id="one machine"),
        pytest.param({"spec.save": {"adoptFrom": "c-0"}}, CLUSTER, "spec.save.adoptFrom: is for ifExists", id="alone"),
        pytest.param(ADOPTS | TARGET, CLUSTER, "spec.save.ifExists: a training saves what it has now", id="target"),
    ],
)
def test_what_is_refused_of_a_spec(changes: dict[str, Any], site: Site, says: str) -> None:
    with pytest.raises(SpecError, match=says) as refused:
        parse(manifest(changes), site=site)
    # An operator that knows its cluster takes it: then the Checkpoint waits for one (NotEnabled).
    assert refused.value.configured is (site in {KNOWS_NOT, LOCAL})


@pytest.mark.parametrize("site", [KNOWS_NOT, LOCAL], ids=["no id", "one machine"])
def test_a_cluster_that_is_named_needs_no_own_id(site: Site) -> None:
    assert parse(manifest(FROM), site=site).spec.of_save.adopt_from == "c-0"


def test_it_is_the_default_nowhere() -> None:
    assert SaveFields().if_exists is IfSaved.FAIL
    assert parse(manifest()).origin.uid == UID
    assert not parse(manifest()).spec.of_save.adopts


def adopting() -> Task:
    return Task(
        operation=Operation.SAVE, origin=OURS, storage=Storage(url=URL), save=SaveFields(if_exists=IfSaved.ADOPT)
    )


def test_what_replaces_it_between_the_two_looks_is_judged_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    first = CheckpointInfo(url=URL, save_id="a", origin=THEIRS)
    second = CheckpointInfo(url=URL, save_id="b", origin=THEIRS.model_copy(update={"name": "two"}))
    looks = [first, second]
    monkeypatch.setattr(dcp_engine, "find", lambda *_, **__: looks.pop(0))
    monkeypatch.setattr(dcp_engine, "whole", lambda *_, **__: second)
    with pytest.raises(NotAdopted, match="its name is another"):
        save.preflight(adopting())


def test_a_manifest_that_cannot_be_read_is_no_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conflict is for good, and a store that is away for a moment is not."""
    bare, known = CheckpointInfo(url=URL, save_id="a"), CheckpointInfo(url=URL, save_id="a", origin=THEIRS)
    monkeypatch.setattr(dcp_engine, "find", lambda *_, **__: bare)
    monkeypatch.setattr(dcp_engine, "whole", lambda *_, **__: known)
    assert save.preflight(adopting()) == Settled(Reason.ALREADY_SAVED, known)

    def away(*_: Any, **__: Any) -> CheckpointInfo:
        raise StorageUnavailable("it does not answer")

    monkeypatch.setattr(dcp_engine, "whole", away)
    with pytest.raises(StorageUnavailable):
        save.preflight(adopting())

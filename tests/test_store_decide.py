"""When a store is validated, what its status says of it, and which store is the default one."""

from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import pytest

from dcp_contract.checkpoint_info import StoreFacts
from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.parsing import parse as parse_checkpoint
from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.api.problems import SpecError
from dcp_operator.api.site import CLUSTER
from dcp_operator.api.store.status import StoreStatus
from dcp_operator.controllers.store.actions import DropValidation, StartValidation
from dcp_operator.controllers.store.decide import StoreDecision, decide, refuse, wait_for_creation
from dcp_operator.controllers.store.validation import StoreObserved, Validation
from dcp_operator.objects.store_validation import checkpoint_of_validation
from scenes import NOW
from store_scenes import GOOD, STORE_UID, Changes, store, store_manifest

FINE: Final = StoreFacts(create_guard="Atomic", replace_guard="Atomic", versioning="Disabled")
RUNNING: Final = Validation(name="team-validate-1", uid="v-1", generation=1, phase=Phase.RUNNING)
DONE: Final = replace(RUNNING, phase=Phase.SUCCEEDED, reason=Reason.VALIDATED, facts=FINE, ended=NOW)
WRONG_KEYS: Final = "s3://bucket/team/.dcp-probe: mend the keys"
FAILED: Final = replace(RUNNING, phase=Phase.FAILED, reason=Reason.STORAGE_DENIED, message=WRONG_KEYS, ended=NOW)


def decided(
    *validations: Validation,
    status: Any = None,
    after: float = 0,
    changes: Changes | None = None,
    generation: int = 1,
    default: str = "",
) -> StoreDecision:
    of = store(changes, generation=generation)
    observed = StoreObserved(validations=validations, default=default)
    return decide(of, observed, status or {}, NOW + timedelta(seconds=after))


def available(decision: StoreDecision) -> tuple[str, str, str]:
    found = StoreStatus.read(decision.status).condition("Available")
    assert found is not None
    return found.status, found.reason, found.message


def starts(decision: StoreDecision) -> list[str]:
    return [each.name for each in decision.actions if isinstance(each, StartValidation)]


def drops(decision: StoreDecision) -> list[str]:
    return [each.name for each in decision.actions if isinstance(each, DropValidation)]


def test_a_new_store_is_validated_at_once_and_is_not_available_before() -> None:
    found = decided()
    (name,) = starts(found)
    assert available(found)[:2] == ("Unknown", "Validating")
    assert StoreStatus.read(found.status).validation == name
    assert starts(decided(status=found.status)) == [name], "what was created and not written down is found again"
    assert starts(decided(RUNNING, status=found.status)) == [], "never two at once"


def test_what_a_validation_found_is_in_the_status_and_then_it_goes() -> None:
    found = decided(DONE, status=decided().status)
    assert available(found)[:2] == ("True", "Validated")
    assert (drops(found), starts(found)) == (["team-validate-1"], [])
    status = StoreStatus.read(found.status)
    assert status.guards is not None
    assert (status.guards.create, status.guards.replace, status.versioning) == ("Atomic", "Atomic", "Disabled")
    assert (status.last_validation_time, status.validated_generation, status.validation) == (NOW, 1, "")
    assert found.wake_at == NOW + timedelta(hours=1)
    assert decided(status=found.status, after=9).status == found.status, "its going changes nothing"


@pytest.mark.parametrize(
    ("validation", "changes", "seconds"),
    [
        pytest.param(DONE, {}, 3600, id="it works"),
        pytest.param(DONE, {"validationInterval": "90s"}, 90, id="an interval of its own"),
        pytest.param(FAILED, {}, 300, id="it failed"),
        pytest.param(FAILED, {"validationInterval": "90s"}, 90, id="it failed, and the interval is shorter"),
    ],
)
def test_when_the_next_validation_begins(validation: Validation, changes: Changes, seconds: int) -> None:
    first = decided(validation, changes=changes)
    left = [validation] if validation is FAILED else []
    before = decided(*left, status=first.status, changes=changes, after=seconds - 1)
    assert (starts(before), before.wake_at) == ([], NOW + timedelta(seconds=seconds))
    due = decided(*left, status=first.status, changes=changes, after=seconds)
    assert len(starts(due)) == 1
    assert starts(due) != starts(decided()), "each has a name of its own"


def test_one_that_failed_stays_until_the_next_for_its_log() -> None:
    found = decided(FAILED)
    assert available(found)[:2] == ("False", "StorageDenied")
    assert available(found)[2].startswith("s3://bucket/team: mend the keys. "), "where it is tried out helps nobody"
    assert "team-validate-1" in available(found)[2]
    assert (drops(found), StoreStatus.read(found.status).validation) == ([], "team-validate-1")
    later = decided(FAILED, status=found.status, after=300)
    assert drops(later) == ["team-validate-1"]
    assert available(later) == available(found), "what was found holds until something else is"


@pytest.mark.parametrize(
    ("facts", "reason", "said"),
    [
        pytest.param({"create_guard": "BestEffort"}, "Unguarded", "ignores If-None-Match", id="no If-None-Match"),
        pytest.param({"replace_guard": "BestEffort"}, "Unguarded", "ignores If-Match", id="no If-Match"),
        pytest.param({"versioning": "Enabled"}, "Validated", "NoncurrentVersionExpiration", id="versions"),
    ],
)
def test_what_a_store_lacks_is_said_of_one_that_works(facts: dict[str, str], reason: str, said: str) -> None:
    found = decided(replace(DONE, facts=FINE.model_copy(update=facts)))
    assert available(found)[:2] == ("True", reason)
    assert said in available(found)[2]


def test_a_changed_spec_is_validated_again_after_a_pause() -> None:
    first = decided(DONE)
    changed = decided(status=first.status, generation=2, after=3)
    assert available(changed)[:2] == ("Unknown", "Validating")
    assert (starts(changed), changed.wake_at) == ([], NOW + timedelta(seconds=10))
    assert len(starts(decided(status=first.status, generation=2, after=10))) == 1


@pytest.mark.adversary
def test_a_store_that_changes_all_the_time_has_one_validation_at_a_time_and_pauses() -> None:
    """Ten changes a second for five minutes, and validations of three seconds: a pod in 13 seconds at most."""
    status: Any = {}
    running: list[Validation] = []
    begun: list[float] = []
    for tick in range(3000):
        now = tick / 10
        running = [
            replace(each, phase=Phase.SUCCEEDED, facts=FINE, ended=NOW + timedelta(seconds=now))
            if each.ended is None and now >= begun[-1] + 3
            else each
            for each in running
        ]
        found = decided(*running, status=status, generation=tick + 1, after=now)
        status = found.status
        running = [each for each in running if each.name not in drops(found)]
        for name in starts(found):
            assert running == []
            running.append(Validation(name=name, uid=name, generation=tick + 1))
            begun.append(now)
    assert len(begun) <= 300 / 13 + 1
    assert len(set(begun)) > 10


def test_a_validation_of_an_older_spec_says_nothing_of_the_newer_one() -> None:
    found = decided(DONE, generation=2)
    assert available(found)[:2] == ("Unknown", "Validating")


@pytest.mark.parametrize("reason", [Reason.UNSCHEDULABLE, Reason.IMAGE_PULL_FAILED, Reason.START_TIMEOUT])
def test_a_pod_that_could_not_look_changes_nothing_of_what_was_found(reason: Reason) -> None:
    unseen = replace(FAILED, name="team-validate-2", reason=reason, message="no node", ended=NOW + timedelta(hours=1))
    first = decided(DONE)
    found = decided(unseen, status=first.status, after=3600)
    assert available(found)[:2] == ("True", "Validated")
    assert "no node" in available(found)[2]
    assert StoreStatus.read(found.status).guards == StoreStatus.read(first.status).guards
    assert found.wake_at == NOW + timedelta(hours=1, minutes=5)
    new = decided(unseen, after=3600)
    assert available(new)[:2] == ("Unknown", reason.value)


def test_a_validation_that_waits_says_why() -> None:
    found = decided(replace(RUNNING, message="The quota is used up."))
    assert "team-validate-1 validates it. The quota is used up." in available(found)[2]


def test_what_can_not_be_created_is_tried_again() -> None:
    first = decided()
    found = wait_for_creation(store(), {}, first, "exceeded quota", NOW)
    assert available(found)[:2] == ("Unknown", "ValidationRefused")
    assert "exceeded quota" in available(found)[2]
    assert (found.actions, found.wake_at) == ((), NOW + timedelta(seconds=30))
    again = decided(DONE, status=decided(DONE).status, after=3600)
    kept = wait_for_creation(store(), decided(DONE).status, again, "exceeded quota", NOW)
    assert available(kept)[:2] == ("True", "ValidationRefused")


def test_a_spec_that_is_wrong_is_not_validated() -> None:
    body = store_manifest(uid=STORE_UID, generation=3)
    found = refuse(SpecError(["spec.url: is wrong"]), body, StoreObserved(validations=(DONE,)), NOW)
    assert available(found) == ("False", "InvalidSpec", "spec.url: is wrong")
    assert (starts(found), drops(found)) == ([], ["team-validate-1"])


@pytest.mark.parametrize(
    ("changes", "default", "condition"),
    [
        pytest.param({}, "", None, id="it does not ask"),
        pytest.param({"default": True}, "team", ("True", "Oldest"), id="it is the oldest"),
        pytest.param({"default": True}, "older", ("False", "OlderDefault"), id="another one is older"),
    ],
)
def test_which_one_is_the_default(changes: Changes, default: str, condition: tuple[str, str] | None) -> None:
    found = decided(changes=changes, default=default)
    said = StoreStatus.read(found.status).condition("Default")
    assert (said and (said.status, said.reason)) == condition
    if condition == ("False", "OlderDefault"):
        assert said is not None
        assert said.message.startswith("older has spec.default: true as well and is older")
        assert [each.type for each in found.events if each.reason == "OlderDefault"] == ["Warning"]


@pytest.mark.parametrize("changes", GOOD.values(), ids=GOOD)
def test_the_checkpoint_that_validates_is_one_that_is_taken(changes: Changes) -> None:
    of = store(changes, generation=7)
    body = checkpoint_of_validation(of, StartValidation(name="team-validate-1"))
    parsed = parse_checkpoint(body, site=CLUSTER)
    assert parsed.spec.storage.url.endswith("/.dcp-probe")
    assert parsed.spec.storage.url.startswith(f"{of.spec.url.rstrip('/')}/")
    assert parsed.spec.storage.options == of.spec.options
    assert parsed.spec.storage.credentials_secret_ref == of.spec.credentials_secret_ref
    assert parsed.spec.of_validate.read_only is not of.spec.writable
    account = parsed.spec.workers.pod_template.get("spec", {}).get("serviceAccountName")
    assert account == of.spec.service_account_name
    body["metadata"]["uid"] = "v-1"
    assert Validation.of(body).generation == 7


@pytest.mark.adversary
def test_a_clock_that_was_wrong_for_a_moment_puts_off_no_validation() -> None:
    year = timedelta(days=365)
    told = decided(replace(DONE, ended=NOW + year), after=year.total_seconds()).status
    assert StoreStatus.read(told).last_validation_time == NOW + year
    for generation in (1, 2):
        assert len(starts(decided(status=told, generation=generation))) == 1
    # The one that ended then goes, and another one is made.
    found = decided(replace(DONE, ended=NOW + year), status=told)
    assert (len(starts(found)), drops(found)) == (1, [DONE.name])
    # Clocks of two nodes differ a little.
    assert starts(decided(status=told, after=(year - timedelta(minutes=5)).total_seconds())) == []

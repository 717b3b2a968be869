"""What the store that an object names comes to: by the store, by what was written down, and where there is none."""

from typing import Any

import pytest

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.in_store import KEY, StoreUse, names_store
from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.problems import SpecError
from dcp_operator.api.site import CLUSTER
from dcp_operator.api.store.resolving import StoreState, resolved
from named_store_scenes import IN_STORE, REFUSED, in_store
from scenes import checkpoint, manifest
from store_scenes import store

SPEC = {"url": "s3://bucket/team", "options": {"region": "eu"}, "credentialsSecretRef": {"name": "keys"}}
HERE = {
    "url": "s3://bucket/team/run/step-1000",
    "options": {"region": "eu"},
    "credentialsSecretRef": {"name": "keys"},
}
PLAIN = {"url": HERE["url"], "options": HERE["options"]}
WRITTEN = {"name": "bucket", "url": HERE["url"], "options": {"region": "eu"}, "credentialsSecret": "old-keys"}


class KnownStores(dict[str, StoreState]):
    """KnownStores of a namespace; the one under the empty name is the default one."""

    def of(self, namespace: str, name: str) -> StoreState | None:
        assert namespace == "team"
        return self.get(name)


def known(name: str = "bucket", *, under: str | None = None, available: bool = True, **spec: Any) -> KnownStores:
    state = StoreState(name=name, store=store({**SPEC, **spec}, name=name), available=available, said="Denied.")
    return KnownStores({name if under is None else under: state})


@pytest.mark.parametrize(
    ("body", "stores", "storage", "name", "settled"),
    [
        pytest.param(in_store(), known(), HERE, "bucket", False, id="by its name"),
        pytest.param(
            in_store({"spec.storage": {"path": "run/step-1000"}}), known(under=""), HERE, "bucket", False,
            id="the default",
        ),
        pytest.param(
            in_store({"spec.storage": {"store": {}, "path": "run/step-1000"}}), known(under=""), HERE, "bucket", False,
            id="the default, spelt out",
        ),
        pytest.param(
            in_store({"status.store": WRITTEN}), known(), HERE, "bucket", True, id="the same place by other keys"
        ),
        pytest.param(
            in_store({"status.store": WRITTEN}), known(url="s3://other"),
            HERE | {"credentialsSecretRef": {"name": "old-keys"}}, "bucket", True, id="another place by now",
        ),
        pytest.param(
            in_store({"status.store": WRITTEN}), known(options={"region": "us"}),
            HERE | {"credentialsSecretRef": {"name": "old-keys"}}, "bucket", True, id="other options by now",
        ),
        pytest.param(
            in_store({"status.store": WRITTEN}), known(options={"region": "eu", "readTimeout": 60}),
            HERE, "bucket", True, id="asked in another way by now",
        ),
        pytest.param(
            in_store({"status.store": WRITTEN}), KnownStores(),
            HERE | {"credentialsSecretRef": {"name": "old-keys"}}, "bucket", True, id="gone by now",
        ),
        pytest.param(
            in_store({"status.store": WRITTEN, "spec.storage": {"path": "run/step-1000"}}),
            KnownStores(known("newer", under="") | known()), HERE, "bucket", True, id="another default by now",
        ),
        pytest.param(
            in_store(), known(serviceAccountName="trainer", credentialsSecretRef=None, caSecretRef={"name": "ca"}),
            {**PLAIN, "caSecretRef": {"name": "ca"}, "serviceAccountName": "trainer"},
            "bucket", False, id="by an account",
        ),
    ],
)  # fmt: skip
def test_what_it_comes_to(
    body: dict[str, Any], stores: KnownStores, storage: object, name: str, settled: object
) -> None:
    found = resolved(body, KnownStores(stores))
    use = StoreUse.of(found)
    assert use is not None
    assert (found["spec"]["storage"], use.name, use.settled, use.reason) == (storage, name, settled, None)
    assert use.given == body["spec"]["storage"]
    # Once more, of the body that was made.
    assert resolved(found, stores) == found
    assert parse(found, site=CLUSTER).spec.storage.url == HERE["url"]


@pytest.mark.parametrize(
    ("stores", "storage", "reason", "said"),
    [
        pytest.param(KnownStores(), IN_STORE, Reason.STORE_NOT_FOUND, "store bucket does not exist.", id="none"),
        pytest.param(
            KnownStores(), {"path": "a"}, Reason.STORE_NOT_FOUND, "the namespace has no default store.", id="no default"
        ),
        pytest.param(
            KnownStores(bucket=StoreState(name="bucket", store=SpecError(["spec.url: is missing"]))), IN_STORE,
            Reason.STORE_NOT_AVAILABLE, "store bucket can't be used: spec.url: is missing.", id="unreadable",
        ),
        pytest.param(
            known(available=False), IN_STORE, Reason.STORE_NOT_AVAILABLE, "store bucket is not Available: Denied.",
            id="not available",
        ),
    ],
)  # fmt: skip
def test_why_it_can_not_be_used(stores: KnownStores, storage: dict[str, Any], reason: Reason, said: str) -> None:
    found = parse(resolved(in_store({"spec.storage": storage}), stores), site=CLUSTER)
    assert found.store is not None
    assert (found.store.reason, found.store.message) == (reason, said)


def test_a_place_that_was_written_down_waits_for_its_own_store_alone() -> None:
    there = parse(resolved(in_store({"status.store": WRITTEN}), known(available=False)), site=CLUSTER)
    moved = parse(resolved(in_store({"status.store": WRITTEN}), known(available=False, url="s3://other")), site=CLUSTER)
    assert there.store is not None
    assert moved.store is not None
    assert (there.store.reason, moved.store.reason) == (Reason.STORE_NOT_AVAILABLE, None)


@pytest.mark.parametrize(
    "body", [manifest(), manifest({"spec": None}), manifest({"spec.storage": {"url": 5, "path": "a"}})]
)
def test_what_names_no_store_stays_as_it_is(body: dict[str, Any]) -> None:
    assert resolved(body, known()) is body
    assert KEY not in resolved({**body, KEY: {}}, known())


@pytest.mark.parametrize(("storage", "problem"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_with_it_is_said_by_field(storage: dict[str, Any], problem: str) -> None:
    body = in_store({"spec.operation": "Verify", "spec.storage": storage, "spec.workload": None, "spec.workers": None})
    with pytest.raises(SpecError) as found:
        parse(resolved(body, known()), site=CLUSTER)
    assert [each for each in found.value.problems if each.startswith(problem)]


def test_a_target_has_a_place_of_its_own() -> None:
    changes = {"spec.target": {"kind": "Job", "name": "train"}, "spec.workload": None, "spec.workers": None}
    with pytest.raises(SpecError, match=r"spec\.storage\.store: the training of spec\.target has its own"):
        parse(resolved(in_store(changes), known()), site=CLUSTER)


def test_who_names_a_store_names_nothing_else() -> None:
    assert names_store(IN_STORE)
    assert not names_store({**IN_STORE, "url": "s3://a/b"})
    assert not names_store({"url": "s3://a/b"})
    assert checkpoint().store is None

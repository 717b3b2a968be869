"""The certificates of the channel, where trainings find them."""

import asyncio
import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from channel_rig import TokenApi
from dcp_contract.training import CHANNEL_CONFIG_MAP
from dcp_operator.api.json_types import Body
from dcp_operator.controllers.decision import Event
from dcp_operator.kube.channel.admission_review import EVICTION_CONFIGURATION, EVICTION_PATH, EVICTION_WEBHOOK
from dcp_operator.kube.channel.certificate import Certificate, valid
from dcp_operator.kube.channel.trust import MOST, Trust, bundle, is_ours
from dcp_operator.kube.client.api import CONFIG_MAPS, WEBHOOKS, RefusedError, UnavailableError
from dcp_operator.kube.process.settings import Settings
from dcp_operator.kube.process.training_channel import training_channel

CERTIFICATE = Certificate.make(["127.0.0.1"])
SERVICE = {"namespace": "dcp-operator", "name": "dcp-operator", "port": 8443, "path": EVICTION_PATH}
OWN = "https://dcp-operator.dcp-operator.svc:8443"


def told(messages: list[str]) -> Callable[[str, Event], None]:
    return lambda namespace, event: messages.append(f"{namespace}: {event.reason}")


def certificates(api: TokenApi, namespace: str) -> str:
    found: str = api.objects[CONFIG_MAPS.path(namespace, CHANNEL_CONFIG_MAP)]["data"]["ca.crt"]
    return found


def test_each_namespace_gets_the_certificates_of_all_replicas() -> None:
    async def test() -> None:
        api = TokenApi()
        pems = [Certificate.make(["x"]).pem for _ in range(2)]
        leader, standby = (Trust(api, "dcp-operator", each, OWN) for each in pems)
        heard: list[str] = []
        await standby.publish((), told(heard))
        await leader.publish(["team"], told(heard))
        for namespace in ("dcp-operator", "team"):
            assert set(valid(certificates(api, namespace), datetime.now(UTC))) == set(pems)
        assert api.objects[CONFIG_MAPS.path("team", CHANNEL_CONFIG_MAP)]["data"]["url"] == OWN
        # Nothing is written again, by neither.
        api.writes()
        await standby.publish((), told(heard))
        await leader.publish(["team"], told(heard))
        assert (api.writes(), heard) == ([], [])

    asyncio.run(test())


@pytest.mark.adversary
def test_a_config_map_that_is_not_ours_is_left_alone_and_told_of_once() -> None:
    async def test() -> None:
        api = TokenApi()
        theirs = {"metadata": {"name": CHANNEL_CONFIG_MAP, "namespace": "team"}, "data": {"mine": "x"}}
        api.add(CONFIG_MAPS, theirs)
        trust, heard = Trust(api, "dcp-operator", CERTIFICATE.pem, OWN), list[str]()
        for _ in range(2):
            await trust.publish(["team", "more"], told(heard))
        there = api.objects[CONFIG_MAPS.path("team", CHANNEL_CONFIG_MAP)]
        assert there["data"] == {"mine": "x"}
        assert not is_ours(there)
        assert heard == ["team: ConfigMapNotOurs"]
        assert certificates(api, "more") == CERTIFICATE.pem

    asyncio.run(test())


def test_the_operators_own_namespace_has_a_foreign_one() -> None:
    async def test() -> None:
        api = TokenApi()
        api.add(
            CONFIG_MAPS, {"metadata": {"name": CHANNEL_CONFIG_MAP, "namespace": "dcp-operator"}, "data": {"a": "x"}}
        )
        await Trust(api, "dcp-operator", CERTIFICATE.pem, OWN).publish(["team"], told([]))
        assert certificates(api, "team") == CERTIFICATE.pem
        assert api.objects[CONFIG_MAPS.path("dcp-operator", CHANNEL_CONFIG_MAP)]["data"] == {"a": "x"}

    asyncio.run(test())


def test_what_can_not_be_written_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        api = TokenApi()
        trust = Trust(api, "dcp-operator", CERTIFICATE.pem, OWN)
        forbidden = RefusedError("forbidden", 403)
        object.__setattr__(api, "refuse", lambda request: forbidden if "/team/" in request.path else None)
        for _ in range(3):
            await trust.publish(["team", "other"], told([]))
        assert [each.message for each in caplog.records] == [
            "the channel's certificates are not published in team: forbidden"
        ]
        assert certificates(api, "other") == CERTIFICATE.pem

    asyncio.run(test())


def test_a_process_is_started_anew_before_its_certificate_expires() -> None:
    made = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = Certificate.make(["x"], made)
    assert certificate.expiring(made + timedelta(days=380)) == ""
    assert "about to expire" in certificate.expiring(made + timedelta(days=391))


@pytest.mark.parametrize(
    ("port", "refusal", "line"),
    [
        pytest.param(0, None, "", id="turned off"),
        pytest.param(8443, RefusedError("forbidden", 403), "may not create tokenreviews", id="in one namespace"),
    ],
)
def test_where_there_is_no_channel_the_log_says_why(
    port: int, refusal: Exception | None, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        api = TokenApi()
        object.__setattr__(api, "refuse", lambda _: refusal)
        async with training_channel(Settings("worker", channel_port=port), api) as channel:
            assert channel is None

    asyncio.run(test())
    assert line in caplog.text


@pytest.mark.adversary
def test_a_bundle_is_bounded_and_holds_certificates_alone() -> None:
    now = datetime.now(UTC)
    pems = [Certificate.make(["x"], now).pem for _ in range(MOST + 2)]
    old = Certificate.make(["x"], datetime(2020, 1, 1, tzinfo=UTC)).pem
    kept = bundle({"data": {"ca.crt": old + "".join(pems)}}, CERTIFICATE.pem, now)
    assert len(valid(kept, now)) == MOST
    assert old not in kept
    for nonsense in ("", "hello", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"):
        assert bundle({"data": {"ca.crt": nonsense}}, CERTIFICATE.pem, now) == CERTIFICATE.pem


def webhook(api: TokenApi, name: str = EVICTION_WEBHOOK, given: Body | None = None) -> str:
    """Have the webhook be configured; return its path."""
    path = WEBHOOKS.path(None, EVICTION_CONFIGURATION)
    client = given or {"service": dict(SERVICE)}
    webhooks = [{"name": "other", "clientConfig": {}}, {"name": name, "clientConfig": client, "timeoutSeconds": 2}]
    metadata = {"name": EVICTION_CONFIGURATION, "resourceVersion": "1"}
    api.objects[path] = {"kind": WEBHOOKS.kind, "metadata": metadata, "webhooks": webhooks}
    return path


def test_the_api_server_trusts_all_replicas_and_nothing_else_of_the_webhook_changes() -> None:
    async def test() -> None:
        api = TokenApi()
        path = webhook(api)
        pems = [Certificate.make(["x"]).pem for _ in range(2)]
        replicas = [Trust(api, "dcp-operator", each, OWN) for each in pems]
        for each in (*replicas, *replicas):
            await each.publish((), told([]))
        other, ours = api.objects[path]["webhooks"]
        bundle = base64.b64decode(ours["clientConfig"].pop("caBundle")).decode()
        assert set(valid(bundle, datetime.now(UTC))) == set(pems)
        assert bundle == certificates(api, "dcp-operator")
        assert other == {"name": "other", "clientConfig": {}}
        assert (ours["timeoutSeconds"], ours["clientConfig"]["service"]["port"]) == (2, 8443)
        assert [each.unasked for each in replicas] == ["", ""]
        # Each replica has said it once: nobody takes it back.
        ours["clientConfig"]["caBundle"] = base64.b64encode(bundle.encode()).decode()
        api.writes()
        for each in replicas:
            await each.publish((), told([]))
        assert api.writes() == []

    asyncio.run(test())


def test_a_webhook_that_is_not_there_or_not_ours_to_write_is_said_and_nothing_else_suffers() -> None:
    async def test() -> None:
        api = TokenApi()
        trust = Trust(api, "dcp-operator", CERTIFICATE.pem, OWN)
        await trust.publish(["team"], told([]))
        assert trust.unasked == f"there is no ValidatingWebhookConfiguration {EVICTION_CONFIGURATION}"
        assert certificates(api, "team") == certificates(api, "dcp-operator")
        webhook(api, "another.example.com")
        await trust.publish([], told([]))
        assert trust.unasked.endswith(f"has no webhook {EVICTION_WEBHOOK}")
        webhook(api)
        for method, says in (("GET", "may not read"), ("PATCH", "may not write")):
            forbidden = RefusedError("forbidden", 403)
            refuse = {(method, WEBHOOKS): forbidden}
            object.__setattr__(api, "refuse", lambda each, no=refuse: no.get((each.method, each.resource)))
            await trust.publish(["later"], told([]))
            assert says in trust.unasked
        assert certificates(api, "later") == certificates(api, "dcp-operator")
        away = UnavailableError("away", 503)
        object.__setattr__(api, "refuse", lambda each: away if each.resource == WEBHOOKS else None)
        await trust.publish(["last"], told([]))
        assert certificates(api, "last") == certificates(api, "dcp-operator")

    asyncio.run(test())


@pytest.mark.parametrize(
    ("own", "client", "says"),
    [
        (
            OWN,
            {"service": {"namespace": "dcp-operator", "name": "dcp-operator", "port": 8443, "path": "/v1/x"}},
            "/v1/x",
        ),
        (OWN, {"service": {"namespace": "dcp-operator", "name": "dcp-operator", "path": EVICTION_PATH}}, ".svc:443/"),
        (
            OWN,
            {"service": {"namespace": "other", "name": "dcp-operator", "port": 8443, "path": EVICTION_PATH}},
            "other",
        ),
        (OWN, {"url": f"https://elsewhere{EVICTION_PATH}"}, "asks https://elsewhere/"),
        ("https://elsewhere", {"url": f"https://elsewhere:443{EVICTION_PATH}"}, ""),
        (f"{OWN}/", {"url": f"{OWN}{EVICTION_PATH}"}, ""),
    ],
)
def test_a_webhook_that_asks_elsewhere_is_said_and_left_alone(own: str, client: Body, says: str) -> None:
    """Every eviction would pass unsaved while the series says that they wait; and two operators would take turns."""

    async def test() -> None:
        api = TokenApi()
        path = webhook(api, given=dict(client))
        trust = Trust(api, "dcp-operator", CERTIFICATE.pem, own)
        await trust.publish((), told([]))
        assert (says in str(trust.unasked)) if says else trust.unasked == ""
        assert ("caBundle" in api.objects[path]["webhooks"][1]["clientConfig"]) == (not says)

    asyncio.run(test())

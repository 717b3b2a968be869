"""The channel to trainings, attacked by one pod: what its neighbours, and those who read the log, notice of it."""

import pytest

from channel_rig import STATE, Rig, put, run, targeted, token
from dcp_contract.training import EndedSave


@pytest.mark.adversary
def test_a_neighbour_that_tries_tokens_shuts_out_no_pod_that_was_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind one address: pods on the network of their node, or behind one gateway."""

    async def test(rig: Rig) -> None:
        rig.channel._unknown.rate = 1e-6
        bearer = rig.api.run_pod("rank0")
        assert (await rig.agent(bearer).post(STATE)).status == 200
        for number in range(50):
            await rig.agent(token(f"forged {number}")).post(STATE)
        assert (await rig.agent(token("one more")).post(STATE)).status == 429
        assert (await rig.agent(bearer).post(STATE)).status == 200
        # Its token is reviewed again from time to time.
        monkeypatch.setattr("dcp_operator.kube.channel.callers.KNOWN_SECONDS", 0.0)
        assert (await rig.agent(bearer).post(STATE)).status == 200

    run(test)


@pytest.mark.adversary
def test_a_refusal_is_one_line_whatever_the_pod_says(caplog: pytest.LogCaptureFixture) -> None:
    async def test(rig: Rig) -> None:
        ended = EndedSave(id="x", url="s3://other/\n2026-11-26 21:00:00 ERROR all is lost\x1b[2J")
        answer = await rig.agent(rig.api.run_pod("rank0")).post(STATE.model_copy(update={"ended": [ended]}))
        assert answer.status == 400
        assert answer.line.isprintable()
        (logged,) = caplog.messages
        assert logged.isprintable()

    run(test)


@pytest.mark.adversary
def test_a_pod_that_claims_the_group_of_another_is_told_nothing() -> None:
    """Whoever may read the status of a Save knows the group that is asked."""

    async def test(rig: Rig) -> None:
        put(rig, targeted())
        assert (await rig.agent(rig.api.run_pod("forger")).post(STATE)).orders.requests == []
        told = (await rig.agent(rig.api.run_pod("rank0")).post(STATE)).orders.requests
        assert [each.id for each in told] == ["uid-save/"]

    run(test)

"""What training and the operator say to each other: bounded, whole, and read by each version of the other side."""

import json
from pathlib import Path

import pytest

from dcp_contract.checkpoint_info import CheckpointInfo, Origin
from dcp_contract.message import CONTRACT_VERSION
from dcp_contract.operations import IfExists
from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure
from dcp_contract.training import (
    MAX_ENDED,
    MAX_REQUESTS,
    MESSAGE_LIMIT,
    AgentOrders,
    AgentState,
    EndedSave,
    Resumed,
    SaveRequest,
    SaveStage,
    TakenRequest,
    request_id,
)

FROZEN = Path(__file__).parent / "golden" / "contract"
ORIGIN = Origin(namespace="team", name="step", uid="u1", run_id="again")
STATE = AgentState(
    group="g1",
    world=2,
    prefix="s3://bucket/run",
    also=["s3://other/run"],
    step=1200,
    requests=[TakenRequest(id="u1/again", stage=SaveStage.SAVING, step=1201, url="s3://bucket/run/step-1201")],
    ended=[
        EndedSave(
            id="r1",
            requested=False,
            step=1000,
            url="s3://bucket/run/step-1000",
            seconds=2.5,
            blocked_seconds=0.25,
            checkpoint=CheckpointInfo(url="s3://bucket/run/step-1000", save_id="s1", step=1000, bytes=7),
        ),
        EndedSave(id="u0/", failure=RankFailure(rank=1, reason=Reason.STORAGE_FULL, message="no room")),
    ],
    resumed_from=Resumed(url="s3://bucket/run/step-900", step=900, origin=ORIGIN),
    hold_seconds=2,
)
ORDERS = AgentOrders(
    requests=[SaveRequest(id=request_id(ORIGIN), url="s3://other/run/x", if_exists=IfExists.REPLACE, origin=ORIGIN)],
    acknowledged=["r1"],
    grace_seconds=30,
    wait_seconds=1,
)


@pytest.mark.adversary
@pytest.mark.parametrize("version", [CONTRACT_VERSION, CONTRACT_VERSION + 1])
def test_a_message_of_a_neighbour_is_read(version: int) -> None:
    """The later version says more everywhere, and has a reason and a stage that this one does not know."""
    state = AgentState.decode((FROZEN / f"agent-state-{version}.json").read_bytes())
    orders = AgentOrders.decode((FROZEN / f"agent-orders-{version}.json").read_bytes())
    assert (state.contract_version, orders.contract_version) == (version, version)
    assert orders.model_copy(update={"contract_version": CONTRACT_VERSION}) == ORDERS
    if version == CONTRACT_VERSION:
        assert state == STATE
    else:
        assert state.requests[0].stage is SaveStage.WAITING
        failure = state.ended[1].failure
        assert failure is not None
        assert (failure.reason, failure.message) == (Reason.RANK_FAILED, "StoreOnFire: no room")
        assert state.ended[0] == STATE.ended[0]


def test_a_message_is_read_back_whole() -> None:
    assert AgentState.decode(STATE.encode()) == STATE
    assert AgentOrders.decode(ORDERS.encode()) == ORDERS


def test_what_is_too_much_comes_with_a_later_message() -> None:
    long = RankFailure(reason=Reason.RANK_FAILED, message="é" * 9000, traceback="é" * 9000 + "end", stage="s" * 900)
    many = STATE.model_copy(update={"ended": [EndedSave(id=f"e{number}", failure=long) for number in range(40)]})
    read = AgentState.decode(many.encode())
    assert [each.id for each in read.ended] == [f"e{number}" for number in range(len(read.ended))]
    assert 0 < len(read.ended) <= MAX_ENDED
    failure = read.ended[0].failure
    assert failure is not None
    assert (len(failure.message), len(failure.traceback), len(failure.stage)) == (1000, 2000, 80)
    assert failure.traceback.endswith("end")
    wide = SaveRequest(id="u1/", url="é" * 1024, origin=Origin(name="é" * 9000))
    fewer = AgentOrders(requests=[wide] * MAX_REQUESTS).encode()
    assert len(fewer) <= MESSAGE_LIMIT
    assert 0 < len(AgentOrders.decode(fewer).requests) < MAX_REQUESTS


def of_state(**changes: object) -> bytes:
    return json.dumps(json.loads(STATE.to_json()) | changes).encode()


LONG = "x" * 1025


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param(b"", "Invalid JSON", id="empty"),
        pytest.param(b"\xff\xfe{}", "Invalid JSON", id="no UTF-8"),
        pytest.param(b"[" * 50_000, "Invalid JSON", id="deep"),
        pytest.param(b"[]", "Input should be an object", id="no object"),
        pytest.param(b"{}", "group: Field required", id="says nothing"),
        pytest.param(b" " * (MESSAGE_LIMIT + 1), "the most is 65536", id="large"),
        pytest.param(of_state(group=""), "group: String should have at least 1", id="no group"),
        pytest.param(of_state(prefix=LONG), "prefix: String should have at most 1024", id="long prefix"),
        pytest.param(of_state(step="x"), "step: Input should be a valid integer", id="no number"),
        pytest.param(of_state(also=["s3://b/x"] * 9), "also: List should have at most 8", id="many prefixes"),
        pytest.param(
            of_state(requests=[{"id": "a", "stage": "Saving"}] * 9), "requests: List should have at most 8", id="many"
        ),
        pytest.param(of_state(ended=[{"id": "a"}] * 9), "ended: List should have at most 8", id="many ended"),
        pytest.param(of_state(ended=[{"id": "a" * 129}]), "ended.0.id: String should have at most", id="long id"),
        pytest.param(of_state(ended=[{"id": "a", "url": LONG}]), "ended.0.url: String should have", id="long URL"),
        pytest.param(
            of_state(ended=[{"id": "a", "checkpoint": {"saveId": LONG}}]), "ended.0.checkpoint: Value error", id="info"
        ),
        pytest.param(
            of_state(ended=[{"id": "a", "checkpoint": {"origin": {"uid": LONG}}}]), "ended.0.checkpoint", id="origin"
        ),
    ],
)
def test_what_can_not_be_read_is_refused_in_one_line(text: bytes, line: str) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as caught:
        AgentState.decode(text)
    assert line in str(caught.value)


@pytest.mark.adversary
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1e300", "1e300", str(1 << 70), f'"{1 << 70}"', '"-1e300"'])
def test_a_number_that_no_api_server_stores_is_not_handed_on(number: str) -> None:
    """Nor one that is written as a text, of whatever size."""
    counts = f'"step":{number},"checkpoint":{{"step":{number},"bytes":{number}}}'
    ended = f'{{"id":"a","seconds":{number},"blockedSeconds":{number},{counts}}}'
    read = AgentState.decode(f'{{"group":"g","prefix":"p","holdSeconds":{number},"ended":[{ended}]}}'.encode())
    (save,) = read.ended
    assert (read.hold_seconds, save.seconds, save.blocked_seconds) == (0, 0, 0)
    assert save.checkpoint is not None
    assert (save.step, save.checkpoint.step, save.checkpoint.bytes) == (None, None, None)

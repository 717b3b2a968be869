"""What rank 0 takes of what an operator asks, and what it refuses: without ranks, and without a store."""

import pytest

from dcp_agent.orders import SaveOrder
from dcp_agent.requests import RequestBook
from dcp_agent.saves import Saved
from dcp_contract.checkpoint_info import CheckpointInfo, Origin
from dcp_contract.operations import IfExists
from dcp_contract.reasons import Reason
from dcp_contract.training import AgentOrders, SaveRequest

pytestmark = pytest.mark.tier("ranks")


def test_a_way_out_of_the_prefix_is_refused() -> None:
    """The operator lets no such URL through; the agent does not rely on that."""
    book = RequestBook("s3://b/run", ["s3://b/also"], 1, lambda _: None)
    asked = {"up": "s3://b/run/../x", "beside": "s3://b/runs/x", "itself": "s3://b/also/", "other": "gs://b/run/x"}
    requests = [SaveRequest(id=name, url=url, origin=Origin()) for name, url in asked.items()]
    book.take(AgentOrders(requests=[*requests, SaveRequest(id="good", url="s3://b/also/x", origin=Origin())]))
    state = book.state(1)
    assert {each.id: each.failure and each.failure.reason for each in state.ended} == dict.fromkeys(
        asked, Reason.TARGET_REFUSED
    )
    assert [each.id for each in state.requests] == ["good"]


def test_a_request_that_was_withdrawn_is_taken_when_it_is_asked_again() -> None:
    """As of a Save that was suspended for a while, or for which a message had no room."""
    book = RequestBook("s3://b/run", [], 1, lambda _: None)
    asked = AgentOrders(requests=[SaveRequest(id="uid-one/", origin=Origin(uid="uid-one"))])
    book.take(asked)
    book.take(AgentOrders())
    assert not book.is_asked
    book.take(asked)
    assert book.is_asked
    # One that is answered is never taken again, however long the operator asks.
    book.begin(SaveOrder.model_validate_json(book.next_order()), 7)
    book.end(Saved(step=7, url="s3://b/run/step-7", requests=("uid-one/",)))
    book.take(AgentOrders(acknowledged=["uid-one/"]))
    book.take(asked)
    assert not book.is_asked


@pytest.mark.adversary
def test_who_asks_for_a_save_does_not_say_that_it_is_another_step() -> None:
    """A training goes on from the highest step: it would skip what it has not trained."""
    book = RequestBook("s3://b/run", ["s3://b/also"], 1, lambda _: None)
    steps = ["s3://b/run/step-999999", "s3://b/also/step-7/", "s3://b//run/./step-7", "s3://b/run/a/step-7"]
    others = ["s3://b/run/step-7/mine", "s3://b/run/step-mine"]
    requests = [SaveRequest(id=url, url=url, origin=Origin()) for url in steps + others]
    book.take(AgentOrders(requests=requests))
    state = book.state(1)
    assert [each.id for each in state.ended if each.failure and each.failure.reason is Reason.TARGET_REFUSED] == steps
    assert [each.id for each in state.requests] == others


@pytest.mark.adversary
def test_where_nothing_stood_nobody_is_replaced_who_came_since() -> None:
    """Between the look at a URL and the save there may be hours of training."""
    book = RequestBook("s3://b/run", [], 1, lambda _: None)
    url = "s3://b/run/latest"

    def order(name: str, at: str) -> SaveOrder:
        request = SaveRequest(id=name, url=at, if_exists=IfExists.REPLACE, origin=Origin(uid=name))
        book.take(AgentOrders(requests=[request]))
        return SaveOrder.model_validate_json(book.next_order())

    first = order("one/", url)
    assert not first.overwrite
    book.begin(first, 7)
    # What is on its way is one's own as well; so is what was saved, however it is spelt.
    assert order("two/", url).overwrite
    book.end(Saved(step=7, url=url, requests=("one/",), info=CheckpointInfo(url=url)))
    assert order("three/", "s3://b/run//latest").overwrite
    assert not order("four/", "s3://b/run/other").overwrite

"""Whatever an agent says, the status of a Save that is asked of it is one that the API server stores."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_contract.reasons import Reason
from dcp_contract.training import AgentState
from dcp_operator.controllers.target.observed import ConnectedAgent
from hypothesis_profile import examples
from scenes import NOW, at
from test_status_refused import ACCEPTS, integers, moments, numbers
from test_target import ASKED, ID, decided, save

texts = st.sampled_from(["", "x" * 1000, "\x00", "é" * 500, "2026-11-24T08:00:00", "\x1b[2J\n"])
origins = st.fixed_dictionaries({}, optional=dict.fromkeys(("namespace", "name", "uid", "runId"), texts))
infos = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("step", "bytes", "files", "tensors", "worldSize"), numbers),
        **dict.fromkeys(("saveId", "torchVersion", "manifestDigest", "conflictGuard", "verified"), texts),
        "url": st.sampled_from(["s3://bucket/run/step-1", ""]),
        "createdTime": moments,
        "origin": origins,
        "entries": st.fixed_dictionaries({}, optional=dict.fromkeys(("loaded", "leftOut", "converted"), numbers)),
    },
)
failures = st.fixed_dictionaries(
    {"reason": st.sampled_from([*(each.value for each in Reason), "NoWord"])},
    optional={
        **dict.fromkeys(("rank", "time", "exitCode"), numbers),
        **dict.fromkeys(("message", "stage", "traceback"), texts),
    },
)
ended = st.fixed_dictionaries(
    {"id": st.just(ID)},
    optional={
        **dict.fromkeys(("step", "seconds", "blockedSeconds"), numbers),
        "url": st.sampled_from(["s3://bucket/run/step-1", ""]),
        "checkpoint": infos,
        "failure": failures,
    },
)
taken = st.fixed_dictionaries(
    {"id": st.just(ID), "stage": st.sampled_from(["Waiting", "Saving", "Elsewhere"])},
    optional={**dict.fromkeys(("step", "bytes", "totalBytes"), numbers), "url": texts},
)
states = st.fixed_dictionaries(
    {"group": st.just("g1"), "prefix": st.just("s3://bucket/run")},
    optional={
        **dict.fromkeys(("world", "step", "holdSeconds"), numbers),
        "requests": st.lists(taken, max_size=1),
        "ended": st.lists(ended, max_size=1),
        "resumedFrom": st.fixed_dictionaries({}, optional={"url": texts, "step": numbers, "origin": origins}),
        "ends": st.booleans(),
    },
)


@pytest.mark.adversary
@settings(deadline=None, max_examples=examples(daily=40, long=1000))
@given(states, st.sampled_from([None, ASKED]), st.sampled_from([0, 3601]))
def test_whatever_a_training_says_can_be_written(said: dict[str, Any], status: Any, seconds: int) -> None:
    try:
        state = AgentState.decode(json.dumps(said).encode())
    except ValueError:
        return
    agent = ConnectedAgent(pod="rank0", pod_uid="u0", state=state, heard=NOW)
    found = json.loads(json.dumps(decided(agent, status=status, of=save(), now=at(seconds)).status, allow_nan=False))
    ACCEPTS.validate(found)
    assert all(abs(each) < 1 << 63 for each in integers(found))

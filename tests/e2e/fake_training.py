"""A training without torch: what rank 0's agent says to the operator, over the channel, from inside a pod.

It runs in the worker image, which has the messages (`dcp_contract`) and nothing of the tests. It saves nothing: it says
that it did, SAVE_SECONDS after it was asked, and not before the file SAVED_WHEN is there. Each line that it prints is
JSON.
"""

import contextlib
import http.client
import json
import os
import ssl
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

from dcp_contract.checkpoint_info import CheckpointInfo, Origin
from dcp_contract.training import (
    CHANNEL_FOLDER,
    TRAINING_PATH,
    AgentOrders,
    AgentState,
    EndedSave,
    SaveRequest,
    SaveStage,
    TakenRequest,
)

FOLDER = Path(os.environ.get("DCP_CHANNEL", CHANNEL_FOLDER))
PREFIX = "s3://bucket/run"
SAVE_SECONDS = float(os.environ.get("SAVE_SECONDS", "0"))
SAVED_WHEN = os.environ.get("SAVED_WHEN", "")


class Channel:
    """A connection, made anew where it was closed."""

    def __init__(self) -> None:
        self.connection: http.client.HTTPSConnection | None = None

    def post(self, state: AgentState) -> AgentOrders | None:
        """Post once; None where that was refused or nobody answered."""
        try:
            if self.connection is None:
                url = urlsplit((FOLDER / "url").read_text())
                tls = ssl.create_default_context(cafile=str(FOLDER / "ca.crt"))
                self.connection = http.client.HTTPSConnection(str(url.hostname), url.port, timeout=40, context=tls)
            headers = {"Authorization": f"Bearer {(FOLDER / 'token').read_text()}"}
            self.connection.request("POST", TRAINING_PATH, state.encode(), headers)
            answer = self.connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            say(error=f"{type(error).__name__}: {error}")
        else:
            say(status=answer.status, line=body.decode()[:200])
            if answer.status == http.HTTPStatus.OK:
                return AgentOrders.decode(body)
        if self.connection is not None:
            self.connection.close()
        self.connection = None
        return None


def say(**what: object) -> None:
    """Print a line."""
    print(json.dumps(what), flush=True)


def saved(request: SaveRequest, step: int) -> EndedSave:
    """Return what is said of a save."""
    url = request.url or f"{PREFIX}/step-{step}"
    info = CheckpointInfo(url=url, save_id=uuid.uuid4().hex, step=step, bytes=1 << 20, files=1, origin=request.origin)
    return EndedSave(id=request.id, step=step, url=url, seconds=0.5, blocked_seconds=0.125, checkpoint=info)


def main() -> None:
    """Train for as long as the pod lives."""
    channel, began = Channel(), time.monotonic()
    group = uuid.uuid4().hex
    taken: dict[str, SaveRequest] = {}
    since: dict[str, float] = {}
    ended: dict[str, EndedSave] = {}
    known: set[str] = set()
    if "OWN" in os.environ:
        for prefix in (PREFIX, "s3://bucket/of-others"):
            own = saved(SaveRequest(id=uuid.uuid4().hex, url=f"{prefix}/step-1", origin=Origin()), 1)
            ended[own.id] = own.model_copy(update={"requested": False})
    while True:
        step = int(10 * (time.monotonic() - began)) + 1
        orders = channel.post(
            AgentState(
                group=group,
                prefix=PREFIX,
                also=["s3://bucket/of-others"],
                keeps=True,
                step=step,
                requests=[TakenRequest(id=each, stage=SaveStage.SAVING, step=step) for each in taken],
                ended=list(ended.values()),
                hold_seconds=1 if taken or ended else 5,
            )
        )
        if orders is None:
            time.sleep(0.5)
            continue
        may_end = not SAVED_WHEN or Path(SAVED_WHEN).exists()
        done = [each for each in taken if may_end and time.monotonic() >= since[each] + SAVE_SECONDS]
        ended |= {each: saved(taken.pop(each), step) for each in done}
        new = {each.id: each for each in orders.requests if each.id not in known}
        taken |= new
        since |= dict.fromkeys(new, time.monotonic())
        known |= {*new}
        for each in orders.acknowledged:
            ended.pop(each, None)
        if "OWN" in os.environ:
            say(retention=orders.retention, listed=len(ended))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()

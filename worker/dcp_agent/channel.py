"""The way to the operator: rank 0 posts what it knows, and the answer says what is asked. See docs/training-channel.md.

Training needs none of it. Where the pod has no token or the operator does not answer, training saves as it would alone.
"""

import http.client
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from dcp_agent.requests import RequestBook
from dcp_contract.training import (
    CHANNEL_FOLDER,
    CHANNEL_FOLDER_ENV,
    HOLD_SECONDS,
    MESSAGE_LIMIT,
    TRAINING_PATH,
    AgentOrders,
    AgentState,
)

LOG: Final = logging.getLogger("dcp_agent")
ANSWER_SECONDS: Final = HOLD_SECONDS + 15.0
"""After which an answer that was held is given up."""
CONNECT_SECONDS: Final = 10.0
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 15.0
"""After a failure; each failure in a row doubles the pause."""
MOST_PAUSE: Final = 60.0
"""Whatever the operator asks for: a wait of too many seconds would end the thread."""
ABSENT_SECONDS: Final = 2.0
"""How often to look whether the operator has made the ConfigMap."""
FAREWELL_SECONDS: Final = 5.0
"""How long a training that ends waits for the operator to have heard how its last save ended."""
POST_SECONDS: Final = 0.6
"""From one post to the next: the operator takes two a second."""
_SAID_AT: Final = 4
"""Failures in a row after which the log says so."""


class ChannelError(Exception):
    """The operator has refused."""

    def __init__(self, line: str, after: float | None = None) -> None:
        super().__init__(line)
        self.after = after
        """Seconds after which to come again, where the operator said so."""


def folder() -> Path | None:
    """Return where the pod has its token for the operator; None if it has none."""
    found = Path(os.environ.get(CHANNEL_FOLDER_ENV, CHANNEL_FOLDER))
    return found if _is_there(found / "token") else None


def _is_there(path: Path) -> bool:
    """Return whether a file is there; one that can't be looked for is not, and costs no training."""
    try:
        return path.exists()
    except OSError:
        return False


class ChannelClient(threading.Thread):
    """Posts the book's state again and again, and has the book take the answers."""

    def __init__(self, book: RequestBook, place: Path, step: Callable[[], int], ask: Callable[[], object]) -> None:
        """Begin to post, in a thread of its own.

        Args:
            book: What is told and taken.
            place: The folder that has `token`, and, once the operator has written them, `ca.crt` and `url`.
            step: Returns the last step that rank 0 has finished.
            ask: Called where a request waits for all ranks to save; it may be called again while the request waits.
        """
        super().__init__(name="dcp-agent-channel", daemon=True)
        self._book, self._place, self._step, self._ask = book, place, step, ask
        self._connection: http.client.HTTPSConnection | None = None
        self._news, self._closing = threading.Event(), threading.Event()
        self._until = 0.0
        self._failures = 0
        self.grace: float | None = None
        """The pod's grace in seconds, once the operator has told it."""
        self.retention: str | None = None
        """The series that removes old checkpoints in place of this training; None before the first answer."""
        self.start()

    def tell(self) -> None:
        """Have the book's news told at once: the post that waits is broken off. Any thread may call it."""
        self._news.set()
        # Read once: the thread that posts may disconnect meanwhile, and training calls this.
        connection = self._connection
        found = connection.sock if connection is not None else None
        if found is not None:
            with suppress(OSError):
                # Not that of SSLSocket, which takes the TLS state away from the thread that reads.
                socket.socket.shutdown(found, socket.SHUT_RDWR)

    def close(self) -> None:
        """Wait until the operator has heard how the last saves ended, if it listens; then stop."""
        self._until = time.monotonic() + FAREWELL_SECONDS
        self._closing.set()
        self.tell()
        self.join(FAREWELL_SECONDS)

    def run(self) -> None:
        """Post until closed."""
        last = False
        while not last:
            last = self._closing.is_set()
            began = time.monotonic()
            if last and began > self._until:
                break
            self._news.clear()
            try:
                pause = self._turn()
            except Exception:
                # Nobody would begin another thread.
                LOG.exception("the channel to the operator failed, and goes on")
                pause = LONGEST_PAUSE
            last = last and not self._book.has_news
            if not last:
                self._news.wait(min(max(0.0, pause), MOST_PAUSE))
                # News that come together go together.
                self._closing.wait(max(0.0, began + POST_SECONDS - time.monotonic()))
        self._disconnect()

    def _turn(self) -> float:
        """Ask the ranks to save where a request waits, and post once; return the pause until the next turn."""
        if self._book.is_asked:
            self._ask()
        return self._exchange() if _is_there(self._place / "url") else ABSENT_SECONDS

    def _exchange(self) -> float:
        """Post once, and take the answer; return the pause until the next post, in seconds."""
        try:
            orders = self._post(self._book.state(self._step()))
        except (ChannelError, OSError, http.client.HTTPException, ValueError) as error:
            self._disconnect()
            return 0.0 if self._news.is_set() else self._failed(error)
        self._failures = 0
        self.grace, self.retention = orders.grace_seconds, orders.retention
        self._book.take(orders)
        return 0.0 if self._book.is_asked else orders.wait_seconds

    def _post(self, state: AgentState) -> AgentOrders:
        connection = self._connected()
        token = (self._place / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request("POST", TRAINING_PATH, state.encode(), headers)
        answer = connection.getresponse()
        body = answer.read(MESSAGE_LIMIT + 1)
        if answer.status != HTTPStatus.OK:
            after = answer.headers.get("Retry-After", "")
            line = body.decode(errors="replace").strip()[:500] or answer.reason
            raise ChannelError(f"{answer.status}: {line}", float(after) if after.isdecimal() else None)
        if answer.will_close:
            self._disconnect()
        return AgentOrders.decode(body)

    def _connected(self) -> http.client.HTTPSConnection:
        """Return the connection; a new one trusts what the ConfigMap holds by now."""
        if self._connection is None:
            address = urlsplit((self._place / "url").read_text().strip())
            trusted = ssl.create_default_context(cafile=self._place / "ca.crt")
            connection = http.client.HTTPSConnection(
                address.hostname or "", address.port, timeout=CONNECT_SECONDS, context=trusted
            )
            connection.connect()
            connection.sock.settimeout(ANSWER_SECONDS)
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _failed(self, error: Exception) -> float:
        self._failures += 1
        level = logging.WARNING if self._failures == _SAID_AT else logging.DEBUG
        LOG.log(level, "the operator is out of reach, and training goes on: %s", error)
        if isinstance(error, ChannelError) and error.after is not None:
            return error.after
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10))

"""Connections that ask or read too slowly are closed, and there are only so many: the rest is told to ask again.

What is sent after its refusal is thrown away for HEADERS_S, so that who sends it comes to read why.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 400  # connections; browsers make up to six each
LOOKED_EVERY_S = 1.0
HEADERS_S = 10.0  # for the head of a question, from the connection or the end of the answer before it
READ_S = 30.0  # for an answer to be read
FULL = (
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 5\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b'content-length: 62\r\n\r\n{"error": "too many connections; ask again in some seconds."}\n'
)
LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Connection(H11Protocol):  # type: ignore[misc]
    """A connection, looked at every second."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._looking: asyncio.TimerHandle | None = None
        self._quiet_since = self._read_since = time.monotonic()
        self._began = False  # whether part of a head has come

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take it, or say that there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST:
            transport.write(FULL)
            transport.close()
        self._look()

    def data_received(self, data: bytes) -> None:
        """Read on, but of one that is being closed."""
        if self.transport.is_closing():
            return
        self._began = self._began or not self._answering
        super().data_received(data)

    def on_response_complete(self) -> None:
        """Wait for the next question from now on."""
        self._quiet_since, self._began = time.monotonic(), False
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        if self._looking:
            self._looking.cancel()
        super().connection_lost(exc)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _look(self) -> None:
        """Close a connection that sends no head, or does not read what was answered."""
        now, unread = time.monotonic(), self.transport.get_write_buffer_size()
        self._read_since = self._read_since if unread else now
        self._quiet_since = now if self._answering or unread else self._quiet_since
        if now - self._read_since > READ_S:
            self.transport.abort()
            return
        if now - self._quiet_since > HEADERS_S and not self.transport.is_closing():
            if self._began:
                self.transport.write(LATE)
            self.transport.close()
        self._looking = self.loop.call_later(LOOKED_EVERY_S, self._look)

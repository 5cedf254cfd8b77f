"""Bounds how long a server may take for each part of its answer, however much it says meanwhile.

A client's own timeout is for silence: whoever sends a byte, or `100 Continue`, now and then has it wait
for ever.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Timer
from typing import Any

import httpx

_CONNECTED = (".connect_tcp.complete", ".start_tls.complete")


class Patience:
    """Waits for the answers to one client's requests, one at a time."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether the last part took too long: what came of it may not be all."""
        return self._is_over

    def note(self, event: str, info: Mapping[str, Any]) -> None:
        """Hear of the client's connection (`trace` among httpcore's request extensions)."""
        if event.endswith(_CONNECTED):
            self._socket = info["return_value"].get_extra_info("socket")
            if self._is_over:
                self._hang_up()

    @contextmanager
    def for_part(self) -> Iterator[None]:
        """Wait no longer than that for the head, or for the body; `httpx.ReadTimeout` where it fails then."""
        self._is_over = False
        timer = Timer(self._timeout_s, self._end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except httpx.HTTPError as error:
            if self._is_over:
                raise httpx.ReadTimeout("the answer does not end") from error
            raise
        finally:
            timer.cancel()

    def _end(self) -> None:
        self._is_over = True
        self._hang_up()

    def _hang_up(self) -> None:
        if self._socket is not None:
            # Whoever reads from it wakes up. The way of the plain socket, for TLS too: its own would
            # take the decryption away from the one who reads.
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

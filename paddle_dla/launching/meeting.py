"""A barrier for ranks: it waits as long as necessary, but not for a rank that has exited.

gloo's own wait ends a job after 30 seconds, even if the other rank is only writing a checkpoint, evaluating a larger
part, or stopped by a signal. Paddle offers no option for that limit. Ranks therefore meet here first and exchange
afterwards, when all of them have arrived.

Rank 0 has a connection to every other rank. Each rank sends a word when it arrives; rank 0 answers all when all have
arrived. When a process ends, its connections close, which ends the others' wait at once and identifies the rank.
"""

from __future__ import annotations

import hmac
import math
import secrets
import selectors
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from paddle_dla.errors import UserError

PULSE = 1.0  # seconds between two heartbeats of a rank that waits
CONNECT = 60.0  # seconds for connecting, when all ranks are known to be running
TOKEN = 16  # bytes that identify a rank to rank 0
WORD = struct.Struct("<i")
GO = -1  # the word that all have arrived; any other is the number of the lost rank
# a machine that is off sends nothing: after 60 s of silence it is probed four times, every 15 s (tcp(7), Linux)
KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 120_000}

Exchange = Callable[[Any], list[Any]]


class LostRankError(UserError):
    """``rank`` has ended, or its machine does not respond, while this rank waited for it."""

    def __init__(self, rank: int, why: str):
        super().__init__(f"the connection to rank {rank} is lost: {why}")
        self.rank = rank


class Meeting:
    """The connections of one rank: from rank 0 to all others, from every other rank to rank 0.

    ``pulse`` is called every second while this rank waits. ``limit``: seconds after which waiting fails.
    """

    def __init__(self, links: Mapping[int, socket.socket], pulse: Callable[[], None], limit: float = math.inf):
        self._links, self._pulse, self._limit = dict(links), pulse, limit
        for link in self._links.values():
            _prepare(link)

    def wait(self) -> None:
        """Return when all ranks have called this equally often. Raises ``LostRankError``."""
        if 0 in self._links:
            self._send(0, GO)
            self._receive_all()
            return
        try:
            self._receive_all()
        except LostRankError as error:
            for rank in self._links:
                with suppress(LostRankError):
                    self._send(rank, error.rank)
            raise
        for rank in self._links:
            self._send(rank, GO)

    def _send(self, rank: int, word: int) -> None:
        try:
            self._links[rank].sendall(WORD.pack(word))
        except OSError as error:
            raise LostRankError(rank, error.strerror or str(error)) from error

    def _receive_all(self) -> None:
        """Receive one word from every connection."""
        began = time.monotonic()
        with selectors.DefaultSelector() as selector:
            for rank, link in self._links.items():
                selector.register(link, selectors.EVENT_READ, rank)
            while selector.get_map():
                ready = selector.select(PULSE)
                for key, _ in ready:
                    self._receive(key.data)
                    selector.unregister(key.fileobj)
                if not ready:
                    self._pulse()
                    self._give_up(began, min(key.data for key in selector.get_map().values()))

    def _receive(self, rank: int) -> None:
        try:
            data = self._links[rank].recv(WORD.size, socket.MSG_WAITALL)
        except OSError as error:
            raise LostRankError(rank, error.strerror or str(error)) from error
        if len(data) < WORD.size:
            raise LostRankError(rank, "it has ended")
        (word,) = WORD.unpack(data)
        if word != GO:
            raise LostRankError(word, f"reported by rank {rank}")

    def _give_up(self, began: float, rank: int) -> None:
        if time.monotonic() - began > self._limit:
            raise LostRankError(rank, f"no message from it for {self._limit:.0f} s")

    def close(self) -> None:
        """Close the connections; this rank will not meet again."""
        for link in self._links.values():
            link.close()
        self._links = {}


def connect(
    rank: int, count: int, host: str, exchange: Exchange, pulse: Callable[[], None], limit: float = math.inf
) -> Meeting:
    """Connect ``count`` ranks, of which this is ``rank``; all must call this at the same time.

    ``host``: the address of this machine. ``exchange`` gives every rank the values of all. Raises ``LostRankError`` if
    a rank does not connect.
    """
    with socket.create_server(("", 0), backlog=count) if rank == 0 else socket.socket() as server:
        port, token = (server.getsockname()[1], secrets.token_bytes(TOKEN)) if rank == 0 else (0, b"")
        host, port, token = exchange((host, port, token))[0]
        links = _accept(server, count, token) if rank == 0 else {0: _reach(host, port, token, rank)}
    return Meeting(links, pulse, limit)


def _accept(server: socket.socket, count: int, token: bytes) -> dict[int, socket.socket]:
    """Return the connections of all other ranks; connections without the token are refused."""
    links: dict[int, socket.socket] = {}
    end = time.monotonic() + CONNECT
    while len(links) < count - 1:
        server.settimeout(max(end - time.monotonic(), 0.001))
        try:
            link, _ = server.accept()
        except TimeoutError:
            missing = min(set(range(1, count)) - set(links))
            raise LostRankError(missing, f"it has not connected within {CONNECT:.0f} s") from None
        rank = _introduced(link, token)
        if rank is not None and 0 < rank < count and rank not in links:
            links[rank] = link
        else:
            link.close()
    return links


def _introduced(link: socket.socket, token: bytes) -> int | None:
    """Return the rank that has connected; ``None`` for a stranger."""
    link.settimeout(CONNECT / 10)
    try:
        data = link.recv(TOKEN + WORD.size, socket.MSG_WAITALL)
    except OSError:
        return None
    if len(data) < TOKEN + WORD.size or not hmac.compare_digest(data[:TOKEN], token):
        return None
    return WORD.unpack(data[TOKEN:])[0]


def _reach(host: str, port: int, token: bytes, rank: int) -> socket.socket:
    try:
        link = socket.create_connection((host, port), CONNECT)
        link.sendall(token + WORD.pack(rank))
    except OSError as error:
        raise LostRankError(0, f"no connection to {host}:{port}: {error.strerror or error}") from error
    return link


def _prepare(link: socket.socket) -> None:
    link.settimeout(None)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {"TCP_NODELAY": 1, **KEEPALIVE}.items():
        if hasattr(socket, name):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

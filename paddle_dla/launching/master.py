"""Where the launchers of several nodes meet: an address that is free, or on which one of them answers. No framework."""

from __future__ import annotations

import argparse
import http.client

PATIENCE = 10.0  # seconds for an answer; Paddle's launcher gives one in milliseconds


def address(text: str) -> str:
    """``IP:PORT``, as ``argparse`` converts it."""
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
        raise argparse.ArgumentTypeError(f"{text} is no IP:PORT")
    return text


def is_taken(master: str, patience: float = PATIENCE) -> bool:
    """Whether something else than Paddle's launcher listens on ``master``.

    Each launcher would take it for the first one and wait for ever. Where nobody listens, or the machine cannot be
    reached yet, nothing is taken.
    """
    host, _, port = master.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=patience)
    try:
        connection.connect()
    except OSError:
        return False
    try:
        connection.request("GET", "/healthy")
        return b"ok" not in connection.getresponse().read(1000)
    except (OSError, http.client.HTTPException):
        return True
    finally:
        connection.close()

"""The meeting address of the launchers of several nodes: free, or used by one of these launchers. No framework."""

from __future__ import annotations

import argparse
import http.client

PATIENCE = 10.0  # seconds to wait for an answer; Paddle's launcher takes milliseconds


def address(text: str) -> str:
    """Convert an ``argparse`` argument ``IP:PORT``."""
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
        raise argparse.ArgumentTypeError(f"{text} is not of the form IP:PORT")
    return text


def is_taken(master: str, patience: float = PATIENCE) -> bool:
    """Return whether something other than Paddle's launcher listens on ``master``.

    Each launcher would take it for the first launcher and wait forever. If nothing listens, or the machine cannot be
    reached yet, the address is not taken.
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

"""What d2run and its decoder processes say to one another: lines of JSON, and raw pixels.

Nothing here can make a reader run code or take more memory than it agreed to.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

_LENGTH = struct.Struct("!I")
_MAX_BYTES = 1 << 17  # of a message: a path, or a sentence


def send(connection: socket.socket, message: dict[str, Any], deadline: float | None = None) -> None:
    """Send a message.

    Args:
        connection: A stream socket.
        message: What JSON can say.
        deadline: When to give up, on the clock of ``time.monotonic``.

    Raises:
        TimeoutError: It is past the deadline.
        OSError: Nobody is at the other end.
        ValueError: The message is too long.
    """
    data = json.dumps(message).encode()  # ASCII, whatever bytes a path is made of
    if len(data) > _MAX_BYTES:
        raise ValueError(f"message of {len(data)} bytes")
    _wait(connection, deadline)
    connection.sendall(_LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket, deadline: float | None = None) -> dict[str, Any]:
    """Return the next message.

    Raises:
        TimeoutError: It is past the deadline.
        EOFError: The other end has closed.
        ValueError: What came is no message.
    """
    head = bytearray(_LENGTH.size)
    fill(connection, memoryview(head), deadline)
    (length,) = _LENGTH.unpack(head)
    if length > _MAX_BYTES:
        raise ValueError(f"message of {length} bytes")
    data = bytearray(length)
    fill(connection, memoryview(data), deadline)
    try:
        message = json.loads(data)
    except RecursionError as exc:
        raise ValueError("message of too many levels") from exc
    if not isinstance(message, dict):
        raise ValueError("message that is no object")
    return message


def fill(connection: socket.socket, view: memoryview, deadline: float | None = None) -> None:
    """Receive bytes straight into ``view`` until it is full.

    Raises:
        TimeoutError: It is past the deadline.
        EOFError: The other end has closed.
    """
    while view:
        _wait(connection, deadline)
        received = connection.recv_into(view)
        if not received:
            raise EOFError
        view = view[received:]


def _wait(connection: socket.socket, deadline: float | None) -> None:
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        raise TimeoutError
    connection.settimeout(left)

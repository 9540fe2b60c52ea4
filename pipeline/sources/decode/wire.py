"""The protocol between d2run and its decoder processes: JSON messages and raw pixels.

A message cannot make its receiver run code or allocate more memory than agreed.
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
        message: Values that JSON supports.
        deadline: When to give up, as a value of ``time.monotonic()``.

    Raises:
        TimeoutError: The deadline has passed.
        OSError: The other end is closed.
        ValueError: The message is too long.
    """
    data = json.dumps(message).encode()  # ASCII, whatever bytes a path contains
    if len(data) > _MAX_BYTES:
        raise ValueError(f"message of {len(data)} bytes")
    _wait(connection, deadline)
    connection.sendall(_LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket, deadline: float | None = None) -> dict[str, Any]:
    """Return the next message.

    Raises:
        TimeoutError: The deadline has passed.
        EOFError: The other end has closed.
        ValueError: The data is not a message.
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
        raise ValueError("message with too many levels") from exc
    if not isinstance(message, dict):
        raise ValueError("message that is not an object")
    return message


def fill(connection: socket.socket, view: memoryview, deadline: float | None = None) -> None:
    """Receive bytes straight into ``view`` until it is full.

    Raises:
        TimeoutError: The deadline has passed.
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

"""A camera on 127.0.0.1: MJPEG, transport stream and MP4 over HTTP, and RTSP; can be killed."""

from __future__ import annotations

import io
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
from videos import picture, write_video

RATE = Fraction(25)
SIZE = 64, 48
_TS = 188


@lru_cache
def clip(n: int, suffix: str) -> bytes:
    """Return a video of n frames at 25 per second, each with its number."""
    with TemporaryDirectory() as folder:
        path = write_video(Path(folder) / f"clip{suffix}", n, size=SIZE, rate=RATE, bf=0)
        return path.read_bytes()


class Camera:
    """Answers HTTP and RTSP on one port, each client on its own thread.

    Paths: ``/live.mjpg``, ``/live.ts``, ``/clip.mp4``; ``/cut.mp4`` sends only a part the first
    time; ``/silent`` never answers, ``/trickle.ts`` sends byte by byte, ``/stuck.ts`` stops in
    the middle, ``/damaged.ts`` has zeros there, ``/401`` and ``/404`` refuse. Every other path is
    valid for RTSP, which sends the transport stream.

    Args:
        n: Number of frames; the connection ends after them.
        rate: Frames per second; 0 for as fast as possible.
        port: The port; by default a free one.

    Attributes:
        requests: The first lines of all requests.
    """

    def __init__(self, n: int = 50, rate: float = 25, port: int = 0) -> None:
        self.n, self.rate = n, rate
        self.requests: list[str] = []
        self._server = socket.create_server(("127.0.0.1", port))
        self.port = self._server.getsockname()[1]
        self._clients: list[socket.socket] = []
        self._is_dead = False
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def url(self, path: str, scheme: str = "http", user: str = "") -> str:
        return f"{scheme}://{user}127.0.0.1:{self.port}/{path}"

    def kill(self) -> None:
        """Close all sockets at once."""
        self._is_dead = True
        for each in (self._server, *self._clients):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self._clients.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError, ValueError), client, client.makefile("rb") as file:
            while request := _request(file):
                first, headers = request
                self.requests.append(first)
                method, target, version = first.split(" ")
                if target.endswith("/silent"):
                    self._idle()
                elif version.startswith("RTSP"):
                    if self._rtsp(client, method, target, headers):
                        return
                else:
                    self._http(client, target)
                    return

    def _http(self, client: socket.socket, target: str) -> None:
        path = target.partition("?")[0]
        if path in ("/401", "/404"):
            client.sendall(f"HTTP/1.0 {path[1:]} No\r\n\r\n".encode())
            return
        if path in ("/clip.mp4", "/cut.mp4"):
            data = clip(self.n, ".mp4")
            head = f"HTTP/1.0 200 OK\r\nContent-Length: {len(data)}\r\n\r\n"
            is_cut = path == "/cut.mp4" and len(self.requests) == 1
            client.sendall(head.encode() + data[: int(len(data) * (0.8 if is_cut else 1))])
            return
        if path == "/live.mjpg":
            kind = b"multipart/x-mixed-replace; boundary=x"
            client.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: " + kind + b"\r\n\r\n")
            for i in range(self.n):
                jpeg = cv2.imencode(".jpg", picture(i, SIZE))[1].tobytes()
                head = f"--x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                client.sendall(head.encode() + jpeg + b"\r\n")
                self._pause(1)
            return
        client.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
        if path == "/trickle.ts":
            for byte in clip(self.n, ".ts"):
                client.sendall(bytes([byte]))
                time.sleep(0.02)
        data = clip(self.n, ".ts")
        half = len(data) // _TS // 2 * _TS
        if path == "/damaged.ts":
            data = data[:half] + bytes(10 * _TS) + data[half + 10 * _TS :]
        for part in self._parts(data[:half] if path == "/stuck.ts" else data):
            client.sendall(part)
        if path == "/stuck.ts":
            self._idle()

    def _rtsp(
        self, client: socket.socket, method: str, target: str, headers: dict[str, str]
    ) -> bool:
        answer = f"RTSP/1.0 200 OK\r\nCSeq: {headers.get('cseq', '1')}\r\nSession: 1\r\n"
        body = ""
        if target.endswith(("/401", "/404")):
            answer = answer.replace("200 OK", f"{target[-3:]} No")
        elif method == "OPTIONS":
            answer += "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\n"
            answer += f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        elif method == "SETUP":
            answer += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
        client.sendall(f"{answer}\r\n{body}".encode())
        if method != "PLAY":
            return method == "TEARDOWN"
        for number, part in enumerate(self._parts(clip(self.n, ".ts"))):
            head = struct.pack(">BBHII", 0x80, 33, number & 0xFFFF, number * 3600, 1)
            client.sendall(struct.pack(">BBH", 0x24, 0, len(head + part)) + head + part)
        return True

    def _parts(self, data: bytes) -> Iterator[bytes]:
        size = 7 * _TS
        for start in range(0, len(data), size):
            yield data[start : start + size]
            self._pause(self.n * size / len(data))

    def _pause(self, frames: float) -> None:
        if self._is_dead:
            raise OSError
        if self.rate:
            time.sleep(frames / self.rate)

    def _idle(self) -> None:
        while not self._is_dead:
            time.sleep(0.05)


def _request(file: io.BufferedIOBase) -> tuple[str, dict[str, str]] | None:
    first = file.readline().decode().strip()
    headers: dict[str, str] = {}
    while line := file.readline().decode().strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return (first, headers) if first else None

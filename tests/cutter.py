"""A wire to a server on loopback that can be cut, after so many bytes or on command."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field


@dataclass
class Cutter:
    """Forwards connections to a server, and breaks them.

    ``left`` is what may still come from the server, ``sending_left`` what may still go to it.
    """

    server: int
    left: int | None = None
    passed: int = 0
    sending_left: int | None = None
    _ends: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        """Reset every connection, towards both sides."""
        ends, self._ends = self._ends, []
        _reset(*ends)

    def close(self) -> None:
        self._listening.close()
        self.cut()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self.server))
                self._ends += [client, server]
                threading.Thread(target=self._send, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _send(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                if self.sending_left is not None:
                    data = data[: self.sending_left]
                    self.sending_left -= len(data)
                server.sendall(data)
                if self.sending_left == 0:
                    break
        _reset(client, server)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if self.left is not None:
                    data = data[: self.left]
                    self.left -= len(data)
                client.sendall(data)
                self.passed += len(data)
                if self.left == 0:
                    break
        _reset(server, client)


def _reset(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.shutdown(socket.SHUT_RDWR)
        end.close()

"""A TCP proxy in front of a plain http server that loses what it is told to lose."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

_ANSWER = b"HTTP/1.1 %d Injected\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(slots=True)
class Fault:
    """Happens to the next ``left`` requests whose head has ``match`` in it. ``hits`` counts them.

    ``request``: the connection is reset once ``after`` bytes of the request (head included) went to the server.
    ``answer``: once ``after`` bytes of the answer came back; 0 loses all of it, the server having done its work.
    ``status``: the proxy answers so itself, and the server never hears of it.
    """

    kind: Literal["request", "answer", "status"]
    match: bytes
    after: int = 0
    left: int = 1
    status: int = 503
    hits: int = 0


@dataclass(slots=True)
class _Exchange:
    """Where one connection is: the request it carries, what passed of it and of its answer."""

    head: bytes = b""
    sent: int = 0
    answered: int = 0


@dataclass(slots=True)
class Proxy:
    """``url`` speaks to the server. Faults are added from any thread, and fire in the order they were added."""

    upstream: int
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)

    def add(self, fault: Fault) -> Fault:
        self.faults.append(fault)
        return fault

    def cut_request(self, match: bytes, *, after: int, times: int = 1) -> Fault:
        return self.add(Fault("request", match, after, times))

    def cut_answer(self, match: bytes, *, after: int = 0, times: int = 1) -> Fault:
        return self.add(Fault("answer", match, after, times))

    def answer(self, match: bytes, status: int, *, times: int = 1) -> Fault:
        return self.add(Fault("status", match, 0, times, status))

    def requests(self, match: bytes) -> int:
        """Count the requests so far whose head has ``match`` in it."""
        return sum(match in head for head in self.heads)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        exchange = _Exchange()
        pumps = [
            asyncio.create_task(self._pump_requests(reader, server_writer, writer, exchange)),
            asyncio.create_task(self._pump_answers(server_reader, writer, exchange)),
        ]
        # Whichever side ends first ends both: an http connection is of no use one way.
        with contextlib.suppress(asyncio.CancelledError):  # the proxy is being stopped
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for side in (writer, server_writer):
            side.close()

    async def _pump_requests(
        self,
        reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        exchange: _Exchange,
    ) -> None:
        while chunk := await reader.read(1 << 16):
            if b" HTTP/1.1\r\n" in chunk[:2048]:
                exchange.head, exchange.sent, exchange.answered = chunk[:8192], 0, 0
                self.heads.append(exchange.head)
                if fault := self._due("status", exchange.head):
                    client.write(_ANSWER % fault.status)
                    await client.drain()
                    return
            fault = self._due("request", exchange.head, exchange.sent + len(chunk))
            if fault:
                server.write(chunk[: max(0, fault.after - exchange.sent)])
                await server.drain()
                _reset(client, server)
                return
            exchange.sent += len(chunk)
            server.write(chunk)
            await server.drain()

    async def _pump_answers(
        self, reader: asyncio.StreamReader, client: asyncio.StreamWriter, exchange: _Exchange
    ) -> None:
        while chunk := await reader.read(1 << 16):
            interim = chunk.startswith(b"HTTP/1.1 100")  # "go on", not yet the answer
            fault = None if interim else self._due("answer", exchange.head, exchange.answered + len(chunk))
            if fault:
                client.write(chunk[: max(0, fault.after - exchange.answered)])
                await client.drain()
                _reset(client)
                return
            exchange.answered += 0 if interim else len(chunk)
            client.write(chunk)
            await client.drain()

    def _due(self, kind: str, head: bytes, passed: int = 1) -> Fault | None:
        for fault in self.faults:
            if fault.kind == kind and fault.left > 0 and fault.match in head and passed > fault.after:
                fault.left -= 1
                fault.hits += 1
                return fault
        return None


def _reset(*writers: asyncio.StreamWriter) -> None:
    """Close with RST, as a firewall or a dying machine does, not with the orderly FIN."""
    for writer in writers:
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


@contextlib.contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    """Run a Proxy to this port of loopback, in a thread of its own, until the block is left."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    proxy = Proxy(port)
    try:
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(proxy.serve, "127.0.0.1", 0), loop).result()
        proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(_stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _stop() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

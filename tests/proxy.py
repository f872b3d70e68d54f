"""A proxy in front of a plain http server that makes bad weather: it cuts, stalls, slows, damages and answers itself.

It reads http well enough to know where a request and where its answer begins and ends, so a fault hits the byte
that it names, and what travelled can be counted by kind of request (the names that S3 and OSS share).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

_CHUNK = 1 << 16

What = Literal[
    "refuse", "cut request", "end request", "stall request", "late request", "slow request", "damage request",
    "cut answer", "end answer", "stall answer", "slow answer", "damage answer", "status", "cut all",
]  # fmt: skip


@dataclass(slots=True)
class Fault:
    """Happens to ``left`` requests of ``call`` ("" is any) with ``match`` in their head, after ``skip`` such requests.

    ``after`` counts bytes of the body; a body that is shorter is left in peace, and the fault waits for another.
    ``refuse``: reset, and the server never hears of it. ``cut``: reset after so many bytes; ``end``: the same, but
    orderly; 0 of an answer loses all of it, the server having done its work. ``stall``: nothing more passes until
    ``clear``; ``late request``: the same, and then all of it reaches the server. ``slow``: the body takes
    ``seconds``. ``damage``: one bit of the byte after so many flips. ``status``: the proxy answers ``status``,
    ``headers`` and ``body`` itself. ``cut all``: every connection is reset when the request is so far.
    ``meanwhile`` is called before such a request goes on. ``hits`` counts what really happened.
    """

    what: What | Literal["nothing"]
    match: bytes = b""
    after: int = 0
    left: int = 1
    status: int = 503
    call: str = ""
    skip: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0
    meanwhile: Callable[[], object] | None = None
    hits: int = 0

    def fits(self, length: int) -> bool:
        """Say whether a body of this length reaches the byte that is to be hit."""
        return self.after < length if self.what.startswith("damage") else self.after <= length


@dataclass(frozen=True, slots=True)
class _Message:
    """The head of a request or of an answer, as it came and taken apart."""

    head: bytes
    first: list[str]
    headers: dict[str, str]

    @property
    def method(self) -> str:
        return self.first[0]

    @property
    def status(self) -> str:
        return self.first[1]

    @property
    def call(self) -> str:
        return call_of(self.first[0], self.first[1])

    @property
    def length(self) -> int:
        return int(self.headers.get("content-length", 0))

    @property
    def chunked(self) -> bool:
        return self.headers.get("transfer-encoding", "").lower() == "chunked"


class _Over(Exception):
    """This connection ends here."""


@dataclass(slots=True)
class _Line:
    """One connection of a client, and the one to the server that belongs to it."""

    reader: asyncio.StreamReader
    client: asyncio.StreamWriter
    answers: asyncio.StreamReader
    server: asyncio.StreamWriter

    def reset(self) -> None:
        """Close with RST, as a firewall or a dying machine does, not with the orderly FIN."""
        for side in (self.client, self.server):
            connection: socket.socket = side.get_extra_info("socket")
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            side.transport.abort()

    def close(self) -> None:
        for side in (self.client, self.server):
            side.close()


@dataclass(slots=True)
class Proxy:
    """``url`` speaks to the server. Faults are added from any thread, and fire in the order they were added.

    ``heads``: of every request. ``calls`` counts them by their kind, ``taken`` the bytes of their bodies.
    """

    upstream: int
    loop: asyncio.AbstractEventLoop
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    taken: Counter[str] = field(default_factory=Counter)
    _lines: list[_Line] = field(default_factory=list)
    _calm: asyncio.Event = field(default_factory=asyncio.Event)
    _late: set[asyncio.Event] = field(default_factory=set)

    def add(self, fault: Fault) -> Fault:
        self.faults.append(fault)
        return fault

    def cut_request(self, match: bytes, *, after: int, times: int = 1) -> Fault:
        return self.add(Fault("cut request", match, after, times))

    def cut_answer(self, match: bytes, *, after: int = 0, times: int = 1) -> Fault:
        return self.add(Fault("cut answer", match, after, times))

    def answer(self, match: bytes, status: int, *, times: int = 1) -> Fault:
        return self.add(Fault("status", match, 0, times, status))

    def requests(self, match: bytes) -> int:
        """Count the requests so far whose head has ``match`` in it."""
        return sum(match in head for head in self.heads)

    def clear(self) -> None:
        """Let the weather clear, and count from zero: what stalled ends, what was late arrives before this returns."""
        self.faults.clear()
        for kept in (self.heads, self.calls, self.taken):
            kept.clear()
        asyncio.run_coroutine_threadsafe(self._clear(), self.loop).result()

    async def _clear(self) -> None:
        self._calm.set()
        self._calm = asyncio.Event()
        for arrived in [*self._late]:
            await arrived.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_connection("127.0.0.1", self.upstream, limit=1 << 20)
        # asyncio does so itself, but not for connections of a socket that somebody else made.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line = _Line(reader, writer, answers, server)
        self._lines.append(line)
        try:
            while await self._exchange(line):
                continue
        except (_Over, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # cut on command, or one side went away; cancelled: the proxy is being stopped
        finally:
            self._lines.remove(line)
            line.close()

    async def _exchange(self, line: _Line) -> bool:
        """Pass one request and its answer; say whether another may follow."""
        request = await _read_head(line.reader)
        if request is None:
            return False
        self.heads.append(request.head)
        self.calls[request.call] += 1
        fault = self._due(request)
        if fault and fault.meanwhile:
            await self.loop.run_in_executor(None, fault.meanwhile)
        if fault and fault.what in ("nothing", "refuse", "status", "late request"):
            fault.hits += 1
            match fault.what:
                case "refuse":
                    line.reset()
                    return False
                case "status":
                    await self._answer(line, request, fault)
                    return False
                case "late request":
                    await self._deliver_late(line, request)
                    return False
        return await self._pass_both(line, request, fault)

    async def _pass_both(self, line: _Line, request: _Message, fault: Fault | None) -> bool:
        line.server.write(request.head)
        sending = asyncio.create_task(self._pass_request(line, request, fault))
        answering = asyncio.create_task(self._pass_answer(line, request, fault))
        try:
            await asyncio.wait({sending, answering}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and isinstance(sending.exception(), _Over):
                return False
            # An answer may come before the request is all there: then there is nothing more to send.
            if not await answering:
                return False
            await asyncio.wait_for(sending, 1)  # TimeoutError is an OSError: the line ends
            return True
        finally:
            for task in (sending, answering):
                task.cancel()
            await asyncio.gather(sending, answering, return_exceptions=True)

    async def _pass_request(self, line: _Line, request: _Message, fault: Fault | None) -> None:
        body = self._take_body(line, request)
        await self._pass(line, line.server, b"", body, request.length, fault if _is_for(fault, "request") else None)

    async def _pass_answer(self, line: _Line, request: _Message, fault: Fault | None) -> bool:
        while (answer := await _read_head(line.answers)) and answer.status.startswith("1"):
            line.client.write(answer.head)
        if answer is None:
            raise _Over
        bare = request.method == "HEAD" or answer.status in ("204", "304")
        body = _take(line.answers, 0 if bare else answer.length)
        if answer.chunked and not bare:
            answer, body = await _without_chunks(line.answers, answer)
        length = 0 if bare else answer.length
        due = fault if _is_for(fault, "answer") else None
        if due and not due.fits(length):
            due.left += 1
            due = None
        await self._pass(line, line.client, answer.head, body, length, due)
        return answer.headers.get("connection", "").lower() != "close"

    async def _pass(
        self,
        line: _Line,
        to: asyncio.StreamWriter,
        head: bytes,
        body: AsyncIterator[bytes],
        length: int,
        fault: Fault | None,
    ) -> None:
        """Pass a head and a body on, and let the fault hit them where it says."""
        strikes = fault is not None and not fault.what.startswith(("damage", "slow"))
        if fault and strikes and fault.after == 0:
            await self._strike(line, fault)
        to.write(head)
        passed = 0
        async for chunk in body:
            if fault and strikes and fault.after <= passed + len(chunk):
                to.write(chunk[: fault.after - passed])
                await to.drain()
                await self._strike(line, fault)
            elif fault and fault.what.startswith("damage") and passed <= fault.after < passed + len(chunk):
                fault.hits += 1
                chunk = _damaged(chunk, fault.after - passed)
            elif fault and fault.what.startswith("slow"):
                fault.hits += passed == 0
                await asyncio.sleep(fault.seconds * len(chunk) / length)
            to.write(chunk)
            await to.drain()
            passed += len(chunk)
        await to.drain()

    async def _strike(self, line: _Line, fault: Fault) -> None:
        """Do what the fault says to a connection that is where it says."""
        fault.hits += 1
        match fault.what:
            case "stall request" | "stall answer":
                await self._calm.wait()
                line.reset()
            case "end request" | "end answer":
                line.close()
            case "cut all":
                for other in [*self._lines]:
                    other.reset()
            case _:
                line.reset()
        raise _Over

    async def _answer(self, line: _Line, request: _Message, fault: Fault) -> None:
        if "expect" not in request.headers:  # else the client has not sent it
            async for _ in self._take_body(line, request):
                continue
        fields = {"Content-Length": str(len(fault.body)), "Connection": "close", **fault.headers}
        lines = [f"HTTP/1.1 {fault.status} Injected", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        line.client.write("\r\n".join(lines).encode() + (b"" if request.method == "HEAD" else fault.body))
        await line.client.drain()

    async def _deliver_late(self, line: _Line, request: _Message) -> None:
        """Take all of the request, let the client wait in vain, and hand it to the server when the weather clears."""
        if "expect" in request.headers:
            line.client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = b"".join([chunk async for chunk in self._take_body(line, request)])
        arrived = asyncio.Event()
        self._late.add(arrived)
        try:
            await self._calm.wait()
            line.server.write(request.head + body)
            while (answer := await _read_head(line.answers)) and answer.status.startswith("1"):
                continue
        finally:
            self._late.discard(arrived)
            arrived.set()

    async def _take_body(self, line: _Line, request: _Message) -> AsyncIterator[bytes]:
        async for chunk in _take(line.reader, request.length):
            self.taken[request.call] += len(chunk)
            yield chunk

    def _due(self, request: _Message) -> Fault | None:
        for fault in self.faults:
            if fault.left > 0 and fault.call in ("", request.call) and fault.match in request.head:
                if _is_for(fault, "request") and not fault.fits(request.length):
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.left -= 1
                return fault
        return None


def _is_for(fault: Fault | None, direction: Literal["request", "answer"]) -> bool:
    if fault is None:
        return False
    return fault.what.endswith(direction) or (fault.what == "cut all" and direction == "request")


def _damaged(chunk: bytes, at: int) -> bytes:
    return chunk[:at] + bytes([chunk[at] ^ 1]) + chunk[at + 1 :]


async def _read_head(reader: asyncio.StreamReader) -> _Message | None:
    """Read up to the empty line; None if there is no further message."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return _Message(head, first.split(" ", 2), headers)


async def _take(reader: asyncio.StreamReader, length: int) -> AsyncIterator[bytes]:
    while length:
        chunk = await reader.read(min(length, _CHUNK))
        if not chunk:
            raise _Over
        length -= len(chunk)
        yield chunk


async def _without_chunks(reader: asyncio.StreamReader, answer: _Message) -> tuple[_Message, AsyncIterator[bytes]]:
    """Read a chunked answer (only small ones are) and name its length instead, so that its bytes can be counted."""
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    kept = {name: value for name, value in answer.headers.items() if name != "transfer-encoding"}
    headers = {**kept, "content-length": str(len(body))}
    lines = [" ".join(answer.first), *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return _Message("\r\n".join(lines).encode("latin-1"), answer.first, headers), _once(body)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    if body:
        yield body


def call_of(method: str, target: str) -> str:
    """Name the kind of a request in the words that S3 and OSS share."""
    query = dict(parse_qsl(urlsplit(target).query, keep_blank_values=True))
    match method:
        case "PUT":
            return "UploadPart" if "partNumber" in query else "PutObject"
        case "POST" if "uploads" in query:
            return "CreateMultipartUpload"
        case "POST":
            return "CompleteMultipartUpload" if "uploadId" in query else "DeleteObjects"
        case "DELETE":
            return "AbortMultipartUpload" if "uploadId" in query else "DeleteObject"
        case "GET" if "uploads" in query:
            return "ListMultipartUploads"
        case "GET" if "uploadId" in query:
            return "ListParts"
        case "GET":
            return "ListObjects" if "list-type" in query else "GetObject"
        case _:
            return "HeadObject"


@contextlib.contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    """Run a Proxy to this port of loopback, in a thread of its own, until the block is left."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    proxy = Proxy(port, loop)
    server = None
    try:
        # Small buffers: what a client has sent is soon on its way to the server, or held up.
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CHUNK)
        serving = asyncio.start_server(proxy.serve, sock=listening, limit=_CHUNK)
        server = asyncio.run_coroutine_threadsafe(serving, loop).result()
        proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _stop(server: asyncio.Server | None) -> None:
    if server:
        server.close()  # first: a connection that comes meanwhile would be a task that nobody ends
    for _ in range(3):
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
    await asyncio.get_running_loop().shutdown_asyncgens()

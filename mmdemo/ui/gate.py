"""The gate: everything that comes over HTTP passes here, before gradio reads any of it, so no handler need check it.

A request has a size and a time to arrive in; few that hold much are read at once, and one address has at most its share
of those. It also notes who listens for an answer, says whether the app is ready, and closes the app to what is new.
"""

import asyncio
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import parse_qs

from gradio.route_utils import API_PREFIX
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmdemo.ui.turns import LATER, Line, heartbeat

MAX_UPLOAD = 64_000_000  # bytes of a file: a 16-megapixel picture fits; the studio refuses larger ones with a sentence
FORM = 100_000  # bytes that a form may add to its file
MAX_PATH = 1000
NOWHERE = re.compile(r"/(file[=/]|proxy=)\w+:/|/dev/reload")  # gradio would fetch it elsewhere, or never end
UPLOAD, FUNCTIONS, CALL, HEARTBEAT = (
    f"{API_PREFIX}/{name}" for name in ("upload", "component_server", "call/", "heartbeat/")
)


@dataclass(frozen=True)
class Bounds:
    """Of a request.  count: how often `mark` may occur in it, as every value and every file brings one."""

    bytes: int
    seconds: float  # in which it must have come
    mark: bytes
    count: int
    at_once: int  # that are read and answered; the rest waits unread


# A token grid of 64 × 64 is the longest of lists; unpacked, a value takes up to a hundred times what its text does.
BOUNDS = {
    UPLOAD: Bounds(MAX_UPLOAD + FORM, 120, b"filename", 8, 3),
    FUNCTIONS: Bounds(8_000_000, 30, b",", 50_000, 4),  # a picture may come as text
}
OTHERS = Bounds(1_000_000, 30, b",", 50_000, 16)
WAITING = 500  # in front of each of these; more are refused
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}


class Gate:
    """ASGI middleware.  line: gives the queue.  sweep: called after an upload.  status: what /health says."""

    def __init__(self, line: Callable[[], Line], sweep: Callable[[], None], status: Callable[[], str]):
        self._line, self._sweep, self._status = line, sweep, status
        self._rooms = {path: Room(bounds.at_once) for path, bounds in (BOUNDS | {"": OTHERS}).items()}

    def __call__(self, app: ASGIApp) -> ASGIApp:
        async def gate(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return await app(scope, receive, send)
            path, send = scope["path"].rstrip("/"), with_headers(send)
            if len(scope["path"]) > MAX_PATH or not scope["path"].isprintable() or NOWHERE.search(scope["path"]):
                await refuse(scope, send, 404, "there is no page of such a name")
            elif path == "/health":
                await self._health(scope, send)
            elif scope["method"] != "POST":
                await self._listen(app, scope, heard(scope, path), receive, send)
            elif self._line().closing:
                await refuse(scope, send, 503, "the app is about to stop")
            else:
                await self._let_in(app, scope, path, receive, send)

        return gate

    async def _listen(self, app: ASGIApp, scope: Scope, key: str, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(HEARTBEAT):
            key = heartbeat(scope["path"].removeprefix(HEARTBEAT))
        elif key and not self._line().knows(key):  # gradio would begin to answer, and fail
            return await refuse(scope, send, 404, "there is nothing to listen to: it was never asked, or is answered")
        with self._line().listened_to(key):
            try:
                await app(scope, receive, send)
            except RuntimeError as late:
                if not isinstance(late.__cause__, HTTPException):
                    raise
                # What was listened to is gone: gradio has said so in what it streams, and leaves that unended.
                await send({"type": "http.response.body", "body": b""})

    async def _let_in(self, app: ASGIApp, scope: Scope, path: str, receive: Receive, send: Send) -> None:
        bounds = BOUNDS.get(path, OTHERS)
        body = Body(receive, bounds)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > bounds.bytes:
            await body.drain()
            return await refuse(scope, send, *body.too_large)
        address = (scope.get("client") or [""])[0]
        if path.startswith(CALL):  # a flood is refused here: gradio would take its time over each
            try:
                self._line().admit(path.rpartition("/")[2], address)
            except HTTPException as full:
                return await refuse(scope, send, full.status_code, full.detail)
        async with self._rooms[path if path in BOUNDS else ""].place(address) as free:
            if free:
                await body.give(app, scope, send)
                if path == UPLOAD:  # before the next is let in
                    await run_in_threadpool(self._sweep)
            else:
                await refuse(scope, send, 429, f"too many requests at once; come back in {LATER} seconds")

    async def _health(self, scope: Scope, send: Send) -> None:
        status = "stopping" if self._line().closing else self._status()
        await JSONResponse({"status": status}, 200 if status == "ready" else 503)(scope, nothing, send)


class Room:
    """Room for a few requests at once: whose address has fewest inside is next, and none has more than half of it."""

    def __init__(self, width: int):
        self._width, self._inside, self._waiting = width, [], []

    @asynccontextmanager
    async def place(self, address: str) -> AsyncIterator[bool]:
        """Waits for a place.  Gives whether there is one: so many may wait, and no more."""
        if len(self._waiting) >= WAITING:
            yield False
            return
        mine = (address, time.monotonic(), asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        try:
            self._fill()
            await mine[-1]
            yield True
        finally:
            (self._inside if mine in self._inside else self._waiting).remove(mine)
            self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self._inside) < self._width:
            inside = Counter(address for address, *_ in self._inside)
            first = min(self._waiting, key=lambda one: (inside[one[0]], one[1]))
            if inside[first[0]] >= (self._width + 1) // 2:
                return
            self._waiting.remove(first)
            self._inside.append(first)
            if not first[-1].done():  # or its client left just now
                first[-1].set_result(None)


class Body:
    """What a request holds: counted as it comes, and cut off once it is too much or too late."""

    def __init__(self, receive: Receive, bounds: Bounds):
        self.too_large = 413, f"a request may hold at most {bounds.bytes} bytes here"
        self._receive, self._bounds, self._until = receive, bounds, time.monotonic() + bounds.seconds
        self._came, self._marks = 0, 0
        self._whole, self._refusal, self._gone = False, None, threading.Event()

    async def give(self, app: ASGIApp, scope: Scope, send: Send) -> None:
        """To the app. Whatever it makes of a body that was cut off, the answer is the refusal."""
        begun = False
        scope["gone"] = self._gone  # for what computes while the client may leave

        async def watched() -> None:
            while not self._whole:
                await asyncio.sleep(0.1)
            while (await self._receive())["type"] != "http.disconnect":
                pass
            self._gone.set()

        async def guarded(message: Message) -> None:
            nonlocal begun
            if begun or not self._refusal:
                begun = True
                await send(message)

        watcher = asyncio.create_task(watched())
        try:
            await app(scope, self._counted, guarded)
        except ClientDisconnect:  # cut off, or the client left
            pass
        finally:
            watcher.cancel()
        if self._refusal and not begun:
            await self.drain()
            await refuse(scope, send, *self._refusal)

    async def drain(self) -> None:
        """Throws away what still comes, for a moment: a client that is cut off while it sends hears no refusal."""
        until = time.monotonic() + 1
        message = {"more_body": True}
        while message.get("more_body"):
            try:
                message = await asyncio.wait_for(self._receive(), until - time.monotonic())
            except asyncio.TimeoutError:
                return

    async def _counted(self) -> Message:
        if self._whole:  # whether the client leaves is watched for elsewhere
            while not self._gone.is_set():
                await asyncio.sleep(0.1)
            return {"type": "http.disconnect"}
        try:
            message = await asyncio.wait_for(self._receive(), self._until - time.monotonic())
        except asyncio.TimeoutError:
            self._refusal = 408, "the request took too long to come"
            return {"type": "http.disconnect"}
        body = message.get("body", b"")
        self._came, self._marks = self._came + len(body), self._marks + body.count(self._bounds.mark)
        self._whole = not message.get("more_body")
        if self._came > self._bounds.bytes:
            self._refusal = self.too_large
        elif self._marks > self._bounds.count:
            self._refusal = 413, f"a request may hold at most {self._bounds.count} values or files"
        return {"type": "http.disconnect"} if self._refusal else message


def heard(scope: Scope, path: str) -> str:
    """The event or the session that a request listens to; "" for any other."""
    if path == f"{API_PREFIX}/queue/data":
        return parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
    return path.rpartition("/")[2] if path.startswith(CALL) else ""


def with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return sent


async def refuse(scope: Scope, send: Send, status: int, why: str) -> None:
    """`detail` is what gradio's page shows and its client raises."""
    headers = {"Retry-After": str(LATER)} if status in (429, 503) else None
    await JSONResponse({"detail": why}, status, headers)(scope, nothing, send)


async def nothing() -> Message:
    return {"type": "http.disconnect"}

"""The server: the files of the page, and a WebSocket for each player.

Every address begins with a random token, so that no other user of the machine and no other page can play. All sessions
compute in one thread, one message after the other: simulators draw with libraries that dislike several.
"""

import asyncio
import contextlib
import errno
import hmac
import importlib
import logging
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from worldgym.errors import ConfigError, DependencyNotInstalled, InvalidOption, WorldGymError
from worldgym.play.answers import Answer, answer
from worldgym.play.pictures import MAX_BYTES
from worldgym.play.protocol import Reset, TakeOver, error_message, pack_view, parse_message
from worldgym.play.session import PlaySession, Settings, View
from worldgym.storage.files import to_json

T = TypeVar("T")
PLAYERS = 3
"""Sessions that are kept at once; one whose player left makes room for a new one."""
PAGE = Path(__file__).parent / "page"
FILES = {
    "": ("index.html", "text/html"),
    "play.css": ("play.css", "text/css"),
    **{name: (name, "text/javascript") for name in ("actions.js", "view.js", "play.js")},
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
TAKEN_OVER = "This session goes on in another tab."
HEARTBEAT = 30.0
"""Seconds after which a connection is asked whether it still lives."""
MOST_ASKED = 100
"""Messages that may wait for their answers; the page waits for each."""
LOG = logging.getLogger("worldgym.play")


@dataclass
class _Seat:
    """One player's session, and the connection that uses it; None after it was lost."""

    session: PlaySession
    socket: Any = None


class Server:
    """Serves the page and plays.

    Args:
        settings: what to play.
        token: the first part of every address; a random one unless given.

    Attributes:
        token: the first part of every address.

    Raises:
        DependencyNotInstalled: without aiohttp.
    """

    def __init__(self, settings: Settings, token: str | None = None) -> None:
        self._web = _import_aiohttp()
        self.settings, self.token = settings, token or secrets.token_urlsafe(16)
        self._seats: dict[str, _Seat] = {}  # in the order of their last use
        self._thread = ThreadPoolExecutor(1, "play")
        self._seating = asyncio.Lock()

    def app(self) -> Any:
        """The aiohttp application. When it is cleaned up, recordings are saved."""
        app = self._web.Application(middlewares=[self._add_headers])
        app.router.add_get("/{token}/socket", self._play)
        app.router.add_get("/{token}/{name:[^/]*}", self._file)
        app.on_shutdown.append(self._disconnect)
        app.on_cleanup.append(self._close)
        return app

    @property
    def _add_headers(self) -> Any:
        async def add_headers(request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
            try:
                response = await handler(request)
            except self._web.HTTPException as error:
                error.headers.update(HEADERS)
                raise
            if not response.prepared:
                response.headers.update(HEADERS)
            return response

        return self._web.middleware(add_headers)

    async def _file(self, request: Any) -> Any:
        self._check_token(request)
        if request.match_info["name"] not in FILES:
            raise self._web.HTTPNotFound(text="There is no such file here.\n")
        name, kind = FILES[request.match_info["name"]]
        return self._web.Response(text=(PAGE / name).read_text(encoding="utf-8"), content_type=kind)

    async def _play(self, request: Any) -> Any:
        self._check_token(request)
        origin = urlsplit(request.headers.get("Origin", ""))
        if origin.scheme not in ("http", "https") or origin.netloc != request.host:
            raise self._web.HTTPForbidden(text="Only the page of this server may connect.\n")
        connection = self._web.WebSocketResponse(max_msg_size=MAX_BYTES + 1024, heartbeat=HEARTBEAT)
        await connection.prepare(request)
        player = request.query.get("player", "")[:64] or secrets.token_urlsafe(8)
        try:
            seat = await self._sit(player, connection)
        except WorldGymError as error:
            await self._part(connection, f"{type(error).__name__}: {error}")
            return connection
        try:
            await self._serve(seat, connection)
        except ConnectionResetError:  # it was lost while an answer was on its way
            pass
        finally:
            await self._leave(seat, connection)
        return connection

    async def _sit(self, player: str, connection: Any) -> _Seat:
        """The player's own session, if there is one, else a new one.

        Raises:
            InvalidOption: if all sessions are in use.
        """
        async with self._seating:
            seat = self._seats.pop(player, None)
            if seat is None:
                await self._make_room()
                seat = _Seat(await self._compute(PlaySession, self.settings))
            self._seats[player] = seat
            earlier, seat.socket = seat.socket, connection
        if earlier is not None:
            await self._part(earlier, TAKEN_OVER)
        return seat

    async def _part(self, connection: Any, reason: str) -> None:
        with contextlib.suppress(ConnectionResetError):
            await connection.send_str(to_json({"type": "leave", "message": reason}))
            await connection.close()

    async def _make_room(self) -> None:
        if len(self._seats) < PLAYERS:
            return
        left = next((name for name, seat in self._seats.items() if seat.socket is None), None)
        if left is None:
            raise InvalidOption(f"{PLAYERS} people are playing, as many as fit: close one of the other tabs")
        await self._compute(self._seats.pop(left).session.close)

    async def _serve(self, seat: _Seat, connection: Any) -> None:
        view = await self._compute(seat.session.view)
        first = Answer([], view) if view.pictures else await self._do(seat, Reset())
        await connection.send_str(to_json({"type": "welcome", **await self._compute(seat.session.describe)}))
        await self._send(connection, *first)
        asked: asyncio.Queue[tuple[Any, threading.Event]] = asyncio.Queue(MOST_ASKED)
        working = asyncio.create_task(self._work(seat, connection, asked))
        stop = threading.Event()
        try:
            async for message in connection:
                if seat.socket is not connection or working.done() or asked.full():
                    break
                if message.type not in (self._web.WSMsgType.BINARY, self._web.WSMsgType.TEXT):
                    continue
                if _takes_over(message.data):
                    stop.set()
                else:
                    stop = threading.Event()
                    asked.put_nowait((message.data, stop))
        finally:
            stop.set()
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionResetError):
                await working

    async def _work(self, seat: _Seat, connection: Any, asked: "asyncio.Queue[tuple[Any, threading.Event]]") -> None:
        """Answer one message after the other, until cancelled."""
        while True:
            message, stop = await asked.get()
            await self._send(connection, *await self._do(seat, message, stop.is_set))

    async def _do(self, seat: _Seat, message: Any, stopped: Callable[[], bool] = bool) -> Answer:
        """Do what a message asks for. Every error becomes a message."""
        try:
            given = parse_message(message) if isinstance(message, str) else message
            return await self._compute(answer, seat.session, given, stopped)
        except WorldGymError as error:
            return Answer([error_message(error)], None)
        except Exception:  # a mistake of ours: the details belong on the terminal
            LOG.exception("a message could not be answered")
            text = "something went wrong in the server, which says more on its terminal; start a new episode"
            return Answer([{"type": "error", "name": "InternalError", "message": text}], None)

    async def _send(self, connection: Any, messages: list[dict[str, Any]], view: View | None) -> None:
        for each in messages:
            await connection.send_str(to_json(each))
        if view is not None:
            await connection.send_bytes(await self._compute(pack_view, view))

    async def _leave(self, seat: _Seat, connection: Any) -> None:
        """After a connection was lost: save what was recorded, keep the session for when the player comes back."""
        if seat.socket is connection:
            seat.socket = None
            await asyncio.shield(self._save(seat.session.save))

    async def _save(self, save: Callable[[], list[Path]]) -> None:
        try:
            files = await self._compute(save)
        except WorldGymError as error:
            print(f"worldgym: {error}", file=sys.stderr)
            return
        if files:
            print("saved", *files)

    async def _disconnect(self, app: Any) -> None:
        for seat in list(self._seats.values()):
            if seat.socket is not None:
                await seat.socket.close(code=1001, message=b"the server ends")

    async def _close(self, app: Any) -> None:
        for seat in self._seats.values():
            await self._save(seat.session.close)
        self._seats.clear()
        self._thread.shutdown()

    async def _compute(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _check_token(self, request: Any) -> None:
        if not hmac.compare_digest(request.match_info["token"].encode(), self.token.encode()):
            raise self._web.HTTPNotFound(text="Open the whole address that `worldgym play` printed.\n")


def _takes_over(data: Any) -> bool:
    """Whether a message must not wait for the answer to the one before it."""
    with contextlib.suppress(InvalidOption):
        return isinstance(data, str) and isinstance(parse_message(data), TakeOver)
    return False


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until interrupted. Prints the address.

    Args:
        settings: what to play.
        host: address of the network interface to listen at.
        port: 0 takes a free one.

    Raises:
        ConfigError: if the port is taken or not allowed, or the machine has no such address.
        DependencyNotInstalled: without aiohttp.
    """
    asyncio.run(_serve(settings, host, port))


async def _serve(settings: Settings, host: str, port: int) -> None:
    server = Server(settings)
    runner = server._web.AppRunner(server.app(), access_log=None, shutdown_timeout=5)
    await runner.setup()
    try:
        await _listen(server, runner, host, port)
        number = runner.addresses[0][1]
        shown = socket.gethostname() if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
        print(f"Play at http://{shown}:{number}/{server.token}/", flush=True)
        print(f"Recordings go to {settings.out}. Ctrl+C ends.", flush=True)
        await _stopped()
    finally:
        await runner.cleanup()


async def _stopped() -> None:
    """Until SIGINT or SIGTERM. Where a loop takes no signals, as on Windows, an interrupt ends the wait by itself."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


async def _listen(server: Server, runner: Any, host: str, port: int) -> None:
    try:
        await server._web.TCPSite(runner, host, port).start()
    except OSError as error:
        advice = "choose another with --port, or --port 0 for any free one"
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} of {host} is taken: {advice}") from error
        if error.errno == errno.EACCES:
            raise ConfigError(f"port {port} is not allowed for this user: {advice}") from error
        raise ConfigError(f"cannot listen at {host!r}: {error.strerror or error}; leave --host out") from error
    except OverflowError as error:
        raise ConfigError(f"expected a port from 0 to 65535, got {port}") from error


def _import_aiohttp() -> Any:
    try:
        return importlib.import_module("aiohttp.web")
    except ModuleNotFoundError as error:
        raise DependencyNotInstalled("worldgym play needs aiohttp: `pip install worldgym[play]`") from error

"""The server, by aiohttp's own client: who gets in, what is served, lost connections, several players."""

import asyncio
import dataclasses
import json
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, WSMsgType
from aiohttp.test_utils import TestServer

from worldgym.data.recordings import Recordings
from worldgym.errors import ConfigError
from worldgym.play import server as servers
from worldgym.play.planner import Stopped
from worldgym.play.protocol import unpack_view
from worldgym.play.server import Server, serve
from worldgym.play.session import Settings

TOKEN = "a-token"
SCRIPTS = tuple((name, "text/javascript") for name in ("actions.js", "view.js", "play.js"))
MOVE = {"type": "step", "action": [0.5, 0]}


class Player:
    """A page: sends messages and waits for their answers."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.texts: list[dict[str, Any]] = []

    async def answer(self) -> dict[str, Any]:
        """The next view, or error; the other messages are kept."""
        async for message in self.connection:
            if message.type == WSMsgType.BINARY:
                return unpack_view(message.data)[0]
            self.texts.append(json.loads(message.data))
            if self.texts[-1]["type"] in ("error", "leave"):
                return self.texts[-1]
        return {"type": "closed"}

    async def ask(self, message: Any) -> dict[str, Any]:
        """The answer to a message: JSON, raw text or bytes."""
        if isinstance(message, bytes):
            await self.connection.send_bytes(message)
        else:
            await self.connection.send_str(message if isinstance(message, str) else json.dumps(message))
        return await self.answer()


class House:
    """A running server, and a client."""

    def __init__(self, address: str, client: ClientSession) -> None:
        self.address, self.client = address, client

    async def join(self, player: str = "one") -> Player:
        """Connect as the page does."""
        url = f"{self.address}/{TOKEN}/socket?player={player}"
        return Player(await self.client.ws_connect(url, origin=self.address))


def run(settings: Settings, visit: Callable[[House], Awaitable[None]]) -> None:
    """Visit a server; it ends afterwards."""

    async def main() -> None:
        async with TestServer(Server(settings, TOKEN).app()) as server, ClientSession() as client:
            await visit(House(f"http://{server.host}:{server.port}", client))

    asyncio.run(main())


def test_the_page_is_served_under_the_token_alone(settings: Settings) -> None:
    async def visit(house: House) -> None:
        for name, kind in (("", "text/html"), ("play.css", "text/css"), *SCRIPTS):
            async with house.client.get(f"{house.address}/{TOKEN}/{name}") as response:
                assert (response.status, response.content_type) == (200, kind)
                assert "default-src 'none'" in response.headers["Content-Security-Policy"]
                assert (await response.text()) == (servers.PAGE / (name or "index.html")).read_text()
        for path in ("", "/", "/wrong/", "/wrong/play.js", f"/{TOKEN}x/", "/play.js", "/wrong/socket"):
            async with house.client.get(house.address + path) as response:
                assert response.status == 404, path
                assert "worldgym play" in await response.text() or path in ("", "/", "/play.js")

    run(settings, visit)


def test_no_other_file_can_be_read(settings: Settings) -> None:
    async def visit(house: House) -> None:
        host, port = house.address.removeprefix("http://").split(":")
        for path in (
            "../server.py",
            "..%2fserver.py",
            "%2e%2e/%2e%2e/setup.cfg",
            "//etc/passwd",
            "index.html",
            "page/play.js",
        ):
            reader, writer = await asyncio.open_connection(host, int(port))  # a client would tidy the path
            writer.write(f"GET /{TOKEN}/{path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            status = (await reader.read()).split(b"\r\n")[0]
            assert b"404" in status, (path, status)
            writer.close()

    run(settings, visit)


def test_other_origins_are_refused(settings: Settings) -> None:
    async def visit(house: House) -> None:
        headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        headers["Sec-WebSocket-Key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
        for origin in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": f"{house.address}0"}):
            url = f"{house.address}/{TOKEN}/socket"
            async with house.client.get(url, headers={**headers, **origin}) as response:
                assert response.status == 403, origin

    run(settings, visit)


def test_a_player_is_welcomed_and_plays(settings: Settings) -> None:
    async def visit(house: House) -> None:
        player = await house.join()
        first = await player.answer()
        (welcome,) = player.texts
        assert (welcome["type"], welcome["tasks"], welcome["starts"]) == ("welcome", ["toy"], {"toy": 2})
        assert welcome["actions"]["names"] == ["dx", "dy"]
        assert [picture["name"] for picture in first["pictures"]] == ["simulator", "imagined", "difference"]
        assert (await player.ask(MOVE))["step"] == 1
        assert (await player.ask({"type": "fork"}))["labels"]
        await player.ask(MOVE)
        chosen = await player.ask({"type": "choose", "future": 2})
        assert (chosen["step"], len(chosen["history"])) == (2, 2)
        assert (await player.ask({"type": "rewind", "steps": 2}))["step"] == 0

    run(settings, visit)


def test_malformed_messages_are_named_and_the_game_goes_on(settings: Settings) -> None:
    async def visit(house: House) -> None:
        player = await house.join()
        await player.answer()
        for message, name in (
            ("nonsense", "InvalidOption"),
            ({"type": "jump"}, "InvalidOption"),
            ({"type": "step", "action": "up"}, "InvalidAction"),
            ({"type": "step", "driver": "nobody"}, "InvalidOption"),
            ({"type": "reset", "task": "other"}, "UnknownTask"),
            (b"no picture", "InvalidFrames"),
        ):
            found = await player.ask(message)
            assert (found["type"], found["name"]) == ("error", name)
            assert "Traceback" not in found["message"]
        assert (await player.ask(MOVE))["step"] == 1

    run(settings, visit)


def test_a_mistake_of_ours_is_no_traceback_on_the_page(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def visit(house: House) -> None:
        player = await house.join()
        await player.answer()
        monkeypatch.setattr(servers, "answer", lambda *arguments: 1 / 0)
        found = await player.ask(MOVE)
        assert (found["name"], "division" in found["message"]) == ("InternalError", False)
        assert "division" in caplog.text

    run(settings, visit)


def test_a_simulator_that_breaks_at_the_first_reset_is_no_silence(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def visit(house: House) -> None:
        monkeypatch.setattr(servers, "answer", lambda *arguments: 1 / 0)
        player = await house.join()
        assert (await player.answer())["name"] == "InternalError"
        assert player.texts[0]["type"] == "welcome"

    run(settings, visit)


def test_a_dropped_connection_loses_nothing_and_the_player_comes_back(settings: Settings) -> None:
    async def visit(house: House) -> None:
        player = await house.join()
        await player.answer()
        await player.ask({"type": "record", "on": True})
        for _ in range(3):
            await player.ask(MOVE)
        transport = player.connection.get_extra_info("socket")
        transport.shutdown(socket.SHUT_RDWR)  # without a word, as when a cable is pulled
        back = await house.join()
        again = await back.answer()
        assert (again["step"], len(back.texts[0]["history"])) == (3, 3)
        for _ in range(100):
            if (settings.out / "videos").exists():
                break
            await asyncio.sleep(0.05)
        (episode,) = Recordings(settings.out / "imagined").episodes
        assert len(episode) == 3

    run(settings, visit)


def slow(env: Any, rng: Any) -> Callable[[], Any]:
    """A driver that decides when the person takes over, and not before."""

    def act() -> Any:
        for _ in range(2000):
            if env.stopped():
                raise Stopped
            time.sleep(0.01)
        return [0, 0]

    return act


def test_the_person_takes_over_while_a_driver_decides(settings: Settings) -> None:
    async def visit(house: House) -> None:
        player = await house.join()
        await player.answer()
        began = time.monotonic()
        await player.connection.send_json({"type": "step", "driver": "policy"})
        await player.connection.send_json({"type": "take over"})
        assert (await player.answer())["step"] == 0
        assert (await player.ask(MOVE))["step"] == 1
        await player.connection.send_json({"type": "step", "driver": "policy"})
        again = await house.join()  # another tab takes the session: nobody waits for that step any more
        assert (await again.answer())["step"] == 1
        assert (await again.ask(MOVE))["step"] == 2
        assert time.monotonic() - began < 15

    run(dataclasses.replace(settings, policy=slow, policy_name="slow"), visit)


def test_what_is_recorded_when_the_server_ends_is_saved(settings: Settings) -> None:
    async def visit(house: House) -> None:
        player = await house.join()
        await player.answer()
        await player.ask({"type": "record", "on": True})
        await player.ask(MOVE)

    run(settings, visit)
    assert len(Recordings(settings.out / "imagined").episodes[0]) == 1


def test_players_have_sessions_of_their_own_until_there_is_no_room(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def visit(house: House) -> None:
        monkeypatch.setattr(servers, "PLAYERS", 2)
        one, two = await house.join("one"), await house.join("two")
        for player in (one, two):
            await player.answer()
        assert (await one.ask(MOVE))["step"] == 1
        assert (await two.ask(MOVE))["step"] == 1
        three = await house.join("three")
        refused = await three.answer()
        assert refused["type"] == "leave"
        assert "2 people are playing" in refused["message"]
        assert await three.answer() == {"type": "closed"}
        await one.connection.close()
        three = await house.join("three")  # takes the place of the one who left
        assert (await three.answer())["step"] == 0
        assert (await two.ask(MOVE))["step"] == 2

    run(settings, visit)


def test_a_session_goes_on_in_another_tab(settings: Settings) -> None:
    async def visit(house: House) -> None:
        first = await house.join()
        await first.answer()
        await first.ask(MOVE)
        second = await house.join()
        assert (await second.answer())["step"] == 1
        assert await first.answer() == {"type": "leave", "message": servers.TAKEN_OVER}
        assert await first.answer() == {"type": "closed"}
        assert (await second.ask(MOVE))["step"] == 2

    run(settings, visit)


def test_without_start_states_the_page_says_so_and_takes_a_picture(discrete_checkpoint: Path, tmp_path: Path) -> None:
    async def visit(house: House) -> None:
        player = await house.join()
        found = await player.answer()
        assert found["name"] == "CheckpointError"
        assert "no start states" in found["message"]
        assert (await player.ask({"type": "step", "action": 0}))["name"] == "ResetNeeded"

    run(Settings(str(discrete_checkpoint), tmp_path, simulator=False), visit)


def test_a_port_that_is_taken_is_named(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is taken: choose another with --port"):
            serve(settings, "127.0.0.1", port)
    with pytest.raises(ConfigError, match="port from 0 to 65535"):
        serve(settings, "127.0.0.1", 70000)
    with pytest.raises(ConfigError, match="cannot listen at"):
        serve(dataclasses.replace(settings), "host.invalid", 0)

"""The command play: a script replayed without a browser, and a server that is reached at the printed address."""

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import imageio_ffmpeg
import pytest
from PIL import Image

from worldgym.cli import main
from worldgym.data.recordings import Recordings


def test_a_script_is_replayed_into_a_video(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (90, 50), (20, 90, 200)).save(tmp_path / "blue.png")
    script = [
        {"type": "reset", "task": "plate-slide", "start": 0, "seed": 3},
        {"type": "record", "on": True},
        {"type": "step", "action": [1, 0, 0, -1], "seconds": 0.25},
        {"type": "fork", "by": "luck"},
        {"type": "step", "action": [0, 1, 0, -1], "repeat": 3},
        {"type": "choose", "future": 2},
        {"type": "picture", "file": "blue.png"},
    ]
    (tmp_path / "script.json").write_text(json.dumps(script))
    out = tmp_path / "out"
    command = f"play --checkpoint {tiny_checkpoint} --no-simulator --headless {tmp_path}/script.json --out {out}"
    assert main([*command.split()]) == 0
    files = capsys.readouterr().out.split()
    assert files[-1] == str(out / "session.mp4")
    assert imageio_ffmpeg.count_frames_and_secs(files[-1])[0] == 1 + 1 + 1 + 5 + 1 + 3 + 1 + 1
    (episode,) = Recordings(out / "imagined").episodes
    assert (len(episode), episode.info.task, episode.info.seed) == (8, "plate-slide", 3)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("", "JSON list of inputs"),
        ("{}", "JSON list of inputs"),
        ('[{"type": "jump"}]', "input 0: message: unknown type 'jump'"),
        ('[{"type": "reset"}, {"type": "step", "repeat": 0}]', "input 1: expected repeat above 0"),
        ('[{"type": "step", "repeat": 99999}]', "at most 5000"),
        ('[{"type": "step", "action": [9]}]', "input 0: InvalidAction: expected an action of shape"),
        ('[{"type": "picture", "file": "none.png"}]', "none.png"),
        ('[{"type": "picture"}]', "expected the file of a picture"),
    ],
)
def test_a_script_that_cannot_be_played_is_explained(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], script: str, message: str
) -> None:
    (tmp_path / "script.json").write_text(script)
    command = f"play --checkpoint {tiny_checkpoint} --no-simulator --headless {tmp_path}/script.json --out {tmp_path}"
    assert main(command.split()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--checkpoint nothing", "no checkpoint 'nothing'"),
        ("--task hamer", "did you mean 'hammer'"),
        ("--policy none.safetensors", "expected a file, found none"),
        ("--policy walk", "expected a behaviour"),
        ("--port 70000", "port from 0 to 65535"),
        ("--device tpu", "device 'tpu' cannot be used here"),
        ("--dtype int8", "expected a floating-point type"),
    ],
)
def test_wrong_options_are_explained(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    assert main(f"play --checkpoint {tiny_checkpoint} --no-simulator {options}".split()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_at_the_printed_address_until_the_server_is_stopped(
    tiny_checkpoint: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    command = f"-m worldgym play --checkpoint {tiny_checkpoint} --no-simulator --port 0 --out {tmp_path}".split()
    server = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = server.stdout.readline().split()[-1]
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(address) as page:
        assert b"<title>worldgym play</title>" in page.read()
    server.send_signal(stop)
    _, errors = server.communicate(timeout=60)
    assert (server.returncode, errors) == (0, "")

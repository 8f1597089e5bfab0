import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from worldgym.cli import main
from worldgym.data.episode import Episode
from worldgym.data.recordings import Recordings
from worldgym.reports.video import write_mp4


@pytest.fixture
def clips(tmp_path: Path, make_episode: Callable[..., Episode]) -> Path:
    for seed in range(3):
        write_mp4(tmp_path / "clips" / f"{seed}.mp4", make_episode("hammer", "random", seed).frames)
    return tmp_path / "clips"


def test_videos_become_recordings(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clips / "cut.mp4").write_bytes((clips / "0.mp4").read_bytes()[:500])
    command = f"convert video {clips} --out {tmp_path}/data --resolution 32 --frame-skip 2 --workers 2".split()
    assert main([*command, "--dry-run"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0] == f"{tmp_path}/data/0.mp4.safetensors"
    assert listed[-1] == f"4 episodes would be in {tmp_path}/data"
    assert not (tmp_path / "data").exists()
    assert main(command) == 0
    shown = capsys.readouterr()
    assert shown.out == f"3 episodes converted, 0 there before, 1 left out; they are in {tmp_path}/data\n"
    assert "left out cut.mp4: ffmpeg cannot decode it" in shown.err
    recordings = Recordings(tmp_path / "data")
    assert recordings.frame_shape == (32, 32, 3)
    assert [episode.shape[0] for episode in recordings.episodes] == [7, 7, 7]
    assert {episode.info.environment for episode in recordings.episodes} == {"video:clips"}
    assert main(command) == 0  # and does not repeat them
    assert "0 episodes converted, 3 there before, 1 left out" in capsys.readouterr().out
    assert main([*command, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("(there already)") == 3


def test_actions_outside_the_range_are_mentioned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "a.npz", image=np.zeros((3, 8, 8, 3), np.uint8), action=np.full((3, 2), 2.5))
    assert main(f"convert npz {tmp_path}/a.npz --out {tmp_path}/data".split()) == 0
    assert "actions reach 2.5, but learned environments take them in [-1, 1]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("convert vidio {clips} --out {out}", "unknown format 'vidio'; did you mean 'video'?"),
        ("convert npz {clips} --out {out}", "it looks like videos (*.mp4, *.webm, *.gif): `worldgym convert video "),
        ("convert something-something {clips} --out {out}", "it looks like videos (*.mp4, *.webm, *.gif): `worldgym"),
        ("convert robonet {actions} --out {out}", "expected RoboNet's HDF5 files (env, policy), but it looks like npz"),
        ("convert video {clips}/none --out {out}", "found nothing; check the path"),
        ("convert video {clips} --out {out} --image-key front", "videos have one camera"),
        ("convert lerobot nothing --out {out}", "expected a folder, or a dataset on the Hugging Face Hub"),
        ("convert npz {actions} --out {out} --frame-skip 2", "--frame-skip: expected 1, because npz:actions has"),
    ],
)
def test_errors_are_one_line(
    command: str, message: str, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "actions").mkdir()
    np.savez(tmp_path / "actions" / "a.npz", image=np.zeros((5, 8, 8, 3), np.uint8), action=np.zeros((5, 2)))
    filled = command.format(clips=clips, out=tmp_path / "out", actions=tmp_path / "actions")
    assert main(filled.split()) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("worldgym: ")]
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_a_dataset_on_the_hub_downloads_its_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def snapshot(name: str, repo_type: str, allow_patterns: list[str]) -> str:
        asked.append((name, repo_type, allow_patterns))
        return str(tmp_path / "snapshot")

    meta = tmp_path / "snapshot" / "meta"
    meta.mkdir(parents=True)
    features = {"front": {"dtype": "video"}}
    (meta / "info.json").write_text(json.dumps({"codebase_version": "v2.1", "fps": 10, "features": features}))
    (meta / "episodes.jsonl").write_text('{"episode_index": 3, "tasks": ["a"], "length": 5}\n')
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert main(f"convert lerobot someone/cups --out {tmp_path}/out --dry-run".split()) == 0
    assert asked == [("someone/cups", "dataset", ["meta/*"])]
    assert capsys.readouterr().out.splitlines()[0] == f"{tmp_path}/out/episode_000003.safetensors"

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from worldgym.cli import main
from worldgym.data.episode import Episode
from worldgym.data.recordings import Recordings


@pytest.fixture
def data(tmp_path: Path, make_episode: Callable[..., Episode]) -> Path:
    for task in ("hammer", "plate-slide"):
        make_episode(task, "random", 0, 5).save(tmp_path / "data" / task / "0.safetensors")
    return tmp_path / "data"


@pytest.mark.parametrize(("options", "fps"), [("", 10), ("--fps 25", 25)])
def test_a_lerobot_dataset_converts_back(
    options: str, fps: int, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"export-dataset --to lerobot {data} --out {tmp_path}/out {options}"
    assert main(command.split()) == 0
    assert capsys.readouterr().out == f"2 episodes with 10 steps are in {tmp_path}/out\n"
    assert json.loads((tmp_path / "out" / "meta" / "info.json").read_text())["fps"] == fps
    assert main(f"convert lerobot {tmp_path}/out --out {tmp_path}/back".split()) == 0
    found, original = Recordings(tmp_path / "back"), Recordings(data)
    assert found.tasks == original.tasks
    assert [len(episode) for episode in found.episodes] == [4, 4]
    for episode, recorded in zip(found.episodes, original.episodes, strict=True):
        assert np.abs(episode.frames().astype(float) - recorded.frames(0, 5)).mean() < 5  # colours at half resolution
    assert main(command.split()) == 2
    assert "expected a new or an empty folder, found data, meta, videos" in capsys.readouterr().err


def test_a_minari_dataset_converts_back(data: Path, tmp_path: Path) -> None:
    assert main(f"export-dataset --to minari {data} --out {tmp_path}/cups-v0".split()) == 0
    assert main(f"convert minari {tmp_path}/cups-v0 --out {tmp_path}/back".split()) == 0
    for episode, recorded in zip(Recordings(tmp_path / "back").episodes, Recordings(data).episodes, strict=True):
        np.testing.assert_array_equal(episode.frames(), recorded.frames())
        np.testing.assert_allclose(episode.actions, recorded.actions)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--to lerobot {data}/none --out {out}", "none: expected episodes (*.safetensors), found none"),
        ("--to minari {data} --out {out}", "out: expected a name with a version, such as out-v0"),
        ("--to minari {data} --out {out}-v0 --fps 5", "--fps 5: Minari datasets have no frame rate, so leave it out"),
        ("--to lerobot {data} --out {data}", "data: expected a new or an empty folder, found hammer, plate-slide"),
    ],
)
def test_errors_are_one_line(
    command: str, message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export-dataset", *command.format(data=data, out=tmp_path / "out").split()]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("worldgym: ")]
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("options", ["--to rlds", "--to lerobot --fps 0"])
def test_wrong_options_are_named(options: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(f"export-dataset {tmp_path} --out {tmp_path}/out {options}".split())
    assert options.split()[-2] in capsys.readouterr().err

import json
from pathlib import Path

import numpy as np
import pytest

from worldgym.cli import main


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """An npz file as the reference implementation has it, of another size."""
    rng = np.random.default_rng(0)
    path = tmp_path / "clip.npz"
    np.savez(
        path,
        aux1_image=rng.integers(256, size=(8, 40, 60, 3)),
        image=np.zeros((8, 4, 4, 3), np.uint8),
        action=np.ones((8, 4)),
    )
    return path


def test_predicting_from_an_npz_file_by_a_published_checkpoint(
    parity: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--dataset-name bair_robot_pushing --samples 2 --top-k 1 --hide-context --device cpu"
    assert main(f"predict --checkpoint {parity} --input {clip} --out {tmp_path}/out {options}".split()) == 0
    shown = capsys.readouterr()
    assert "frames of 40 x 60 pixels were resized by area to 64 x 64" in shown.err
    assert "PSNR over 6 frames: mean of 2 samples" in shown.out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"prediction.mp4", "prediction.gif", "sheet.png", "figures.json", "hidden_context.png"}
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert len(figures["psnr"]["best"]) == figures["horizon"] == 6
    assert {"date", "command", "checkpoint", "seed", "top_k", "rewards", "ssim"} <= set(figures)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "there are several cameras; choose one with --image-key: aux1_image, image"),
        ("--image-key image --horizon 7", "expected at least 9 frames from frame 0 on"),
        ("--dataset-name bair", "unknown data set 'bair' of the paper; did you mean 'bridge'?"),
        ("--dataset-name toto", "step_size: expected 1 for a model that takes actions"),
        ("--image-key image --hide-context", "hide_context: expected the published tokenizer"),
    ],
)
def test_errors_are_named_and_nothing_is_written(
    options: str, message: str, tiny_checkpoint: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"predict --checkpoint {tiny_checkpoint} --input {clip} --out {tmp_path}/out --device cpu {options}"
    assert main(command.split()) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

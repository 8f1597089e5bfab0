import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from worldgym.cli import COMMANDS, main
from worldgym.config import CompactTokenizerConfig, TransformerConfig, WorldModelConfig, from_dict, to_dict
from worldgym.data.episode import Episode
from worldgym.data.recordings import Recordings
from worldgym.errors import WorldGymError
from worldgym.training.loop import TrainingConfig
from worldgym.training.recipe import Recipe, TokenizerRecipe, TransformerRecipe
from worldgym.training.tokenizer import TokenizerTrainingConfig
from worldgym.training.transformer import TransformerTrainingConfig

RECIPE = Recipe(
    TokenizerRecipe(CompactTokenizerConfig(), TokenizerTrainingConfig(), TrainingConfig(steps=5)),
    TransformerRecipe(TransformerConfig(), TransformerTrainingConfig(), TrainingConfig(steps=5)),
)
WITH_EXAMPLES = ["train tokenizer", "train transformer", *(name for name in COMMANDS if name != "train")]


@pytest.mark.parametrize("command", WITH_EXAMPLES)
def test_help_shows_an_example_that_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([*command.split(), "--help"])
    shown = capsys.readouterr().out
    for line in shown.partition("example:\n")[2].partition("\n\n")[0].splitlines():
        example = line.split()
        assert example[: 1 + len(command.split())] == ["worldgym", *command.split()]
        assert callable(importlib.import_module(f"worldgym.cli.{example[1].replace('-', '_')}").parse(example[2:]).run)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {command}  " in shown for command in COMMANDS)


def test_the_module_is_the_command() -> None:
    found = subprocess.run([sys.executable, "-m", "worldgym", "--help"], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("usage: worldgym")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("demo --checkpoint nothing", "no checkpoint 'nothing'"),
        ("demo --checkpoint {checkpoint} --task hamer --out {out}", "did you mean 'hammer'"),
        ("demo --checkpoint {checkpoint} --device tpu9 --out {out}", "device 'tpu9' cannot be used here"),
        ("evaluate --checkpoint {checkpoint} --data {out}", "expected episodes"),
        (
            "evaluate --checkpoint {checkpoint} --data {data} --out {out}/f.json --horizon 99",
            "ask for shorter segments",
        ),
        ("evaluate --checkpoint {checkpoint} --data {data} --write-card", "expected training data in config.json"),
        (
            "train tokenizer --data {data} --held-out {data} --out {out} --recipe metaworld",
            "did you mean 'metaworld-64'",
        ),
        ("train tokenizer --data {data} --held-out {data} --out {out}", "not used in training"),
        (
            "train tokenizer --data {data} --held-out {data} --out {out} --steps 0",
            "steps: expected a number above 0, got 0",
        ),
        ("train transformr", "unknown part 'transformr'; did you mean 'transformer'"),
        ("demmo", "unknown command 'demmo'; did you mean 'demo'"),
        ("collect --out {out} --env Simulator-Toi-v0", "did you mean 'Simulator-Toy-v0'"),
        (
            "train tokenizer --data {data} --held-out {data} --out {out} --lpips {out}/none",
            "is missing: expected the weights of LPIPS",
        ),
        (
            "train transformer --data {data} --held-out {data} --out {out} --tokenizer {out}",
            "does not hold a training run",
        ),
        (
            "export --tokenizer {out} --transformer {out} --held-out {data} --out {out}/new",
            "does not hold a training run",
        ),
        ("collect --out {out} --tasks toy --resolution 32", "--resolution: Simulator-Toy-v0 has one of its own"),
        ("plan --task hammer --out {out} --env Simulator-Metaworld-v0", "--env Simulator-Metaworld-v0: "),
        ("plan --task hammer --out {out} --env CartPole-v1", "expected an environment of worldgym"),
        ("starts --checkpoint {checkpoint} --env lerobot:pusht", "No module named 'lerobot'"),
        ("curves --out {out}/curves.png", "expected at least one folder of a run"),
        ("refine --data {out} --held-out {data} --out {out}/refine --checkpoint {checkpoint}", "expected episodes"),
        ("mbpo --task plate-slide --steps 1000 --out {out}", "expected at least the 2000 seed_steps"),
    ],
)
def test_errors_are_one_line_without_a_traceback(
    command: str,
    message: str,
    tiny_checkpoint: Path,
    synthetic_recordings: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    filled = command.format(checkpoint=tiny_checkpoint, data=synthetic_recordings, out=tmp_path / "out")
    assert main(filled.split()) == 2
    shown = capfd.readouterr().err.strip()
    assert shown.startswith("worldgym: ")
    assert message in shown
    assert len(shown.splitlines()) == 1
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("demo --steps 0", "--steps: expected a whole number from 1 to 2147483647, got '0'"),
        ("demo --steps 1e3", "--steps: expected a whole number"),
        ("demo --seed -1", "--seed: expected a whole number from 0"),
        (f"demo --seed {10**30}", "--seed: expected a whole number from 0"),
        ("collect --out {out} --workers 0", "--workers: expected a whole number from 1"),
        ("collect --out {out} --seed 1.5", "--seed: expected a whole number from 0"),
        ("train tokenizer --data {out} --held-out {out} --out {out} --steps many", "invalid literal for int"),
        (
            "train tokenizer --data {out} --held-out {out} --out {out} --threads 0",
            "--threads: expected a whole number from 1",
        ),
        (
            "train transformer --tokenizer {out} --data {out} --held-out {out} --out {out} --learning-rate fast",
            "could not convert string to float: 'fast'",
        ),
        (
            "export --tokenizer {out} --transformer {out} --held-out {out} --out {out} --temperature nan",
            "--temperature: expected a number above 0, got 'nan'",
        ),
        ("evaluate --data {out} --horizon 0", "--horizon: expected a whole number from 1"),
        ("evaluate --data {out} --starts 0", "--starts: expected a whole number from 1"),
        ("evaluate --data {out} --first-steps none", "--first-steps: expected a whole number from 1"),
    ],
)
def test_invalid_numbers_are_refused(
    command: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(command.format(out=tmp_path / "out").split())
    assert " ".join(message.split()) in " ".join(capsys.readouterr().err.replace("│", "").split())
    assert not list(tmp_path.iterdir())


def test_errors_of_several_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(command: object) -> None:
        raise WorldGymError("problems:\n  - one\n  - two")

    monkeypatch.setattr("worldgym.cli.checkpoints.Checkpoints.run", fail)
    assert main(["checkpoints"]) == 2
    assert capsys.readouterr().err == "worldgym: problems:\n  - one\n  - two\n"


@pytest.mark.parametrize("part", ["tokenizer", "transformer"])
@pytest.mark.parametrize(("reached", "status"), [(9, 0), (7, 130)])
def test_stopped_training_says_how_to_continue(
    part: str,
    reached: int,
    status: int,
    synthetic_recordings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(f"worldgym.training.runs.train_{part}", lambda *given: reached)
    monkeypatch.setattr("worldgym.cli.train.find_recipe", lambda name: RECIPE)
    data = f"--data {synthetic_recordings} --held-out {synthetic_recordings} --out {tmp_path} --steps 9 --device cpu"
    more = f" --tokenizer {tmp_path}" if part == "transformer" else ""
    assert main(f"train {part} {data}{more}".split()) == status
    shown = capsys.readouterr().err
    assert shown == ("" if status == 0 else "worldgym: stopped at 7 of 9 steps; add --resume to continue\n")


@pytest.mark.parametrize("text", ["expert", "expert=", "=3", "expert=-1", "expert=1,,random=2"])
def test_invalid_episode_counts_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["collect", "--out", "nowhere", "--episodes", text])
    assert "BEHAVIOUR=COUNT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), 130), (WorldGymError("a\nb"), 2), (OSError(28, "No space left"), 2)]
)
def test_exit_status(error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: object) -> None:
        raise error

    monkeypatch.setattr("worldgym.cli.checkpoints.Checkpoints.run", fail)
    assert main(["checkpoints"]) == status


def test_checkpoints_lists_what_ships(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("worldgym.checkpoints.shipped", lambda: {"tiny": tiny_checkpoint})
    assert main(["checkpoints"]) == 0
    shown = capsys.readouterr().out
    assert tiny_checkpoint.name in shown
    assert "hammer, plate-slide" in shown
    monkeypatch.setattr("worldgym.checkpoints.shipped", dict)
    assert main(["checkpoints"]) == 0
    assert "none" in capsys.readouterr().out


def test_consoles_that_are_not_utf8(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    for command in ("--help", "demo --help", "collect --help"):
        shown = subprocess.run(
            [sys.executable, "-m", "worldgym", *command.split()], capture_output=True, env=environment, check=False
        )
        assert (shown.returncode, shown.stderr) == (0, b"")


def test_demo_writes_what_it_prints(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["demo", "--checkpoint", str(tiny_checkpoint), "--steps", "6", "--out", str(tmp_path), "--device", "cpu"]
    assert main(command) == 0
    *paths, speed = capsys.readouterr().out.splitlines()
    assert len(paths) == 4
    assert all(Path(path).stat().st_size > 0 for path in paths)
    assert "imagined steps a second in a batch of 2 on " in speed


@pytest.mark.simulator
def test_collect_records_what_training_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["collect", "--out", str(tmp_path), "--tasks", "plate-slide", "--episodes", "random=1", "--workers", "1"]
    assert main(command) == 0
    recordings = Recordings(tmp_path)
    assert recordings.tasks == ("plate-slide",)
    assert recordings.episodes[0].shape == (101, 64, 64, 3)
    assert main(command) == 0  # and does not repeat it
    assert "1 episodes requested, 1 in" in capsys.readouterr().out


def test_from_recordings_to_a_checkpoint_with_a_card(
    make_episode: Callable[..., Episode],
    tiny_config: WorldModelConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """train tokenizer -> train transformer -> export -> evaluate -> demo, as a user would."""
    for folder, first in (("train", 0), ("held-out", 1000)):
        for task in ("hammer", "plate-slide"):
            for seed in (first, first + 1):
                make_episode(task, "random", seed, 45).save(tmp_path / folder / task / f"{seed}.safetensors")
    training = {"steps": 2, "batch_size": 2, "log_every": 1, "warmup_steps": 1, "precision": "float32"}
    job = {"segment_length": 6, "start_stride": 4}

    recipe = {
        "tokenizer": {
            "model": to_dict(tiny_config.tokenizer),
            "job": {"segment_length": 6, "future_frames": 2},
            "training": training,
        },
        "transformer": {"model": to_dict(tiny_config.transformer), "job": job, "training": training},
    }
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    data = f"--data {tmp_path}/train --held-out {tmp_path}/held-out --recipe {tmp_path}/recipe.json --device cpu"
    out, runs = f"{tmp_path}/mine", f"--tokenizer {tmp_path}/tokenizer --transformer {tmp_path}/transformer"
    for command in (
        f"train tokenizer {data} --out {tmp_path}/tokenizer",
        f"train transformer {data} --tokenizer {tmp_path}/tokenizer --out {tmp_path}/transformer --learning-rate 0.002",
        f"export {runs} --held-out {tmp_path}/held-out --out {out}",
        f"evaluate --checkpoint {out} --data {tmp_path}/held-out --horizon 3 --starts 2 --out {tmp_path}/figures.json "
        "--write-card --device cpu",
        f"demo --checkpoint {out} --steps 3 --task hammer --out {tmp_path}/demo --device cpu",
    ):
        assert main(command.split()) == 0, capsys.readouterr().err
    _check_figures(tmp_path, capsys.readouterr().out)
    assert main(f"export {runs} --held-out {tmp_path}/train --out {tmp_path}/leaky/new".split()) == 2
    assert "not used in training" in capsys.readouterr().err
    assert not list((tmp_path / "leaky").iterdir())


def _check_figures(folder: Path, shown: str) -> None:
    assert "| horizon | PSNR sampled" in shown
    figures = json.loads((folder / "figures.json").read_text())
    assert set(figures["by_task"]) == {"all", "hammer", "plate-slide"}
    assert figures["by_task"]["all"]["segments"] == 8
    assert {"date", "machine", "commit", "command", "perplexity", "first_steps", "horizon"} <= set(figures)
    config = from_dict(WorldModelConfig, json.loads((folder / "mine" / "config.json").read_text()), "config.json")
    assert config.figures == figures
    assert config.training_data["trained_on"]["episodes"]["hammer"] == {"random": 2}
    card = (folder / "mine" / "README.md").read_text()
    assert "# mine" in card
    assert "worldgym train transformer --recipe mine" in card
    assert "--episodes random=2 --seed 1000" in card
    assert f"{figures['by_task']['all']['sampled']['psnr'][2]:.1f}" in card
    assert (
        json.loads((folder / "mine" / "recipe.json").read_text())["transformer"]["training"]["learning_rate"] == 0.002
    )

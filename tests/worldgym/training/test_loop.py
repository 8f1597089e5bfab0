import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sized
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldgym.cli import main
from worldgym.config import WorldModelConfig
from worldgym.data.recordings import Recordings
from worldgym.errors import CheckpointError, ConfigError, StorageError, TrainingError
from worldgym.parallel import WHOLE, Part
from worldgym.runs.checkpoint import checkpoint_step, checkpoints, load_state, newest_checkpoint
from worldgym.runs.log import Metrics
from worldgym.storage.tensors import Tensors
from worldgym.tokenizer import build_tokenizer
from worldgym.training.loop import Trainable, TrainingConfig, train
from worldgym.training.recipe import Recipe
from worldgym.training.runs import train_tokenizer
from worldgym.training.tokenizer import TokenizerTrainer
from worldgym.training.trained import load_tokenizer_run
from worldgym.training.transformer import TransformerTrainer
from worldgym.transformer.transformer import Transformer

TorchSettings = dict[str, Callable[[], AbstractContextManager[object]]]

DESCRIPTION = {"what": "a test"}
Make = Callable[..., Trainable]
AFTER = -1  # stands for the step after the last update
AUGMENTED = {"random_crops": 0.2, "random_colours": 0.1}


class Line:
    """Fit a line: the smallest thing that trains. ``at[step]`` is called in that step's loss."""

    def __init__(self, at: Mapping[int, Callable[[], None]] | None = None, broken_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Linear(3, 1)
        self.slow: nn.Module | None = None
        self.at, self.broken_at, self.step = at or {}, broken_at, 0

    def read(self, rng: np.random.Generator, part: Part = WHOLE) -> None:
        pass

    def loss(self, rng: np.random.Generator, part: Part = WHOLE, data: None = None) -> tuple[Tensor, Metrics]:
        self.at.get(self.step, lambda: None)()
        inputs = torch.from_numpy(rng.standard_normal((8, 3)).astype(np.float32))
        loss: Tensor = (self.model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        if self.step == self.broken_at:
            loss = loss * math.nan
        self.step += 1
        return loss, {"inputs": float(inputs.sum())}

    def after_update(self) -> Metrics:
        return {}

    def after_training(self, stop: Sized = ()) -> bool:
        self.at.get(AFTER, lambda: None)()
        if stop:
            return False
        with torch.no_grad():
            self.model.get_parameter("bias").add_(1)
        return True

    def validate(self, video: Path) -> Metrics:
        return {"folder_exists": float(video.parent.exists())}

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        assert not state


def settings(**changes: Any) -> TrainingConfig:
    return TrainingConfig(
        **{"steps": 6, "warmup_steps": 2, "log_every": 2, "validate_every": 100, "save_every": 2, **changes}
    )


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def read_checkpoint(folder: Path) -> tuple[int, Tensors]:
    """Step and tensors of a run's newest checkpoint."""
    tensors, counters = load_state(newest_checkpoint(folder))
    return counters["step"], tensors


def assert_equal_checkpoints(first: Path, second: Path) -> None:
    (step, tensors), (other_step, others) = read_checkpoint(first), read_checkpoint(second)
    assert step == other_step
    assert tensors.keys() == others.keys()
    different = [name for name in tensors if not torch.equal(tensors[name], others[name])]
    assert different == []


@pytest.fixture
def tokenizer_trainable(recipe: Recipe, recordings: Recordings, held_out: Recordings) -> Make:
    def make(**changes: float) -> TokenizerTrainer:
        torch.manual_seed(0)
        part = recipe.tokenizer
        job, batch_size = dataclasses.replace(part.job, **changes), part.training.batch_size  # type: ignore[arg-type]
        return TokenizerTrainer(build_tokenizer(part.model), job, batch_size, recordings, held_out)

    return make


@pytest.fixture
def transformer_trainable(recipe: Recipe, tokenizer_run: Path, recordings: Recordings, held_out: Recordings) -> Make:
    def make(**changes: float) -> TransformerTrainer:
        config, tokenizer, *_ = load_tokenizer_run(tokenizer_run)
        world_config = WorldModelConfig(config, recipe.transformer.model, recordings.action_dim, reward=True)
        torch.manual_seed(0)
        model = Transformer(world_config.transformer, world_config.layout, world_config.action_dim, reward=True)
        job, training = dataclasses.replace(recipe.transformer.job, **changes), recipe.transformer.training  # type: ignore[arg-type]
        return TransformerTrainer(model, tokenizer, world_config, job, training.batch_size, recordings, held_out)

    return make


@pytest.mark.parametrize("changes", [{}, AUGMENTED], ids=["plain", "augmented"])
@pytest.mark.parametrize("part", ["tokenizer", "transformer"])
def test_interrupted_training_resumes_exactly(
    part: str, changes: dict[str, float], recipe: Recipe, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    make: Make = request.getfixturevalue(f"{part}_trainable")
    config = dataclasses.replace(getattr(recipe, part).training, save_every=100)
    train(make(**changes), config, tmp_path / "unbroken", DESCRIPTION)

    job, calls = make(**changes), []
    loss = job.loss

    def interrupted(rng: np.random.Generator, part: Part, data: Any) -> tuple[Tensor, Metrics]:
        calls.append(rng)
        if len(calls) == 3:
            interrupt()
        return loss(rng, part, data)

    job.loss = interrupted  # type: ignore[method-assign]
    train(job, config, tmp_path / "broken", DESCRIPTION)
    assert read_checkpoint(tmp_path / "broken")[0] == 3
    train(make(**changes), config, tmp_path / "broken", DESCRIPTION, resume=True)
    assert_equal_checkpoints(tmp_path / "unbroken", tmp_path / "broken")


def test_killed_training_resumes_exactly(recipe_file: Path, toy_data: Path, tmp_path: Path) -> None:
    def command(folder: str, *more: str) -> list[str]:
        data = ["--data", f"{toy_data}/train", "--held-out", f"{toy_data}/held-out"]
        options = ["--recipe", str(recipe_file), "--steps", "16", "--threads", "1", "--device", "cpu"]
        return ["train", "tokenizer", *data, *options, "--out", str(tmp_path / folder), *more]

    with subprocess.Popen([sys.executable, "-m", "worldgym", *command("killed")], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not checkpoints(tmp_path / "killed"):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    threads = torch.get_num_threads()
    try:
        assert main(command("killed", "--resume")) == 0
        assert main(command("unbroken")) == 0
    finally:
        torch.set_num_threads(threads)
    assert_equal_checkpoints(tmp_path / "unbroken", tmp_path / "killed")


def test_equal_seeds_train_equal_models(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(Line(), settings(seed=seed), tmp_path / name, DESCRIPTION)
    assert_equal_checkpoints(tmp_path / "a", tmp_path / "b")
    weights = [read_checkpoint(tmp_path / name)[1]["model.weight"] for name in ("a", "c")]
    assert not torch.equal(*weights)


def test_second_signal_stops_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        interrupt()
        interrupt()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # may be ignored in a background job
    try:
        with pytest.raises(KeyboardInterrupt):
            train(Line({1: twice}), settings(), tmp_path, DESCRIPTION)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_sigterm_leaves_a_checkpoint(tmp_path: Path) -> None:
    job = Line({4: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    assert train(job, settings(steps=50), tmp_path, DESCRIPTION) == 5
    assert read_checkpoint(tmp_path)[0] == checkpoint_step(tmp_path) == 5


def test_a_stop_after_the_last_update_is_a_stop_before_the_heads_are_fitted(tmp_path: Path) -> None:
    train(Line(), settings(), tmp_path / "unbroken", {})
    assert train(Line({AFTER: interrupt}), settings(), tmp_path / "broken", {}) == 5  # of 6
    assert read_checkpoint(tmp_path / "broken")[0] == 6
    resumed = Line({AFTER: lambda: None, 0: pytest.fail})
    assert train(resumed, settings(), tmp_path / "broken", {}, resume=True) == 6
    assert_equal_checkpoints(tmp_path / "unbroken", tmp_path / "broken")
    lines = [(folder / "metrics.jsonl").read_text() for folder in (tmp_path / "unbroken", tmp_path / "broken")]
    steps = [[json.loads(line)["step"] for line in text.splitlines()] for text in lines]
    assert steps[0] == steps[1]


def test_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    train(Line(), settings(), tmp_path, DESCRIPTION)
    with pytest.raises(TrainingError, match="--resume"):
        train(Line(), settings(), tmp_path, DESCRIPTION)


def test_run_resumes_with_its_own_settings_only(tmp_path: Path) -> None:
    train(Line({1: interrupt}), settings(), tmp_path, DESCRIPTION)
    with pytest.raises(TrainingError, match=r"training.learning_rate: saved 0.0001, requested 0.5"):
        train(Line(), settings(learning_rate=0.5), tmp_path, DESCRIPTION, resume=True)
    with pytest.raises(TrainingError, match=r"what: saved 'a test', requested 'another test'"):
        train(Line(), settings(), tmp_path, {"what": "another test"}, resume=True)
    with pytest.raises(TrainingError, match="nothing to resume"):
        train(Line(), settings(), tmp_path / "elsewhere", DESCRIPTION, resume=True)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    train(Line(), settings(), tmp_path, DESCRIPTION)
    before = read_checkpoint(tmp_path)[1]
    assert train(Line(), settings(), tmp_path, DESCRIPTION, resume=True) == 6
    after = read_checkpoint(tmp_path)[1]
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_metrics_after_the_last_checkpoint_are_logged_once(tmp_path: Path) -> None:
    def killed() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        train(Line({5: killed}), settings(log_every=1, save_every=3), tmp_path, DESCRIPTION)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "lo')
    train(Line(), settings(log_every=1, save_every=3), tmp_path, DESCRIPTION, resume=True)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("text", ["{", "[]"])
def test_run_with_damaged_settings_is_not_resumed(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.json"):
        train(Line(), settings(), tmp_path, DESCRIPTION, resume=True)


def test_unwritable_log_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    with pytest.raises(StorageError, match=r"could not write .*metrics\.jsonl: .*No space left.*--resume"):
        train(Line(), settings(), tmp_path, DESCRIPTION)


def test_infinite_loss_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"diverged at update 3 of Linear: .*got loss nan.*learning rate below"):
        train(Line(broken_at=3), settings(), tmp_path, DESCRIPTION)
    step, tensors = read_checkpoint(tmp_path)
    assert step == 2
    assert all(torch.isfinite(value).all() for value in tensors.values())


def test_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(Line({2: interrupt}), settings(save_every=100), tmp_path, DESCRIPTION)
    before = (newest_checkpoint(tmp_path) / "state.safetensors").read_bytes()

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("worldgym.storage.tensors.save_file", full)
        with pytest.raises(StorageError, match=r"No space left.*earlier files are kept"):
            train(Line(), settings(save_every=100), tmp_path, DESCRIPTION, resume=True)
    assert (newest_checkpoint(tmp_path) / "state.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".*"))
    train(Line(), settings(save_every=100), tmp_path, DESCRIPTION, resume=True)
    assert read_checkpoint(tmp_path)[0] == 6


def test_a_disk_without_room_for_the_checkpoints_is_found_before_the_first_update(
    tokenizer_trainable: Make, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, free = dataclasses.replace(recipe.tokenizer.training, ema_decay=0.9), [2**40]
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free[0]))
    train(tokenizer_trainable(), config, tmp_path / "run", DESCRIPTION)
    size = (newest_checkpoint(tmp_path / "run") / "state.safetensors").stat().st_size
    free[0] = int(1.8 * size)
    with pytest.raises(StorageError, match=r"free space for 2 checkpoints of this run, but .* are free on the disk of"):
        train(tokenizer_trainable(), config, tmp_path / "full", DESCRIPTION)
    assert not (tmp_path / "full").exists()
    free[0] = 2 * size
    train(tokenizer_trainable(), config, tmp_path / "full", DESCRIPTION)
    free[0] = size
    train(tokenizer_trainable(), config, tmp_path / "full", DESCRIPTION, resume=True)  # which holds one already


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_damaged_checkpoint_raises_with_its_name(tmp_path: Path, content: bytes) -> None:
    train(Line({1: interrupt}), settings(), tmp_path, DESCRIPTION)
    (newest_checkpoint(tmp_path) / "state.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint-000001/state\.safetensors"):
        train(Line(), settings(), tmp_path, DESCRIPTION, resume=True)


def test_metrics_are_logged(tmp_path: Path) -> None:
    train(Line(), settings(validate_every=3), tmp_path, DESCRIPTION)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6]
    assert [line["step"] for line in lines if "validation/folder_exists" in line] == [3, 6]
    assert lines[0].keys() >= {"loss", "inputs", "gradient_norm", "learning_rate", "seconds"}
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_learning_rate_rises_then_falls_to_zero() -> None:
    config = TrainingConfig(steps=100, warmup_steps=10, learning_rate=2.0)
    rates = [config.learning_rate * config.schedule(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == pytest.approx(2.0 * 0.5 * (1 + math.cos(math.pi * 0.09)))
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] < 0.001


def test_global_random_state_is_unchanged(tmp_path: Path) -> None:
    job = Line()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(job, settings(), tmp_path, DESCRIPTION)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("setting", ["float64", "device context", "autocast", "inference mode"])
def test_training_ignores_the_callers_torch_settings(
    setting: str,
    torch_settings: TorchSettings,
    recipe: Recipe,
    recordings: Recordings,
    held_out: Recordings,
    tmp_path: Path,
) -> None:
    part = dataclasses.replace(recipe.tokenizer, training=dataclasses.replace(recipe.tokenizer.training, steps=2))
    train_tokenizer(part, recordings, held_out, tmp_path / "plain", torch.device("cpu"))
    with torch_settings[setting]():
        train_tokenizer(part, recordings, held_out, tmp_path / "changed", torch.device("cpu"))
        trained = load_tokenizer_run(tmp_path / "changed")
    assert_equal_checkpoints(tmp_path / "plain", tmp_path / "changed")
    assert trained.digest == load_tokenizer_run(tmp_path / "plain").digest


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"save_every": 0},
        {"clip_norm": 0.0},
        {"warmup_steps": -1},
        {"precision": "int8"},
    ],
)
def test_invalid_settings_raise(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        settings(**changes)


def test_a_learning_rate_without_decay_stays() -> None:
    config = TrainingConfig(steps=100, warmup_steps=4, decay="none")
    assert [config.schedule(step) for step in (0, 1, 3, 4, 99)] == [0.25, 0.5, 1, 1, 1]
    with pytest.raises(ConfigError, match="decay: expected one of"):
        TrainingConfig(steps=100, decay="linear")  # type: ignore[arg-type]

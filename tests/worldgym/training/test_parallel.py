"""Two processes, started by Accelerate's launcher, train as one does, and resume exactly whatever ended them.

Each launch imports PyTorch three times, so tests share runs.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from worldgym.cli import main
from worldgym.errors import ConfigError, DependencyNotInstalled
from worldgym.parallel import Part, joined, parts
from worldgym.runs.checkpoint import checkpoints, load_state, newest_checkpoint
from worldgym.runs.log import read_metrics
from worldgym.storage.tensors import Tensors

STEPS = 30
PATIENCE = 60.0  # seconds until a test gives up
WITHOUT_GRADIENT = ("out.bias", "norm.running_mean")
"""The bias of a layer before a normalisation: its gradient is rounding alone, which Adam scales up. The running mean
takes it out again."""

Command = Callable[..., list[str]]


@pytest.fixture(scope="session")
def command(recipe_file: Path, toy_data: Path) -> Command:
    """Makes the arguments of ``worldgym`` for a run of a toy model."""

    def make(part: str, folder: Path, *more: str) -> list[str]:
        data = ["--data", f"{toy_data}/train", "--held-out", f"{toy_data}/held-out", "--recipe", str(recipe_file)]
        rates = ["--learning-rate", "1e-4", "--device", "cpu"]
        return ["train", part, *data, *rates, "--out", str(folder), *more]

    return make


@contextmanager
def launched(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Two processes that run a command line."""
    flags = ["--multi_gpu", "--num_processes", "2", "--main_process_port", "0", "-m", "worldgym"]
    line = [sys.executable, "-m", "accelerate.commands.launch", *flags, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(arguments: list[str]) -> None:
    with launched(arguments) as process:
        messages = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 0, messages


def workers(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that the launcher started, the first one first."""
    found = psutil.Process(launcher.pid).children(recursive=True)
    return sorted(
        (one for one in found if one.environ().get("WORLD_SIZE") == "2"), key=lambda one: one.environ()["RANK"]
    )


def wait_for_checkpoint(folder: Path, earlier: list[Path]) -> None:
    """Wait for a checkpoint after the ``earlier`` ones."""
    deadline = time.monotonic() + PATIENCE
    while not set(checkpoints(folder)) - set(earlier):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def curve(folder: Path) -> list[dict[str, Any]]:
    """Metrics of the updates."""
    lines = [line for line in read_metrics(folder) if "loss" in line]
    return [
        {name: value for name, value in line.items() if not name.startswith(("seconds", "speed/"))} for line in lines
    ]


def state(folder: Path) -> Tensors:
    return load_state(newest_checkpoint(folder))[0]


def assert_close_runs(first: Path, second: Path) -> None:
    assert len(curve(first)) == len(curve(second)) > 0
    for one, other in zip(curve(first), curve(second), strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    tensors, others = state(first), state(second)
    assert tensors.keys() == others.keys()
    for name, value in tensors.items():
        if not name.endswith(WITHOUT_GRADIENT):
            torch.testing.assert_close(value, others[name], rtol=0, atol=1e-4, msg=name)


@pytest.fixture(scope="session")
def two_tokenizers(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unbroken run of two processes."""
    folder = tmp_path_factory.mktemp("parallel") / "tokenizer"
    finish(command("tokenizer", folder, "--steps", str(STEPS)))
    return folder


def test_two_processes_train_a_tokenizer_as_one_does(command: Command, two_tokenizers: Path, tmp_path: Path) -> None:
    assert main(command("tokenizer", tmp_path / "one", "--steps", str(STEPS))) == 0
    assert_close_runs(tmp_path / "one", two_tokenizers)
    assert len(list(two_tokenizers.glob("events.out.*"))) == 1
    assert [line["step"] for line in curve(two_tokenizers)] == list(range(1, STEPS + 1))


def test_two_processes_train_against_a_discriminator_on_crops_as_one_does(command: Command, tmp_path: Path) -> None:
    job = ["--job.adversarial-weight", "0.8", "--job.disc-start", "2"]
    job += ["--job.random-crops", "0.2", "--job.random-colours", "0.1"]
    finish(command("tokenizer", tmp_path / "two", *job))
    assert main(command("tokenizer", tmp_path / "one", *job)) == 0
    assert "adversarial/discriminator" in curve(tmp_path / "two")[-1]
    assert_close_runs(tmp_path / "one", tmp_path / "two")


def test_two_processes_and_parts_train_a_transformer_as_one_does(
    command: Command, tokenizer_run: Path, tmp_path: Path
) -> None:
    shares = ["--job.first-share", "0.5", "--job.later-share", "0.5"]  # frames of unequal weight
    noise = ["--job.noise-width", "0.05", "--job.label-width", "0.05"]
    job = ["--tokenizer", str(tokenizer_run), "--job.dropout", "0", "--job.head-batches", "8", *shares, *noise]
    job += ["--ema-decay", "0.9"]
    finish(command("transformer", tmp_path / "two", *job, "--accumulate", "2"))
    assert main(command("transformer", tmp_path / "one", *job)) == 0
    assert_close_runs(tmp_path / "one", tmp_path / "two")


def test_killed_and_stopped_processes_resume_exactly(command: Command, two_tokenizers: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    arguments = command("tokenizer", folder, "--steps", str(STEPS))

    with launched(arguments) as process:
        wait_for_checkpoint(folder, [])
        workers(process)[1].kill()
        messages = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode != 0
    assert "process 0 of 2 lost the others" in messages
    assert "--resume" in messages

    with launched([*arguments, "--resume"]) as process:
        wait_for_checkpoint(folder, checkpoints(folder))
        left = workers(process)
        assert len(left) == 2
        process.kill()
        process.communicate(timeout=PATIENCE)
        assert psutil.wait_procs(left, timeout=PATIENCE)[1] == []  # they stop by themselves
    assert len(checkpoints(folder)) == 1

    with launched([*arguments, "--resume"]) as process:
        wait_for_checkpoint(folder, checkpoints(folder))
        process.send_signal(signal.SIGINT)
        messages = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode != 0
    assert messages.count("steps; add --resume to continue") == 1
    assert len(checkpoints(folder)) == 1
    assert 0 < len(curve(folder)) < STEPS

    finish([*arguments, "--resume"])
    assert curve(folder) == curve(two_tokenizers)
    expected = state(two_tokenizers)
    assert [name for name, value in state(folder).items() if not torch.equal(value, expected[name])] == []


def test_a_batch_that_the_processes_do_not_divide_is_refused(command: Command, tmp_path: Path) -> None:
    with launched(command("tokenizer", tmp_path / "run", "--batch-size", "3")) as process:
        messages = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode != 0
    assert "batch_size: expected a multiple of 2, the number of processes (2) times --accumulate (1), got 3" in messages
    assert not (tmp_path / "run").exists()


def test_a_batch_of_the_second_part_that_they_do_not_divide_is_refused_before_the_first(
    recipe_file: Path, toy_data: Path, tmp_path: Path
) -> None:
    recipe = json.loads(recipe_file.read_text())
    recipe["transformer"]["training"]["batch_size"] = 7
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    data = ["--data", f"{toy_data}/train", "--held-out", f"{toy_data}/held-out", "--device", "cpu"]
    arguments = ["train", "--recipe", f"{tmp_path}/recipe.json", *data, "--out", str(tmp_path / "run")]
    with launched(arguments) as process:
        messages = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode != 0
    assert "batch_size: expected a multiple of 2, the number of processes (2) times --accumulate (1), got 7" in messages
    assert not (tmp_path / "run").exists()


def test_a_launcher_that_started_one_process_instead_of_several_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ConfigError, match="starts a single process on each machine; `accelerate launch --multi_gpu"):
        joined().__enter__()


def test_a_chosen_gpu_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError, match="expected cpu or cuda for several processes, got 'cuda:1'"):
        joined("cuda:1").__enter__()


def test_a_world_size_without_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="expected LOCAL_RANK beside WORLD_SIZE=2"):
        joined().__enter__()


def test_missing_accelerate_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setitem(sys.modules, "accelerate", None)  # importing it fails then
    with pytest.raises(DependencyNotInstalled, match=r"pip install worldgym\[accelerate\]"):
        joined().__enter__()


def test_parts_are_contiguous_and_cover_the_batch() -> None:
    assert [list(range(12))[Part(index, 3).of(12)] for index in range(3)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]
    assert parts(12) == [Part(0, 1)]
    assert parts(12, 2) == [Part(0, 2), Part(1, 2)]
    with pytest.raises(
        ConfigError, match=r"multiple of 5, the number of processes \(1\) times --accumulate \(5\), got 12"
    ):
        parts(12, 5)

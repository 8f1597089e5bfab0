"""The loop, folder, log, signals and checkpoints of any run, with a job that only counts."""

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from worldgym.errors import CheckpointError, DependencyNotInstalled, StorageError, TrainingError
from worldgym.runs.checkpoint import checkpoint_step, checkpoints, load_state, newest_checkpoint, save_state
from worldgym.runs.folder import setting_differences
from worldgym.runs.log import Log, read_metrics
from worldgym.runs.run import run
from worldgym.runs.signals import stop_signals

CONFIG = {"what": "a count", "sizes": {"width": 3}}


class Count:
    """Counts to ``steps``; ``at[step]`` is called before that step."""

    def __init__(self, steps: int = 6, at: dict[int, Callable[[], None]] | None = None) -> None:
        self.steps, self.step, self.at = steps, 0, at or {}

    @property
    def finished(self) -> bool:
        return self.step >= self.steps

    @property
    def save_due(self) -> bool:
        return self.step % 2 == 0

    def advance(self, log: Log, stop: Sized) -> None:
        self.at.get(self.step, lambda: None)()
        self.step += 1
        log.write(self.step, {"square": float(self.step**2), "ratio": math.inf if self.step == 2 else 1.0})
        log.advance("counting")

    def save(self, folder: Path) -> None:
        save_state(folder, {"step": torch.tensor(self.step)}, {"step": self.step})

    def load(self, folder: Path) -> None:
        tensors, counters = load_state(folder)
        assert int(tensors["step"]) == counters["step"]
        self.step = counters["step"]

    def conclude(self, folder: Path) -> None:
        (folder / "result").write_text(str(self.step), encoding="utf-8")


def fail() -> None:
    raise MemoryError("killed here")


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def interrupt_twice() -> None:
    interrupt()
    interrupt()


def logged(folder: Path) -> list[int]:
    return [line["step"] for line in read_metrics(folder)]


def test_run_leaves_config_metrics_checkpoint_and_result(tmp_path: Path) -> None:
    assert run(Count(), tmp_path / "run", CONFIG)
    assert json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8")) == CONFIG
    assert logged(tmp_path / "run") == [1, 2, 3, 4, 5, 6]
    assert checkpoint_step(tmp_path / "run") == 6
    assert len(checkpoints(tmp_path / "run")) == 1
    assert (tmp_path / "run" / "result").read_text(encoding="utf-8") == "6"


def test_run_that_died_repeats_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(MemoryError):
        run(Count(at={3: fail}), tmp_path, CONFIG)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "squ')
    assert logged(tmp_path) == [1, 2, 3]  # the cut line is left out
    assert run(Count(), tmp_path, CONFIG, resume=True)
    assert logged(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_run_that_died_before_its_first_checkpoint_restarts(tmp_path: Path) -> None:
    with pytest.raises(MemoryError):
        run(Count(at={1: fail}), tmp_path, CONFIG)
    assert run(Count(), tmp_path, CONFIG, resume=True)
    assert logged(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_tensorboard_keeps_the_last_step_before_a_resume(tmp_path: Path) -> None:
    assert not run(Count(at={3: interrupt}), tmp_path, CONFIG)
    time.sleep(1.1)  # TensorBoard orders files by the second in their names
    assert run(Count(), tmp_path, CONFIG, resume=True)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("square")] == [1, 2, 3, 4, 5, 6]


def test_missing_tensorboard_leaves_no_run_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        with pytest.raises(DependencyNotInstalled, match=r"pip install worldgym\[train\]"):
            run(Count(), tmp_path / "run", CONFIG)
    assert not (tmp_path / "run").exists()
    assert run(Count(), tmp_path / "run", CONFIG)


def test_infinite_metrics_are_null_in_json(tmp_path: Path) -> None:
    run(Count(), tmp_path, CONFIG)
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert "Infinity" not in text
    assert [line["ratio"] for line in read_metrics(tmp_path)][:3] == [1.0, None, 1.0]


def test_run_in_a_thread_cannot_receive_signals_and_runs(tmp_path: Path) -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run(Count(), tmp_path, CONFIG)))
    thread.start()
    thread.join()
    assert results == [True]


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler])
def test_signals_are_collected_and_handlers_restored(handler: Any) -> None:
    """SIGINT is ignored in the background jobs of a shell."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        with stop_signals() as stop:
            assert stop == []
            interrupt()
            assert stop == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_second_signal_has_its_usual_effect() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), stop_signals():
            interrupt_twice()
    finally:
        signal.signal(signal.SIGINT, before)


def test_folders_that_hold_no_run_or_another_one(tmp_path: Path) -> None:
    run(Count(), tmp_path, CONFIG)
    with pytest.raises(TrainingError, match="already holds a run: add --resume"):
        run(Count(), tmp_path, CONFIG)
    with pytest.raises(TrainingError, match=r"other settings: sizes.width: saved 3, requested 4. Repeat"):
        run(Count(), tmp_path, {**CONFIG, "sizes": {"width": 4}}, resume=True)
    with pytest.raises(TrainingError, match="nothing to resume"):
        run(Count(), tmp_path / "elsewhere", CONFIG, resume=True)


@pytest.mark.parametrize("name", ["last.safetensors", "checkpoint-000003/learner.safetensors"])
def test_checkpoints_of_an_earlier_version_are_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(TrainingError, match=rf"{name} is a checkpoint in the format of worldgym 0.1"):
        run(Count(), tmp_path, CONFIG, resume=True)


@pytest.mark.parametrize("name", ["state.safetensors", "run.json"])
@pytest.mark.parametrize("content", [b"", b"{}"])
def test_damaged_checkpoint_raises_with_its_name(name: str, content: bytes, tmp_path: Path) -> None:
    run(Count(at={3: interrupt}), tmp_path, CONFIG)
    (newest_checkpoint(tmp_path) / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"checkpoint-\d+/{name}"):
        run(Count(), tmp_path, CONFIG, resume=True)


def test_run_folder_may_contain_other_files_named_like_old_checkpoints(tmp_path: Path) -> None:
    assert not run(Count(at={3: interrupt}), tmp_path, CONFIG)
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    for name in ("last.safetensors", "learner.safetensors"):
        (tmp_path / "videos" / "deep" / name).touch()
    assert run(Count(), tmp_path, CONFIG, resume=True)


@pytest.mark.parametrize("name", ["last.safetensors", "checkpoint-000003/learner.safetensors"])
def test_reading_a_run_of_an_earlier_version_raises(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=rf"{name} is a checkpoint in the format of worldgym 0.1"):
        newest_checkpoint(tmp_path)


def test_counters_that_are_not_finite_are_restored(tmp_path: Path) -> None:
    counters = {"inf": math.inf, "nan": math.nan, "list": [1, 2.5, "text", None]}
    save_state(tmp_path, {}, counters)
    found = load_state(tmp_path)[1]
    assert math.isnan(found.pop("nan"))
    assert found == {"inf": math.inf, "list": [1, 2.5, "text", None]}


def test_config_with_infinite_settings_can_be_resumed(tmp_path: Path) -> None:
    config = {"limit": math.inf}
    assert not run(Count(at={3: interrupt}), tmp_path, config)
    assert "Infinity" not in (tmp_path / "config.json").read_text(encoding="utf-8")
    assert run(Count(), tmp_path, config, resume=True)


def test_incomplete_and_superseded_checkpoints_are_removed(tmp_path: Path) -> None:
    """As a process that was killed while it replaced a checkpoint leaves them."""
    assert not run(Count(at={3: interrupt}), tmp_path, CONFIG)
    newest = newest_checkpoint(tmp_path)
    (tmp_path / "checkpoint-000000").mkdir()
    (tmp_path / ".checkpoint-000009.abcd").mkdir()
    assert newest_checkpoint(tmp_path) == newest
    assert run(Count(), tmp_path, CONFIG, resume=True)
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-000003"]
    assert not list(tmp_path.glob(".checkpoint*"))


def test_full_disk_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    class Full(Count):
        def save(self, folder: Path) -> None:
            (folder / "state.safetensors").write_bytes(b"half")
            raise OSError(28, "No space left on device")

    run(Count(at={3: interrupt}), tmp_path, CONFIG)
    with pytest.raises(StorageError, match="No space left"):
        run(Full(), tmp_path, CONFIG, resume=True)
    assert not list(tmp_path.glob(".checkpoint*"))
    assert checkpoint_step(tmp_path) == 4
    assert run(Count(), tmp_path, CONFIG, resume=True)


def test_folder_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        newest_checkpoint(tmp_path)


def test_setting_differences_name_nested_settings() -> None:
    saved, requested = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}
    assert setting_differences(saved, requested) == [
        "a.c: saved 2, requested 4",
        "d: saved 3, requested None",
        "e: saved None, requested 5",
    ]

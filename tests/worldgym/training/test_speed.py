"""Training reads its batches ahead, and reports how fast it is."""

import dataclasses
import threading
import time
from pathlib import Path

import pytest
import torch

from worldgym.data.recordings import Recordings
from worldgym.errors import DataError
from worldgym.runs.log import read_metrics
from worldgym.training import loop
from worldgym.training.prefetch import AHEAD, Prefetcher
from worldgym.training.recipe import Recipe
from worldgym.training.runs import train_tokenizer, train_transformer
from worldgym.training.speed import Speed, peak_flops

CPU = torch.device("cpu")


def test_batches_are_read_ahead_in_other_threads() -> None:
    read: list[int] = []

    def slow(step: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        time.sleep(0.02)
        read.append(step)
        return 10 * step

    batches = Prefetcher(slow, 6)
    found = []
    for step in range(6):
        found.append(batches.get(step))
        time.sleep(0.06)  # an update, in which the next batches are read
        assert max(read) == min(5, step + AHEAD)
    batches.close()
    assert found == [0, 10, 20, 30, 40, 50]
    assert sorted(read) == list(range(6))
    assert 0.01 < batches.waited < 0.1  # for the first one alone


def test_what_reading_raises_reaches_the_loop() -> None:
    def broken(step: int) -> int:
        raise DataError("a file is gone")

    batches = Prefetcher(broken, 3)
    with pytest.raises(DataError, match="a file is gone"):
        batches.get(0)
    batches.close()


def test_a_file_that_disappears_during_training_is_named(
    recipe: Recipe, recordings: Recordings, held_out: Recordings, tmp_path: Path
) -> None:
    recordings.episodes[0].load().save(tmp_path / "data" / "a.safetensors")
    lost = Recordings(tmp_path / "data")
    (tmp_path / "data" / "a.safetensors").unlink()
    with pytest.raises(DataError, match=r"a\.safetensors is missing"):
        train_tokenizer(recipe.tokenizer, lost, held_out, tmp_path / "run", CPU)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_averages_are_over_the_updates_since_the_last_line() -> None:
    speed = Speed(8, flops=100.0, peak=1000.0)
    assert speed.samples_per_second == 0
    speed.add(2.0, 0.5)
    speed.add(2.0, 0.5)
    assert speed.metrics() == {
        "speed/samples_per_second": 4.0,
        "speed/waiting_for_data": 0.25,
        "speed/share_of_peak": pytest.approx(0.05),
    }
    speed.add(1.0, 0.0)
    assert speed.metrics()["speed/samples_per_second"] == 8.0
    assert Speed(8).metrics().keys() == {"speed/samples_per_second", "speed/waiting_for_data"}


def test_the_peak_of_unknown_hardware_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_flops("auto", CPU) is None
    for name, expected in (("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("Some GPU", None)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_flops("bfloat16", torch.device("cuda")) == expected
        assert peak_flops("float32", torch.device("cuda")) != expected or expected is None


@pytest.mark.parametrize("part", ["tokenizer", "transformer"])
def test_counting_operations_changes_nothing_else(
    part: str,
    recipe: Recipe,
    tokenizer_run: Path,
    recordings: Recordings,
    held_out: Recordings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def train(folder: Path) -> list[dict[str, float]]:
        if part == "tokenizer":
            train_tokenizer(recipe.tokenizer, recordings, held_out, folder, CPU)
        else:
            job = dataclasses.replace(
                recipe.transformer, job=dataclasses.replace(recipe.transformer.job, head_batches=8)
            )
            train_transformer(job, tokenizer_run, recordings, held_out, folder, CPU)
        return [line for line in read_metrics(folder) if "loss" in line]

    plain = train(tmp_path / "plain")
    monkeypatch.setattr(loop, "peak_flops", lambda precision, device: 1e12)
    counted = train(tmp_path / "counted")
    assert [line["loss"] for line in plain] == [line["loss"] for line in counted]
    assert "speed/share_of_peak" not in plain[0]
    assert all(0 < line["speed/share_of_peak"] < 1 for line in counted)
    assert all(line["speed/samples_per_second"] > 0 and 0 <= line["speed/waiting_for_data"] < 1 for line in counted)

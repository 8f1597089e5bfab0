"""The studies run whole on the toy world at the smallest size, and say what does not fit."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest

from worldgym.checkpoints import path
from worldgym.config import CompressiveTokenizerConfig, WorldModelConfig, to_dict
from worldgym.data.episode import Episode
from worldgym.data.recordings import Recordings
from worldgym.pretrained import read_config
from worldgym.runs.checkpoint import newest_checkpoint

BENCHMARKS = Path(__file__).parent
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The studies' folder: the toy world is pre-trained once for all."""
    return tmp_path_factory.mktemp("studies")


@pytest.fixture
def study(out: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a study as its command does, in this process; the figures that it wrote."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def run(name: str, options: str, folder: Path = out) -> dict[str, Any]:
        script = BENCHMARKS / f"study_{name.replace('-', '_')}.py"
        line = [str(script), "--out", str(folder), *["--steps", "2", "--toy-episodes", "4", "--device", "cpu"]]
        monkeypatch.setattr(sys, "argv", line + options.split())
        runpy.run_path(str(script), run_name="__main__")
        picture = imageio.imread(folder / f"{name}.png")
        assert picture.std() > 0
        results: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        return results

    return run


def written(folder: Path) -> dict[Path, int]:
    """When the checkpoints of all runs were written."""
    runs = {path.parent.parent for path in folder.rglob("checkpoint-*/run.json")}
    return {run: newest_checkpoint(run).stat().st_mtime_ns for run in runs}


def test_few_shot_compares_both_starts_and_repeats_nothing(study: Run, out: Path) -> None:
    results = study("few-shot", "--counts 3")
    first = written(out)
    assert [(row["episodes"], row["start"]) for row in results["models"]] == [(3, "pre-trained"), (3, "from scratch")]
    described = json.loads((out / "few-shot/3-pre-trained/transformer/config.json").read_text(encoding="utf-8"))
    assert described["initial"]["checkpoint"] == str(out / "toy/pre-trained")
    assert described["data"]["episodes"] == {"push": {"random": 3}}
    again = study("few-shot", "--counts 3")
    assert again["models"] == results["models"]
    assert written(out) == first


def test_fewer_episodes_are_among_more(
    synthetic_recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    some_episodes = runpy.run_path(str(BENCHMARKS / "study_few_shot.py"))["some_episodes"]
    parts = [some_episodes(Recordings(synthetic_recordings), count, tmp_path / f"{count}") for count in (4, 7)]
    fewer, more = ({episode.path.resolve() for episode in part.episodes} for part in parts)
    assert (len(fewer), len(more)) == (4, 7)
    assert fewer < more


def test_zero_shot_leaves_the_transformer_as_it_is(study: Run, out: Path) -> None:
    models = study("zero-shot", "")["models"]
    transformers = {name: model["transformer"] for name, model in models.items()}
    assert transformers["tokenizer adapted"] == transformers["unchanged"] != transformers["fine-tuned"]
    assert len({model["psnr of the tokenizer alone"] for model in models.values()}) == 3
    assert {path.stem for path in (out / "zero-shot").glob("*.gif")} == {name.replace(" ", "-") for name in models}


def test_scaling_counts_compute_by_weights_and_tokens(study: Run) -> None:
    models = study("scaling", "--sizes 1x32 2x64")["models"]
    for name, hidden in (("1x32", 32), ("2x64", 64)):
        curve, tokens = models[name], 8 * (2 * 16 + 1 + 6 * 5)
        assert curve["updates"] == [1, 2]
        once = 6 * tokens * (curve["parameters"] - (16 + 32 + 2) * hidden)
        assert curve["flop"] == [once, 2 * once]
        assert 0 < curve["cross-entropy"][1] < 2 * np.log(32)


def test_zero_shot_on_recordings_and_a_checkpoint_of_ones_own(
    study: Run,
    tiny_checkpoint: Path,
    tiny_config: WorldModelConfig,
    synthetic_recordings: Path,
    make_episode: Callable[..., Episode],
    tmp_path: Path,
) -> None:
    make_episode("hammer", "expert", 7).save(tmp_path / "held-out" / "7.safetensors")
    training = {"steps": 90, "batch_size": 2, "precision": "float32"}
    recipe = {
        "tokenizer": {
            "model": to_dict(CompressiveTokenizerConfig()),  # the checkpoint's is taken
            "job": {"segment_length": 6, "future_frames": 3},
            "training": training,
        },
        "transformer": {"model": {}, "job": {"segment_length": 6, "head_batches": 1}, "training": training},
    }
    (tmp_path / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    options = f"--data {synthetic_recordings} --held-out {tmp_path}/held-out --recipe {tmp_path}/recipe.json"
    results = study("zero-shot", f"{options} --initial {tiny_checkpoint}", tmp_path / "out")
    assert not (tmp_path / "out" / "toy").exists()
    assert results["models"]["fine-tuned"]["figures"]["segments"] == 2
    described = json.loads((tmp_path / "out/zero-shot/fine-tuned/transformer/config.json").read_text(encoding="utf-8"))
    assert described["world_model"]["transformer"] == to_dict(tiny_config.transformer)
    assert described["training"]["steps"] == 2


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("few-shot", "--counts 5", "expected at least 5 episodes, got 4"),
        ("few-shot", "--counts 0", "expected a whole number from 1, got '0'"),
        ("scaling", "--sizes 12", "expected layers x hidden size"),
        ("zero-shot", "--data data/train", "give --data, --held-out, --initial and --recipe, or none"),
    ],
)
def test_what_does_not_fit_is_told(
    study: Run, name: str, options: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        study(name, options)
    assert told in f"{exit.value}{capsys.readouterr().err}"


def test_a_row_of_twins_has_the_figures_of_the_card_and_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    twins = runpy.run_path(str(BENCHMARKS / "study_twins.py"))
    twins["steps_a_second"].__globals__["STEPS"] = 2
    found = twins["row"]("CartPole-v1", path("cartpole-64"))
    card = read_config(path("cartpole-64")).figures["by_task"]["all"]
    assert found["psnr"] == [card["sampled"]["psnr"][0], card["sampled"]["psnr"][-1]]
    assert min(found["real"], found["imagined"], found["imagined, 32 slots"]) > 0
    assert len(twins["cells"](found)) == len(twins["COLUMNS"])

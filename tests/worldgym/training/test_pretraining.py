"""Pre-training without actions on three formats pays on another task with actions (paper, sections 3.2 and 4)."""

import dataclasses
import json
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from numpy.typing import NDArray

from worldgym import WorldModel
from worldgym.cli import main
from worldgym.config import Sampling
from worldgym.data.episode import Episode, EpisodeInfo
from worldgym.data.recordings import Recordings, fixed_segments
from worldgym.reports.evaluation import evaluate
from worldgym.training.export import export
from worldgym.training.recipe import Recipe, recipe_to_dict

SIDE, SQUARE, STEPS = 32, 8, 24
GROUNDS = {"recorded": (40, 40, 40), "npz": (20, 60, 90), "video": (90, 40, 30)}
TASK = (30, 80, 50)  # the ground of the other task
HORIZONS = (1, 5)


def _episode(seed: int, ground: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A yellow square that actions push to the left and right, and those actions."""
    rng = np.random.default_rng([seed, *ground])
    actions = rng.choice([-1.0, 1.0], (STEPS, 1)).astype(np.float32)
    row, column = SQUARE * rng.integers(0, SIDE // SQUARE, 2)
    columns = [int(column)]
    for action in actions[:, 0]:
        columns.append(int(np.clip(columns[-1] + SQUARE * action, 0, SIDE - SQUARE)))
    frames = np.empty((STEPS + 1, SIDE, SIDE, 3), np.uint8)
    frames[:] = ground
    for frame, column in zip(frames, columns, strict=True):
        frame[row : row + SQUARE, column : column + SQUARE] = (250, 220, 30)
    return frames, actions


def _record(folder: Path, seeds: range, ground: tuple[int, int, int], task: str) -> None:
    for seed in seeds:
        frames, actions = _episode(seed, ground)
        about = EpisodeInfo("Toy", task, "random", seed, 1)
        Episode(frames, actions, actions[:, 0], np.zeros(STEPS, np.bool_), about).save(folder / f"{seed}.safetensors")


def _mixture(folder: Path) -> None:
    """Recordings, npz files and videos, converted, as two mixtures without actions: to train and to validate."""
    for part, seeds in (("train", range(16)), ("held-out", range(100, 103))):
        for kind in ("npz", "video"):
            (folder / "raw" / kind / part).mkdir(parents=True)
        _record(folder / "recorded" / part, seeds, GROUNDS["recorded"], "recorded")
        for seed in seeds:
            frames, actions = _episode(seed, GROUNDS["npz"])
            padded = np.concatenate([actions, actions[-1:]])
            np.savez_compressed(folder / "raw" / "npz" / part / f"{seed}.npz", image=frames, action=padded)
            imageio.imwrite(folder / "raw" / "video" / part / f"{seed}.gif", _episode(seed, GROUNDS["video"])[0])
        for kind in ("npz", "video"):
            source, out = folder / "raw" / kind / part, folder / kind / part
            assert main(f"convert {kind} {source} --out {out} --resolution {SIDE} --workers 1".split()) == 0
        parts = {kind: {"folders": [f"{kind}/{part}"], "action_dim": 0} for kind in GROUNDS}
        (folder / f"{part}.json").write_text(json.dumps(parts))


def _recipe(recipe: Recipe, path: Path, steps: tuple[int, int], action_dim: int) -> None:
    """The toy recipe with more steps, one reward to fit, and a larger transformer."""
    (tokenizer, transformer), longer = (recipe.tokenizer, recipe.transformer), dataclasses.replace
    changed = longer(
        recipe,
        tokenizer=longer(
            tokenizer,
            training=longer(tokenizer.training, steps=steps[0], save_every=1000, validate_every=1000, batch_size=8),
        ),
        transformer=longer(
            transformer,
            model=longer(transformer.model, layers=2, hidden_size=64, mlp_size=128),
            job=longer(transformer.job, action_dim=action_dim, head_batches=8, dropout=0.0, start_stride=1),
            training=longer(transformer.training, steps=steps[1], save_every=1000, validate_every=1000),
        ),
    )
    path.write_text(json.dumps(recipe_to_dict(changed)))


def _train(folder: Path, name: str, recipe: str, data: str, held_out: str, more: str = "") -> Path:
    sources = f"--data {folder}/{data} --held-out {folder}/{held_out} --out {folder}/{name}"
    assert main(f"train --recipe {folder}/{recipe} {sources} --device cpu {more}".split()) == 0
    tokenizer, transformer = folder / name / "tokenizer", folder / name / "transformer"
    export(tokenizer, transformer, Recordings(folder / "task" / "held-out"), folder / name / "model", Sampling())
    return folder / name / "model"


def _psnr(checkpoint: Path, segments: Path) -> dict[int, float]:
    found = fixed_segments(Recordings(segments), 2 + max(HORIZONS), (0, 8, 16))
    figures = evaluate(WorldModel.from_pretrained(checkpoint), found, {"greedy": Sampling(top_k=1)})["all"]
    return {horizon: figures["greedy"]["psnr"][horizon - 1] for horizon in HORIZONS}


@pytest.mark.slow
def test_pre_training_without_actions_pays_on_another_task(recipe: Recipe, tmp_path: Path) -> None:
    _mixture(tmp_path)
    _record(tmp_path / "task" / "train", range(200, 206), TASK, "other")
    _record(tmp_path / "task" / "held-out", range(300, 306), TASK, "other")
    _recipe(recipe, tmp_path / "pre-train.json", (300, 300), 0)
    _recipe(recipe, tmp_path / "fine-tune.json", (60, 300), 1)
    pre_trained = _train(tmp_path, "pre-trained", "pre-train.json", "train.json", "held-out.json")
    task = "task/train", "task/held-out"
    fine_tuned = _train(tmp_path, "fine-tuned", "fine-tune.json", *task, f"--initial {pre_trained}")
    from_scratch = _train(tmp_path, "from-scratch", "fine-tune.json", *task)
    held_out = tmp_path / "task" / "held-out"
    before, after, scratch = (_psnr(model, held_out) for model in (pre_trained, fine_tuned, from_scratch))
    print(f"PSNR by horizon: pre-trained {before}, fine-tuned {after}, from scratch {scratch}")
    for horizon in HORIZONS:
        assert after[horizon] > before[horizon] + 1
        assert after[horizon] > scratch[horizon] + 1

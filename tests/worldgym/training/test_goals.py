"""Training of models with a goal (paper, section 3.2 and appendix A.2)."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from worldgym.config import WorldModelConfig
from worldgym.data.goals import with_goal
from worldgym.data.recordings import Recordings, to_batch
from worldgym.training.initial import fresh_world_model
from worldgym.training.recipe import Recipe
from worldgym.training.tokenizer import TokenizerTrainer
from worldgym.training.trained import load_tokenizer_run
from worldgym.training.transformer import Place, TransformerTrainer


def test_the_last_frame_is_put_first(recordings: Recordings) -> None:
    plain = to_batch([recordings.segment(0, 3, 5), recordings.segment(1, 4, 5)])
    goal = with_goal(plain)
    assert torch.equal(goal.frames[:, 0], plain.frames[:, -1])
    assert torch.equal(goal.frames[:, 1:], plain.frames)
    assert torch.equal(goal.actions[:, 1:], plain.actions)
    assert not goal.actions[:, 0].any()
    assert not goal.rewards[:, 0].any()
    assert goal.successes is not None
    assert goal.successes.shape == goal.rewards.shape


@pytest.fixture
def trainer(recipe: Recipe, tokenizer_run: Path, recordings: Recordings, held_out: Recordings) -> TransformerTrainer:
    trained = load_tokenizer_run(tokenizer_run)
    config = WorldModelConfig(
        trained.config, recipe.transformer.model, action_dim=2, reward=True, goal_conditioned=True
    )
    job = dataclasses.replace(recipe.transformer.job, goal_conditioned=True, head_batches=1)
    model = fresh_world_model(config).transformer
    return TransformerTrainer(model, trained.tokenizer, config, job, 4, recordings, held_out)


def test_a_sequence_begins_with_its_goal(trainer: TransformerTrainer, recordings: Recordings) -> None:
    batch = trainer._read(Place(0, 5, 0))
    frames = torch.from_numpy(recordings.episodes[0].frames())
    assert torch.equal(batch.frames[0], frames[[11, 5, 6, 7, 8, 9, 10, 11]])  # 8 frames, the goal included
    assert torch.equal(batch.actions[0, 1:], torch.from_numpy(recordings.episodes[0].actions[5:11]))
    places = [trainer._sample_place(np.random.default_rng(seed)) for seed in range(40)]
    assert max(place.start for place in places) > 24 - 7  # the last frames are seen, too
    assert trainer._weights(Place(0, 21, 0), 6).tolist() == [[True, True, True, False, False, False]]


def test_goals_are_trained_validated_and_imagined(
    trainer: TransformerTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldgym.training.transformer.HEAD_ROWS", 2)
    loss, _ = trainer.loss(np.random.default_rng(0))
    loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        trainer.after_training()
        assert trainer.validate(tmp_path / "video")["last_frame/psnr/1"] > 0


def test_a_tokenizer_for_goals_is_trained_on_frames_in_any_order(
    recipe: Recipe, recordings: Recordings, held_out: Recordings
) -> None:
    job = dataclasses.replace(recipe.tokenizer.job, random_context=True)
    model = fresh_world_model(WorldModelConfig(recipe.tokenizer.model, recipe.transformer.model)).tokenizer
    trainer = TokenizerTrainer(model, job, 4, recordings, held_out)
    chosen = [trainer._choose_clip(np.random.default_rng(seed))[1] for seed in range(30)]
    assert all(len(set(frames)) == 5 and np.ptp(frames) < 8 for frames in chosen)
    assert any(frames[0] > frames[1] for frames in chosen)
    assert max(frames.max() for frames in chosen) == 24

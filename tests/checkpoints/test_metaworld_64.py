"""The shipped checkpoint: complete, small, and better than repeating the last frame."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import worldgym.checkpoints
from worldgym import WorldModel
from worldgym.data.start_states import StartStates
from worldgym.envs.simulators.metaworld import EPISODE_STEPS, PAPER_TASKS
from worldgym.pretrained import FIRST_FRAMES, START_STATES
from worldgym.reports.card import size
from worldgym.training.recipe import load_recipe

FOLDER = worldgym.checkpoints.path("metaworld-64")
HORIZON = 10


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return WorldModel.from_pretrained("metaworld-64")


@pytest.fixture(scope="module")
def start_states() -> StartStates:
    return StartStates(FOLDER / START_STATES)


def test_it_describes_itself(model: WorldModel) -> None:
    config = model.config
    assert set(config.tasks) == set(PAPER_TASKS)
    assert (config.resolution, config.action_dim, config.frame_skip) == (64, 4, 2)
    assert config.max_episode_steps == EPISODE_STEPS
    assert config.reward
    assert config.reward_transform == "symlog"
    recipe = load_recipe(FOLDER / "recipe.json")
    assert (recipe.tokenizer.model, recipe.transformer.model) == (config.tokenizer, config.transformer)


def test_all_its_files_take_at_most_40_mb() -> None:
    assert size(FOLDER) <= 40e6
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    alone = {"config.json", "recipe.json", "README.md", "tokenizer.safetensors", "transformer.safetensors"}
    assert files == alone | {f"{folder}/{task}.npz" for folder in (FIRST_FRAMES, START_STATES) for task in PAPER_TASKS}


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_every_task_has_start_states_with_the_recorded_steps_after_them(start_states: StartStates, task: str) -> None:
    assert start_states.count(task) >= 32
    start = start_states.get(task, 0, 2)
    assert start.frames.shape == (2, 64, 64, 3)
    assert len(start.actions) == len(start.future_frames) == len(start.rewards) >= HORIZON


def test_imagined_frames_are_better_than_the_last_frame(model: WorldModel, start_states: StartStates) -> None:
    starts = [start_states.get(task, index, 2) for task in PAPER_TASKS for index in (0, 5, 9, 14)]
    frames = np.stack([start.frames for start in starts])
    actions = np.stack([start.actions[:HORIZON] for start in starts])
    real = np.stack([start.future_frames[:HORIZON] for start in starts]).astype(np.float64)
    predicted = model.rollout(frames, actions, top_k=1).frames.numpy()
    imagined, still = (np.square(each - real).mean(axis=(0, 2, 3, 4)) for each in (predicted, frames[:, -1:]))
    assert (imagined[4:] < still[4:]).all()


def test_the_card_gives_the_figures_of_the_configuration(model: WorldModel) -> None:
    card = (Path(FOLDER) / "README.md").read_text(encoding="utf-8")
    figures = model.config.figures
    for task in PAPER_TASKS:
        assert f"{figures['by_task'][task]['sampled']['psnr'][9]:.1f}" in card
    assert figures["command"] in card


def test_an_episode_of_the_registered_environment() -> None:
    env = gym.make("WorldModel-MetaWorld-v0", task="hammer", max_episode_steps=20)
    frame, info = env.reset(seed=3)
    assert info["task"] == "hammer"
    frames = [frame]
    for _ in range(20):
        frame, reward, terminated, truncated, info = env.step(np.array([0.0, 1.0, -0.5, 0.0], np.float32))
        frames.append(frame)
        assert np.isfinite(reward)
        assert not terminated
    assert truncated
    assert info["reanchored"] in (True, False)
    assert len({frame.tobytes() for frame in frames}) > 10
    env.close()


def test_the_default_checkpoint_ships() -> None:
    assert worldgym.checkpoints.path(worldgym.checkpoints.DEFAULT) == FOLDER
    with pytest.raises(KeyError, match=r"a shipped checkpoint \(.*metaworld-64.*\), got 'metaworld'"):
        worldgym.checkpoints.path("metaworld")


def test_equal_seeds_imagine_equal_episodes() -> None:
    def episode() -> list[bytes]:
        env = gym.make("WorldModel-MetaWorld-v0")
        frames = [env.reset(seed=11)[0]]
        env.action_space.seed(0)
        frames += [env.step(env.action_space.sample())[0] for _ in range(3)]
        env.close()
        return [frame.tobytes() for frame in frames]

    torch.manual_seed(1)
    first = episode()
    torch.manual_seed(2)
    assert episode() == first

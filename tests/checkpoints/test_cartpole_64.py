"""The shipped twin of CartPole: complete, small, and like the real one."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import worldgym.checkpoints
from worldgym import WorldModel
from worldgym.config import Sampling
from worldgym.data.branches import sample_branches
from worldgym.data.recordings import Recordings, Segments
from worldgym.envs.collect import record
from worldgym.pretrained import FIRST_FRAMES, START_STATES
from worldgym.reports.card import size
from worldgym.reports.evaluation import evaluate
from worldgym.training.recipe import load_recipe

NAME, TASK = "cartpole-64", "CartPole-v1"
FOLDER = worldgym.checkpoints.path(NAME)
HORIZON, SHOWN = 6, 8
SEED = 7_000_000  # of real episodes that it has not seen


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return WorldModel.from_pretrained(NAME)


@pytest.fixture(scope="module")
def branches(tmp_path_factory: pytest.TempPathFactory) -> Segments:
    """Of real episodes under random actions."""
    env, folder = gym.make("Simulator-v0", env=TASK).unwrapped, tmp_path_factory.mktemp("cartpole")
    for seed in range(SEED, SEED + 8):
        record(env, "random", seed).save(folder / f"{seed}.safetensors")
    env.close()
    return sample_branches(Recordings(folder), 2, HORIZON, SHOWN, count=3, steps=40)


def test_it_describes_itself(model: WorldModel) -> None:
    config = model.config
    assert (config.tasks, config.resolution, config.action_dim, config.frame_skip) == ((TASK,), 64, 2, 1)
    assert config.max_episode_steps == 500
    assert config.termination
    recipe = load_recipe(FOLDER / "recipe.json")
    assert (recipe.tokenizer.model, recipe.transformer.model) == (config.tokenizer, config.transformer)


def test_all_its_files_take_at_most_10_mb() -> None:
    assert size(FOLDER) <= 10e6
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    alone = {"config.json", "recipe.json", "README.md", "tokenizer.safetensors", "transformer.safetensors"}
    assert files == alone | {f"{folder}/{TASK}.npz" for folder in (FIRST_FRAMES, START_STATES)}


def test_the_card_gives_the_figures_of_the_configuration(model: WorldModel) -> None:
    card = (Path(FOLDER) / "README.md").read_text(encoding="utf-8")
    figures = model.config.figures
    assert f"{figures['by_task'][TASK]['sampled']['psnr'][9]:.1f}" in card
    assert figures["command"] in card


def test_imagined_frames_are_better_than_the_last_frame(model: WorldModel, branches: Segments) -> None:
    figures = evaluate(model, branches, {"greedy": Sampling(top_k=1)})["all"]
    gains = np.array(figures["greedy"]["psnr"]) - figures["last_frame"]["psnr"]
    assert (gains[2:] > 1).all(), gains


def test_episodes_end_about_when_real_ones_do() -> None:
    """CartPole lasts 22 steps in the mean under random actions, and 9 to 10 under one and the same."""
    envs = gym.make_vec("WorldModel-v0", num_envs=16, checkpoint=NAME)
    assert isinstance(envs.single_action_space, gym.spaces.Discrete)
    rng = np.random.default_rng(0)
    for constant, least, most in ((True, 7, 13), (False, 12, 35)):
        envs.reset(seed=0)
        lengths, running = np.zeros(16), np.ones(16, bool)
        for _ in range(100):
            actions = np.zeros(16, int) if constant else rng.integers(2, size=16)
            _, rewards, terminated, _, _ = envs.step(actions)
            lengths += running
            assert np.allclose(rewards[running], 1, atol=0.1)
            running &= ~terminated
            if not running.any():
                break
        assert not running.any()
        assert least < lengths.mean() < most
    envs.close()

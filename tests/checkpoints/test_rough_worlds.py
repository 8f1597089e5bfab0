"""The shipped rough worlds: complete, small, and better than repeating the last frame. No simulator is needed."""

from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest

import worldgym.checkpoints
from worldgym import WorldModel
from worldgym.data.start_states import StartStates
from worldgym.pretrained import FIRST_FRAMES, START_STATES
from worldgym.reports.card import size
from worldgym.training.recipe import load_recipe

HORIZON = 10


class World(NamedTuple):
    """What a shipped world must be."""

    name: str
    env_id: str
    tasks: tuple[str, ...]
    frame_skip: int
    action: tuple[float, ...]

    @property
    def folder(self) -> Path:
        return worldgym.checkpoints.path(self.name)


WORLDS = (
    World(
        "maniskill-64",
        "WorldModel-ManiSkill-v0",
        ("LiftPegUpright-v1", "PickCube-v1", "PushT-v1"),
        1,
        (0, 0.5, -1, 0, 0, 0, 1),
    ),
    World("robodesk-64", "WorldModel-RoboDesk-v0", ("push_green", "push_red"), 5, (0.3, 1, -0.5, 0, 1)),
)


@pytest.fixture(params=WORLDS, ids=[world.name for world in WORLDS], scope="module")
def world(request: pytest.FixtureRequest) -> World:
    found: World = request.param
    return found


@pytest.fixture(scope="module")
def model(world: World) -> WorldModel:
    return WorldModel.from_pretrained(world.name)


def test_it_describes_itself(world: World, model: WorldModel) -> None:
    config = model.config
    assert (config.tasks, config.resolution, config.frame_skip) == (world.tasks, 64, world.frame_skip)
    assert config.action_dim == len(world.action)
    assert config.reward
    assert config.success
    assert not config.termination
    recipe = load_recipe(world.folder / "recipe.json")
    assert (recipe.tokenizer.model, recipe.transformer.model) == (config.tokenizer, config.transformer)


def test_its_files_are_there_and_small(world: World) -> None:
    assert size(world.folder) <= 30e6
    files = {path.relative_to(world.folder).as_posix() for path in world.folder.rglob("*") if path.is_file()}
    alone = {"config.json", "recipe.json", "README.md", "tokenizer.safetensors", "transformer.safetensors"}
    assert files == alone | {f"{folder}/{task}.npz" for folder in (FIRST_FRAMES, START_STATES) for task in world.tasks}


def test_the_card_gives_the_figures_of_the_configuration(world: World, model: WorldModel) -> None:
    card = (world.folder / "README.md").read_text(encoding="utf-8")
    figures = model.config.figures
    for task in world.tasks:
        assert f"{figures['by_task'][task]['sampled']['psnr'][9]:.1f}" in card
    assert figures["command"] in card


def test_imagined_frames_are_better_than_the_last_frame(world: World, model: WorldModel) -> None:
    starts = StartStates(world.folder / START_STATES)
    every = [starts.get(task, index, 2) for task in world.tasks for index in range(0, starts.count(task), 3)]
    chosen = [start for start in every if len(start.actions) >= HORIZON]
    frames = np.stack([start.frames for start in chosen])
    actions = np.stack([start.actions[:HORIZON] for start in chosen])
    real = np.stack([start.future_frames[:HORIZON] for start in chosen]).astype(np.float64)
    predicted = model.rollout(frames, actions, top_k=1).frames.numpy()
    imagined, still = (np.square(each - real).mean(axis=(0, 2, 3, 4)) for each in (predicted, frames[:, -1:]))
    assert (imagined[4:] < still[4:]).all()


def test_an_episode_of_the_registered_environment(world: World) -> None:
    for task in world.tasks:
        env = gym.make(world.env_id, task=task, max_episode_steps=6)
        frame, info = env.reset(seed=3)
        assert info["task"] == task
        frames = [frame]
        for _ in range(6):
            frame, reward, terminated, truncated, info = env.step(np.array(world.action, np.float32))
            frames.append(frame)
            assert np.isfinite(reward)
            assert not terminated
        assert truncated
        assert 0 <= info["success_probability"] <= 1
        assert len({frame.tobytes() for frame in frames}) > 3
        env.close()

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from worldgym.config import WorldModelConfig
from worldgym.data.episode import Episode, EpisodeInfo
from worldgym.data.start_states import write_start_states
from worldgym.envs.actions import ActionCodec
from worldgym.envs.registry import find_task
from worldgym.play.session import PlaySession, Settings
from worldgym.pretrained import START_STATES
from worldgym.tokenizer import build_tokenizer
from worldgym.transformer.transformer import Transformer
from worldgym.world_model import WorldModel

RESOLUTION = 32  # of the toy world
MakeCheckpoint = Callable[..., Path]
MakeSession = Callable[..., PlaySession]


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_config: WorldModelConfig) -> MakeCheckpoint:
    """Writes a checkpoint of random weights; without start states unless episodes are given."""
    small = dataclasses.replace(tiny_config.tokenizer, resolution=RESOLUTION, context_grid=4, frame_grid=4)
    window = dataclasses.replace(tiny_config.transformer, max_positions=small.layout.length(4))

    def make(episodes: list[Episode] | None = None, **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        config = dataclasses.replace(tiny_config, tokenizer=small, transformer=window, **changes)
        torch.manual_seed(0)
        tokenizer, transformer = build_tokenizer(config.tokenizer), Transformer.build(config)
        for weight in transformer.parameters():
            torch.nn.init.normal_(weight, std=0.3)
        WorldModel(config, tokenizer, transformer).save_pretrained(folder)
        if episodes:
            write_start_states(folder / START_STATES, episodes, start_frames=(0, 3))
        return folder

    return make


@pytest.fixture(scope="session")
def toy_checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    """A model of the toy world, whose simulator needs nothing installed; it predicts success and terminations."""
    spec, task = find_task("toy")
    env = spec.make(task)
    rng = np.random.default_rng(0)
    frames, actions = [env.reset(seed=1)[0]], rng.uniform(-1, 1, (9, 2)).astype(np.float32)
    frames += [env.step(action)[0] for action in actions]
    env.close()
    zeros = np.zeros(9, np.float32)
    episode = Episode(np.stack(frames), actions, zeros, zeros > 0, EpisodeInfo(spec.simulator_id, task, "random", 1, 1))
    about: dict[str, Any] = {"action_dim": 2, "action_names": spec.action_names, "tasks": (task,), "success": True}
    about["training_data"] = {"trained_on": {"environment": spec.simulator_id}}
    return make_checkpoint([episode], **about)


@pytest.fixture(scope="session")
def discrete_checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    """A model of an environment with two actions, without start states."""
    space = ActionCodec(gym.spaces.Discrete(2)).describe()
    return make_checkpoint(action_dim=2, tasks=("CartPole-v1",), action_space=space, termination=True)


@pytest.fixture
def settings(toy_checkpoint: Path, tmp_path: Path) -> Settings:
    return Settings(str(toy_checkpoint), tmp_path / "out")


@pytest.fixture
def make_session(settings: Settings) -> MakeSession:
    """A session in the toy world; the options replace those of the settings."""

    def make(**changes: Any) -> PlaySession:
        return PlaySession(dataclasses.replace(settings, **changes))

    return make

"""What several test folders share: synthetic recordings, a tiny checkpoint, and the guard of simulator tests."""

import dataclasses
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from worldgym import native
from worldgym.config import CompactTokenizerConfig, TransformerConfig, WorldModelConfig
from worldgym.data.episode import Episode, EpisodeInfo
from worldgym.data.start_states import build_start_states, write_start_states
from worldgym.envs.actions import ActionCodec
from worldgym.envs.contract import Frame
from worldgym.envs.simulators.metaworld import SimulatorMetaWorld
from worldgym.errors import DependencyNotInstalled, RenderingError
from worldgym.pretrained import START_STATES
from worldgym.tokenizer import build_tokenizer
from worldgym.transformer.transformer import Transformer
from worldgym.world_model import WorldModel

TASKS = ("hammer", "plate-slide")
BEHAVIOURS = ("expert", "random")
STEPS = 12
WINDOW = 4  # frames that the tiny model imagines before it re-anchors


def pytest_configure(config: pytest.Config) -> None:
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}  # no reports, no token in the home
    config.addinivalue_line("markers", "simulator: needs Meta-World and an OpenGL library to draw with")
    config.addinivalue_line("markers", "other_simulator: a simulator beyond Meta-World, or Ray; `make test-simulators`")
    config.addinivalue_line("markers", "native: needs a C compiler")
    config.addinivalue_line("markers", "browser: needs chromium and its driver")
    config.addinivalue_line("markers", "slow: takes minutes; `make learn` runs these, `make test` all others")


def pytest_runtest_setup(item: pytest.Item) -> None:
    needed = (("simulator", _why_no_simulator), ("native", _why_no_library), ("browser", _why_no_browser))
    for marker, why_not in needed:
        if item.get_closest_marker(marker) and (missing := why_not()):
            if os.environ.get("WORLDGYM_REQUIRE_SIMULATORS") == "1":  # nothing may be left out there
                pytest.fail(missing)
            pytest.skip(missing)


@functools.cache
def _why_no_simulator() -> str | None:
    try:
        SimulatorMetaWorld().close()
    except (DependencyNotInstalled, RenderingError) as error:
        return str(error)
    return None


def _why_no_browser() -> str | None:
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"needs {' and '.join(missing)}: `apt-get install chromium chromium-driver`" if missing else None


def _why_no_library() -> str | None:
    return None if native.library() else "needs a C compiler"


def synthetic_episode(task: str, behaviour: str, seed: int, steps: int = STEPS) -> Episode:
    """A square that the actions push over a coloured ground."""
    rng = np.random.default_rng([seed, *task.encode(), *behaviour.encode()])
    actions = rng.uniform(-1, 1, (steps, 4)).astype(np.float32)
    frames = np.empty((steps + 1, 64, 64, 3), np.uint8)
    frames[:] = rng.integers(60, 200, 3)
    places = 28 + np.cumsum(np.vstack([np.zeros(2), 4 * actions[:, :2]]), axis=0)
    for frame, (row, column) in zip(frames, np.clip(places, 0, 56).astype(int), strict=True):
        frame[row : row + 8, column : column + 8] = (250, 20, 20)
    about = EpisodeInfo("Synthetic", task, behaviour, seed, 1)
    return Episode(frames, actions, actions.sum(1), actions[:, 0] > 0.5, about)


@pytest.fixture(scope="session")
def make_episode() -> Callable[..., Episode]:
    """:func:`synthetic_episode`, for tests that record their own."""
    return synthetic_episode


@pytest.fixture(scope="session")
def synthetic_recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two tasks, two behaviours and three seeds each."""
    folder = tmp_path_factory.mktemp("recordings")
    for task in TASKS:
        for behaviour in BEHAVIOURS:
            for seed in range(3):
                episode = synthetic_episode(task, behaviour, seed)
                episode.save(folder / task / f"{behaviour}-{seed:08d}.safetensors")
    return folder


@pytest.fixture(scope="session")
def tiny_config() -> WorldModelConfig:
    """The smallest model with actions and rewards; its window holds :data:`WINDOW` imagined frames."""
    tokenizer = CompactTokenizerConfig(width=8, depth=1, latent_channels=4, context_codes=16, dynamics_codes=16)
    transformer = TransformerConfig(
        layers=1,
        heads=2,
        key_value_heads=1,
        hidden_size=16,
        mlp_size=32,
        max_positions=tokenizer.layout.length(WINDOW),
    )
    return WorldModelConfig(tokenizer, transformer, action_dim=4, reward=True, tasks=TASKS)


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: WorldModelConfig, synthetic_recordings: Path
) -> Path:
    """A checkpoint of random weights with a bank of start states."""
    folder = tmp_path_factory.mktemp("tiny-checkpoint")
    torch.manual_seed(0)
    tokenizer = build_tokenizer(tiny_config.tokenizer)
    transformer = Transformer.build(tiny_config)
    for weight in transformer.parameters():  # published models start actions at zero; here they must matter
        torch.nn.init.normal_(weight, std=0.3)
    WorldModel(tiny_config, tokenizer, transformer).save_pretrained(folder)
    build_start_states(synthetic_recordings, folder / START_STATES, start_frames=(0, 3))
    return folder


@pytest.fixture(scope="session")
def cartpole_twin(tmp_path_factory: pytest.TempPathFactory, tiny_config: WorldModelConfig) -> Path:
    """A checkpoint of CartPole with random weights."""
    folder, codec = tmp_path_factory.mktemp("twin"), ActionCodec(gym.spaces.Discrete(2))
    config = dataclasses.replace(
        tiny_config, action_dim=codec.dim, action_space=codec.describe(), tasks=("CartPole-v1",), termination=True
    )
    torch.manual_seed(0)
    WorldModel(config, build_tokenizer(config.tokenizer), Transformer.build(config)).save_pretrained(folder)
    zeros = np.zeros(9, np.float32)
    frames, actions = np.zeros((10, 64, 64, 3), np.uint8), np.zeros((9, codec.dim), np.float32)
    about = EpisodeInfo("Simulator-v0", "CartPole-v1", "random", 0, 1)
    episode = Episode(frames, actions, zeros, zeros > 0, about)
    write_start_states(folder / START_STATES, [episode], start_frames=(0,))
    return folder


@pytest.fixture
def real_frames() -> Frame:
    """Context for the tiny model: uint8 ``[2, 64, 64, 3]``."""
    return synthetic_episode("hammer", "expert", 99).frames[:2]

"""Toys of the agents' tests: the toy world, and networks so small that a run takes seconds."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from worldgym.agents.drqv2 import DrQv2, DrQv2Config
from worldgym.agents.mbpo import MBPO, MBPOConfig
from worldgym.agents.mbpo.collector import Env
from worldgym.config import CompactTokenizerConfig, Sampling, TransformerConfig, WorldModelConfig
from worldgym.envs.simulators.toy import SimulatorToy
from worldgym.training.initial import fresh_world_model
from worldgym.training.online import OnlineConfig
from worldgym.world_model import WorldModel

STEPS, EPISODE, SEED_STEPS = 40, 25, 13
AGENT = DrQv2Config(channels=4, features=8, hidden=16, batch_size=8, stddev_steps=50, precision="float32")
TOKENIZER = CompactTokenizerConfig(
    resolution=32,
    width=8,
    depth=1,
    context_grid=4,
    frame_grid=2,
    latent_channels=4,
    context_codes=16,
    dynamics_codes=16,
)
TRANSFORMER = TransformerConfig(
    layers=1, heads=2, key_value_heads=1, hidden_size=16, mlp_size=32, max_positions=TOKENIZER.layout.length(6)
)
At = dict[int, Callable[[], Any]]


class Hooked(gym.Wrapper[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]):
    """``at[count]()`` is called after the step of that number, and may return another result."""

    def __init__(self, env: Env, at: At) -> None:
        super().__init__(env)
        self.at, self.count, self.seeds = at, 0, list[int | None]()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.seeds.append(seed)
        return super().reset(seed=seed, options=options)

    def step(self, action: NDArray[np.float32]) -> Any:
        self.count += 1
        result = super().step(action)
        return self.at.get(self.count, lambda: None)() or result


def _make_env(at: At | None = None, env: Env | None = None) -> Hooked:
    return Hooked(env or gym.wrappers.TimeLimit(SimulatorToy(), EPISODE), at or {})


def _settings(**changes: Any) -> MBPOConfig:
    return MBPOConfig(
        **{
            "steps": STEPS,
            "seed_steps": SEED_STEPS,
            "updates_per_step": 1,
            "warmup_model_updates": 2,
            "tokenizer_every": 10,
            "transformer_every": 5,
            "model_batch_size": 2,
            "segment_length": 6,
            "warmup_rollouts": 8,
            "warmup_agent_updates": 10,
            "rollout_every": 7,
            "rollouts": 4,
            "horizon": 3,
            "keep_rollouts": 3,
            "model": OnlineConfig(future_frames=2, precision="float32"),
            "log_every": 5,
            "precision": "float32",
            "evaluate_every": 20,
            "evaluation_episodes": 2,
            "save_every": 15,
            **changes,
        }
    )


def _make_world_model(**changes: Any) -> WorldModel:
    options = {"tokenizer": TOKENIZER, "transformer": TRANSFORMER, "action_dim": 2, "reward": True, **changes}
    return fresh_world_model(WorldModelConfig(**options), seed=0)


def _make_agent(frame_stack: int = 3, action_dim: int = 2, side: int = 32) -> DrQv2:
    return DrQv2((side, side, 3), frame_stack, action_dim, AGENT, seed=0)


def _make_learner(model_based: bool = True, env: Env | None = None, **changes: Any) -> MBPO:
    world_model = _make_world_model() if model_based else None
    return MBPO(env or _make_env(), world_model, _make_agent(), _settings(**changes))


def _random_world_model() -> WorldModel:
    world_model = _make_world_model()
    torch.manual_seed(0)
    for weight in world_model.transformer.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    config = dataclasses.replace(world_model.config, sampling=Sampling(top_k=1))
    return WorldModel(config, world_model.tokenizer, world_model.transformer)


@contextmanager
def _caller_settings() -> Iterator[None]:
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            yield
    finally:
        torch.set_default_dtype(dtype)


@pytest.fixture
def caller_settings() -> Callable[[], AbstractContextManager[None]]:
    """Makes a context with other PyTorch settings: default dtype and device, autocast and grad mode."""
    return _caller_settings


@pytest.fixture(scope="session")
def make_env() -> Callable[..., Hooked]:
    """Makes a toy world of 25 steps an episode; takes hooks by the number of their step, and another environment."""
    return _make_env


@pytest.fixture(scope="session")
def settings() -> Callable[..., MBPOConfig]:
    """Makes settings with which everything happens several times within 40 steps, and seldom at the same one."""
    return _settings


@pytest.fixture(scope="session")
def make_world_model() -> Callable[..., WorldModel]:
    """Makes an untrained world model of the toy world; takes changes of its configuration."""
    return _make_world_model


@pytest.fixture(scope="session")
def random_world_model() -> Callable[[], WorldModel]:
    """Makes a world model whose random weights depend strongly on the inputs; it samples the likeliest tokens."""
    return _random_world_model


@pytest.fixture(scope="session")
def make_agent() -> Callable[..., DrQv2]:
    """Makes an agent for the toy world."""
    return _make_agent


@pytest.fixture(scope="session")
def make_learner() -> Callable[..., MBPO]:
    """Makes an MBPO learner, or a model-free one; takes changes of the settings."""
    return _make_learner

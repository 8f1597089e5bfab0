"""Trained agents and Python functions as behaviours, by which episodes are recorded.

Every class is a :data:`worldgym.envs.behaviours.Behaviour` that can be sent to another process: it loads what it needs
when its first episode begins.
"""

import importlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from worldgym.agents.drqv2 import DrQv2
from worldgym.errors import CheckpointError, ConfigError, DependencyNotInstalled, InvalidOption
from worldgym.training.seeding import seeded_rng

SB3_ALGORITHMS = ("PPO", "SAC", "TD3", "DQN", "A2C", "DDPG")
Act = Callable[[], Any]


def find_policy(text: str) -> Callable[[Any, np.random.Generator], Act]:
    """The behaviour of an agent's file or of a function.

    Args:
        text: path of an ``agent.safetensors`` of ``worldgym drqv2`` or ``mbpo``; path of a stable-baselines3 ``.zip``,
            which can run code when it is loaded; or ``module:function``, a function that gets the current frame, uint8
            ``[H, W, 3]``, and returns an action. A class in its place is called at the beginning of each episode,
            without arguments, and makes such a function, which may remember what it saw.

    Raises:
        InvalidOption: for anything else.
        CheckpointError: if there is no such file.
    """
    path = Path(text)
    if path.suffix in (".safetensors", ".zip"):
        if not path.is_file():
            raise CheckpointError(f"policy {text}: expected a file, found none")
        return DrQv2Policy(path.resolve()) if path.suffix == ".safetensors" else SB3Policy(path.resolve())
    if ":" in text:
        policy = FunctionPolicy(text)
        policy.function()
        return policy
    raise InvalidOption(
        f"policy {text!r}: expected a behaviour such as 'random', an agent.safetensors, a stable-baselines3 .zip or "
        "module:function"
    )


@dataclass(frozen=True)
class FunctionPolicy:
    """A function ``module:function`` from the current frame to an action, or a class of such functions."""

    text: str

    def function(self) -> Callable[[NDArray[np.uint8]], Any]:
        """The function. Raises InvalidOption if there is none."""
        module, _, name = self.text.partition(":")
        try:
            found: Callable[[NDArray[np.uint8]], Any] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise InvalidOption(
                f"policy {self.text!r}: expected module:function or module:Class that can be imported: {error}; put "
                "its folder on PYTHONPATH"
            ) from error
        return found

    def __call__(self, env: Any, rng: np.random.Generator) -> Act:
        found = self.function()
        function = found() if isinstance(found, type) else found
        return lambda: function(env.frame)


@dataclass(frozen=True)
class DrQv2Policy:
    """An agent of ``worldgym drqv2`` or ``worldgym mbpo``, without exploration."""

    path: Path

    def __call__(self, env: Any, rng: np.random.Generator) -> Act:
        agent = _load_drqv2(self.path)
        spec, frames, space = agent.spec, env.observation_space.shape, env.action_space
        usual = gym.spaces.Box(-1, 1, (spec.action_dim,), np.float32)
        if tuple(spec.frame_shape) != frames or space != usual:
            raise ConfigError(
                f"{self.path}: the agent takes frames {tuple(spec.frame_shape)} and {spec.action_dim} actions in "
                f"[-1, 1]; the environment has frames {frames} and the action space {space}; actions of other bounds "
                "need gymnasium.wrappers.RescaleAction"
            )
        stack = _Stack(env, spec.frame_stack)
        return lambda: agent.act(stack.push(), explore=False)


@dataclass(frozen=True)
class SB3Policy:
    """A stable-baselines3 agent that was trained on single or stacked frames; it samples its actions."""

    path: Path

    def __call__(self, env: Any, rng: np.random.Generator) -> Act:
        agent = _load_sb3(self.path)
        space, frames = agent.observation_space, env.observation_space.shape
        channels_first = space.shape[0] % 3 == 0 and space.shape[1:] == frames[:2]
        channels = space.shape[0] if channels_first else space.shape[-1]
        fits = (channels_first or space.shape[:2] == frames[:2]) and channels % 3 == 0
        if not fits or agent.action_space != env.action_space:
            raise ConfigError(
                f"{self.path}: the agent takes observations {space} and actions {agent.action_space}, the environment "
                f"has frames {frames} and the action space {env.action_space}"
            )
        stack = _Stack(env, channels // 3, blank=True)

        def act() -> Any:
            observation = np.concatenate(list(stack.push()), axis=-1)
            with _seeded(int(rng.integers(2**31))):
                chosen, _ = agent.predict(np.moveaxis(observation, -1, 0) if channels_first else observation)
            return chosen

        return act


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, from which stable-baselines3 samples, and restore them afterwards."""
    before = np.random.get_state()  # noqa: NPY002
    with seeded_rng(seed, torch.device("cpu")):
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002


class _Stack:
    """The last frames of an environment, uint8 ``[S, H, W, 3]``; before the first there are copies of it, or black."""

    def __init__(self, env: Any, size: int, blank: bool = False) -> None:
        self._env, self._size, self._blank = env, size, blank
        self._frames: deque[NDArray[np.uint8]] = deque(maxlen=size)

    def push(self) -> NDArray[np.uint8]:
        """Add the current frame; all of them."""
        frame = self._env.frame
        while len(self._frames) < self._size - 1:
            self._frames.append(np.zeros_like(frame) if self._blank else frame)
        self._frames.append(frame)
        return np.stack(list(self._frames))


@cache
def _load_drqv2(path: Path) -> DrQv2:
    return DrQv2.from_file(path)


@cache
def _load_sb3(path: Path) -> Any:
    try:
        sb3 = importlib.import_module("stable_baselines3")
    except ModuleNotFoundError as error:
        raise DependencyNotInstalled(f"{path} needs stable-baselines3: `pip install worldgym[sb3]`") from error
    problems = []
    for name in SB3_ALGORITHMS:
        try:
            agent = getattr(sb3, name).load(path, device="cpu")
        except Exception as error:  # the file does not say which algorithm it belongs to
            problems.append(f"{name}: {error}")
            continue
        if isinstance(agent.observation_space, gym.spaces.Box) and len(agent.observation_space.shape) == 3:
            return agent
        raise ConfigError(f"{path}: expected an agent of frames, got one of observations {agent.observation_space}")
    raise CheckpointError(f"{path} could not be loaded as an agent of stable-baselines3: " + "; ".join(problems))

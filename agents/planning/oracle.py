"""The simulator itself as the model that plans are made in.

It makes no mistakes, so what a plan in it does not reach, the planner has missed; what a plan in the learned world
reaches less, the world has cost. Candidates run one after another.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldgym.agents.planning.futures import Futures
from worldgym.agents.planning.model import Act, Actions, Frames, padded
from worldgym.errors import ConfigError, InvalidOption

CHUNK = 64  # candidates whose frames are in memory at once
METHODS = ("get_state", "set_state", "advance", "draw")
EXPERT = "expert_action"


class RestorableEnv(Protocol):
    """A simulator whose episode can be continued from any moment, exactly."""

    def get_state(self) -> Any:
        """The present moment."""

    def set_state(self, state: Any) -> None:
        """Continue from a moment."""

    def advance(self, action: NDArray[np.float32]) -> tuple[float, bool]:
        """A step without drawing: reward and success."""

    def draw(self) -> NDArray[np.uint8]:
        """The frame, uint8 ``[H, W, 3]``."""


class SimulatorModel:
    """Plans are made in the environment that the agent acts in, which is put back after every evaluation.

    Args:
        env: with methods as of :class:`RestorableEnv`; wrappers are looked through, so that time limits do not count.

    Raises:
        ConfigError: if its state cannot be saved and restored, or its actions are not float ``[A]``.
    """

    context_length = 1

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        inner = _checked(env, METHODS, "planning in the simulator", "plan in a learned model of it")
        shape = inner.action_space.shape
        if not shape or len(shape) != 1:
            raise ConfigError(f"planning needs actions [action_dim], got {inner.action_space}")
        self.action_dim: int = shape[0]
        self._env: RestorableEnv = inner
        self._history: Tensor | None = None

    def observe(self, history: Frames, actions: Actions | None = None) -> None:
        """Frames are for policies and costs; the state is the environment's own."""
        self._history = torch.from_numpy(np.ascontiguousarray(history))

    def check_horizon(self, horizon: int) -> None:
        """Any will do."""

    def futures(self, actions: Tensor, frames: int, generator: torch.Generator) -> Iterator[Futures]:
        assert self._history is not None, "observe() comes first"
        count = min(frames, actions.shape[1])
        for chunk in actions.split(CHUNK):
            rewards, successes = torch.zeros(chunk.shape[:2]), torch.zeros(chunk.shape[:2])
            images = self._history.new_empty(len(chunk), count, *self._history.shape[1:])
            start = self._env.get_state()
            try:
                for row, sequence in enumerate(chunk.numpy()):
                    self._env.set_state(start)
                    self._run(sequence, rewards[row], successes[row], images[row])
            finally:
                self._env.set_state(start)
            nothing = torch.zeros_like(rewards)
            tokens = torch.empty((*rewards.shape, 0), dtype=torch.int64)
            context = self._history[:0]
            yield Futures(self._history, chunk, images, rewards, nothing, nothing, successes, tokens, context)

    def follow(self, act: Act, frame_stack: int, noise: Tensor, generator: torch.Generator) -> Tensor:
        assert self._history is not None, "observe() comes first"
        taken, start = torch.empty_like(noise), self._env.get_state()
        try:
            for row, extra in enumerate(noise):
                self._env.set_state(start)
                stack = padded(self._history, frame_stack)
                for step, each in enumerate(extra):
                    action = (torch.from_numpy(act(stack[None]))[0].cpu() + each).clamp(-1, 1)
                    taken[row, step] = action
                    self._env.advance(action.numpy())
                    frame = torch.from_numpy(np.ascontiguousarray(self._env.draw()))
                    stack = torch.cat([stack[1:], frame[None]])
        finally:
            self._env.set_state(start)
        return taken

    def _run(self, actions: NDArray[np.float32], rewards: Tensor, successes: Tensor, images: Tensor) -> None:
        """Carry out one candidate; writes what it leads to, and the last frames."""
        first = len(actions) - len(images)
        for step, action in enumerate(actions):
            reward, success = self._env.advance(action)
            rewards[step], successes[step] = reward, float(success)
            if step >= first:
                images[step - first] = torch.from_numpy(np.ascontiguousarray(self._env.draw()))


class ScriptedGoal(NamedTuple):
    """Where a scripted solution of an episode leads to."""

    frame: NDArray[np.uint8]
    """``[H, W, 3]``."""
    solved: bool
    """Whether it is a success. If the solution fails, the frame is that of its greatest reward."""


def check_goals(env: gym.Env[Any, Any]) -> None:
    """Raise ConfigError unless :func:`scripted_goal` works in this environment."""
    inner = _checked(env, (*METHODS, EXPERT), "a goal by a scripted expert", "give a picture of the goal")
    inner.reset(seed=0)
    try:
        inner.expert_action()
    except InvalidOption as error:
        raise ConfigError(f"a goal by a scripted expert needs a task that has one: {error}") from error


def scripted_goal(env: gym.Env[Any, Any], steps: int) -> ScriptedGoal:
    """The first frame in which the scripted expert succeeds in the present episode. The environment is put back.

    Args:
        env: that :func:`check_goals` accepts, after a reset.
        steps: how many the expert has.
    """
    inner: Any = env.unwrapped
    start, best, frame = inner.get_state(), -np.inf, inner.draw()
    try:
        for _ in range(steps):
            reward, success = inner.advance(inner.expert_action())
            if success or reward > best:
                best, frame = reward, inner.draw()
            if success:
                return ScriptedGoal(frame, True)
    finally:
        inner.set_state(start)
    return ScriptedGoal(frame, False)


def _checked(env: gym.Env[Any, Any], needed: tuple[str, ...], purpose: str, advice: str) -> Any:
    """The environment without wrappers. Raises ConfigError if it lacks a method."""
    inner: Any = env.unwrapped
    if missing := [name for name in needed if not hasattr(inner, name)]:
        raise ConfigError(
            f"{purpose} needs a simulator whose state can be restored, {type(inner).__name__} has no "
            f"{', '.join(missing)}: {advice}"
        )
    return inner

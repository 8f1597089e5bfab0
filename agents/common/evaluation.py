"""Evaluating an agent: whole episodes without exploration."""

from collections.abc import Sized
from typing import NamedTuple, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import FrameStackObservation
from numpy.typing import NDArray

FIRST_SEED = 1_000_000


class Stacked(Protocol):
    """What an agent is built from, as far as an evaluation needs to know."""

    @property
    def frame_stack(self) -> int:
        """Frames that the agent sees, S."""


class EvaluatedAgent(Protocol):
    """An agent that can be evaluated, such as DrQ-v2 or one that plans."""

    @property
    def spec(self) -> Stacked:
        """What it is built from."""

    def act(self, frames: NDArray[np.uint8], explore: bool = True) -> NDArray[np.float32]:
        """The action for a stack, uint8 ``[S, H, W, 3]``; without exploration if ``explore`` is False."""


class Evaluation(NamedTuple):
    """The result of some episodes."""

    success: float
    """Share of episodes in which ``info["success"]`` was ever true."""
    mean_return: float
    frames: NDArray[np.uint8]
    """The first episode, uint8 ``[T + 1, H, W, 3]``."""


def evaluate(
    env: gym.Env[NDArray[np.uint8], NDArray[np.float32]], agent: EvaluatedAgent, episodes: int, stop: Sized = ()
) -> Evaluation | None:
    """Let the agent act without exploration for whole episodes, whose seeds are the same at each call.

    Args:
        env: ends its episodes itself.
        agent: acts.
        episodes: how many.
        stop: the evaluation is given up between two episodes once this is not empty.

    Returns:
        The result; None if the evaluation was given up.
    """
    stacked = FrameStackObservation(env, agent.spec.frame_stack)
    returns, successes, first = [], [], list[NDArray[np.uint8]]()
    for index in range(episodes):
        if len(stop):
            return None
        stack, _ = stacked.reset(seed=FIRST_SEED + index)
        frames, total, success, done = [stack[-1]], 0.0, False, False
        while not done:
            stack, reward, terminated, truncated, info = stacked.step(agent.act(stack, explore=False))
            total, success = total + float(reward), success or bool(info.get("success", False))
            done = terminated or truncated
            frames.append(stack[-1])
        returns.append(total)
        successes.append(success)
        first = first or frames
    return Evaluation(float(np.mean(successes)), float(np.mean(returns)), np.stack(first))

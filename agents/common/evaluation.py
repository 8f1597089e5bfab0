"""How well an agent does: whole episodes in the real simulator, without exploration."""

from collections.abc import Sized
from typing import NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import FrameStackObservation
from numpy.typing import NDArray

from worldgym.agents.drqv2 import DrQv2

FIRST_SEED = 1_000_000  # far from those of training, which are drawn


class Evaluation(NamedTuple):
    """What some episodes came to."""

    success: float
    """Share of episodes in which ``info["success"]`` was ever true."""
    mean_return: float
    frames: NDArray[np.uint8]
    """The first episode, uint8 ``[T + 1, H, W, 3]``."""


def evaluate(
    env: gym.Env[NDArray[np.uint8], NDArray[np.float32]], agent: DrQv2, episodes: int, stopped: Sized = ()
) -> Evaluation | None:
    """Let the agent act greedily for whole episodes, the same ones each time: their seeds are fixed.

    ``stopped``: when something appears in it the evaluation is given up between two episodes: None.
    """
    stacked = FrameStackObservation(env, agent.about.frame_stack)
    returns, successes, film = [], [], list[NDArray[np.uint8]]()
    for index in range(episodes):
        if len(stopped):
            return None
        stack, _ = stacked.reset(seed=FIRST_SEED + index)
        frames, score, success, done = [stack[-1]], 0.0, False, False
        while not done:
            stack, reward, terminated, truncated, info = stacked.step(agent.act(stack, explore=False))
            score, success = score + float(reward), success or bool(info.get("success", False))
            done = terminated or truncated
            frames.append(stack[-1])
        returns.append(score)
        successes.append(success)
        film = film or frames
    return Evaluation(float(np.mean(successes)), float(np.mean(returns)), np.stack(film))

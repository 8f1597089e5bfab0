"""MBPO with a world model from scratch beside DrQ-v2 by itself, in a world where real steps are dear.

Some eight minutes a seed on one core: `make learn`.
"""

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from worldgym.agents.drqv2 import DrQv2
from worldgym.agents.evaluation import evaluate
from worldgym.agents.mbpo import MBPO, MBPOConfig
from worldgym.agents.presets import TOY
from worldgym.agents.schedule import Linear
from worldgym.config import Sampling, WorldModelConfig
from worldgym.training.online import fresh_world_model
from worldgym.world_model import WorldModel

BARS = 8
CELLS = np.linspace(0, 15, BARS).round().astype(int)  # of 4 x 4
HEIGHT = 7.0  # pixels; an action of 1 raises a bar by one of them
TARGETS = 2.0 + np.arange(BARS) * 7 % 4
STEPS = 25


class Dials(gym.Env[NDArray[np.uint8], NDArray[np.float32]]):
    """A picture of eight bars, each raised and lowered by an action of its own, to be set to a level of its own.

    A reward tells little of which action it is due to, and going over the same steps more often tells no more: that
    makes real steps dear. Each bar has a cell of 8 x 8 pixels to itself: that makes their motion easy to learn.

    The reward is the mean of ``1 / (1 + d^2)`` over the bars, ``d`` pixels from their targets.

    ``info["state"]`` and ``options={"state": ...}`` are the bars' heights, float64 ``[8]``.
    """

    observation_space = gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)
    action_space = gym.spaces.Box(-1, 1, (BARS,), np.float32)

    def __init__(self) -> None:
        self._heights = np.zeros(BARS)
        self._taken = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._taken = 0
        self._heights = self.np_random.uniform(0, HEIGHT, BARS) if options is None else np.array(options["state"])
        return self._frame(), self._info()

    def step(self, action: NDArray[np.float32]) -> Any:
        self._heights = np.clip(self._heights + np.clip(action, -1, 1), 0, HEIGHT)
        self._taken += 1
        reward = np.mean(1 / (1 + (self._heights - TARGETS) ** 2))
        return self._frame(), float(reward), False, self._taken >= STEPS, self._info()

    def _frame(self) -> NDArray[np.uint8]:
        frame = np.full((32, 32, 3), 128.0)
        for height, cell in zip(self._heights, CELLS, strict=True):
            top, left = 8 * (cell // 4), 8 * (cell % 4)
            full = np.clip(height - np.arange(7), 0, 1)[::-1, None, None]  # from the top; a pixel may be so in part
            frame[top : top + 7, left + 1 : left + 7] = 80 + full * (np.array([250, 140, 30]) - 80)
        return np.rint(frame).astype(np.uint8)

    def _info(self) -> dict[str, Any]:
        near = np.abs(self._heights - TARGETS) < 0.75
        return {"success": bool(near.all()), "state": self._heights.copy()}


# The same for both: twelve updates a step are more than real steps alone are good for.
BOTH = dataclasses.replace(TOY.loop, steps=3000, updates_per_step=12, seed_steps=300)
IMAGINING = dataclasses.replace(
    BOTH,
    initial_model_updates=400,
    tokenizer_every=25,
    transformer_every=2,
    reader_updates=3,
    initial_rollouts=640,
    rollout_every=10,
    rollouts=64,
    horizon=5,
    keep_rollouts=25,
    real_ratio=Linear(0.2, 0.2, 1),
    model=dataclasses.replace(TOY.loop.model, reward_weight=20.0),
)
TARGET = 16.0  # of a return; a random policy earns 8.6, the expert 24.3
EVERY = 50  # real steps between two looks at the return


def world_model_config() -> WorldModelConfig:
    assert TOY.world_model is not None
    tokenizer = dataclasses.replace(TOY.world_model.tokenizer, width=8)
    return dataclasses.replace(TOY.world_model, tokenizer=tokenizer, action_dim=BARS, sampling=Sampling(0.3))


@pytest.mark.slow
def test_a_world_model_from_scratch_halves_the_real_steps() -> None:
    """As a mean of three seeds; DrQ-v2 by itself is given up on after three times the steps."""
    imagining, alone = [], []
    for seed in range(3):
        model = fresh_world_model(world_model_config(), seed)
        imagining.append(steps_to_target(IMAGINING, seed, model, BOTH.steps))
        alone.append(steps_to_target(BOTH, seed, None, 3 * imagining[-1]))
        print(f"seed {seed}: return {TARGET} after {imagining[-1]} real steps; without a model {alone[-1]}, or more")
    assert max(imagining) < BOTH.steps
    assert 2 * np.mean(imagining) <= np.mean(alone)


def steps_to_target(config: MBPOConfig, seed: int, model: WorldModel | None, most: int) -> int:
    """Real steps until 20 episodes bring the target on average; ``most`` where they do not before."""
    agent = DrQv2((32, 32, 3), 3, BARS, TOY.agent, seed=seed)
    learner = MBPO(Dials(), model, agent, dataclasses.replace(config, seed=seed))
    while learner.step < most:
        if learner.preparing:
            learner.prepare()
            continue
        learner.advance()
        if learner.step % EVERY == 0 and learner.step > config.seed_steps:
            result = evaluate(Dials(), agent, 20)
            assert result is not None
            print(f"  {learner.step}: {result.mean_return:.1f}", flush=True)
            if result.mean_return >= TARGET:
                return learner.step
    return most

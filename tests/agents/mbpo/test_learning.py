"""Agents learn the toy world from pixels, with the preset's settings: `make learn`."""

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import worldgym  # noqa: F401  (registers the ids)
from worldgym.agents.common.evaluation import evaluate
from worldgym.agents.common.rollouts import Policy, Rollouts
from worldgym.agents.common.schedules import Linear
from worldgym.agents.drqv2 import DrQv2
from worldgym.agents.mbpo import MBPO, MBPOConfig, world
from worldgym.agents.presets import TOY
from worldgym.envs.simulators.toy import SimulatorToy
from worldgym.envs.simulators.toy_world import RESOLUTION
from worldgym.training.initial import fresh_world_model
from worldgym.world_model import WorldModel

pytestmark = pytest.mark.slow
STEPS = 1250
RETURN = 8.0  # a random policy earns 3.5, the expert 21.7

# The same for both, with twice the preset's updates.
BOTH = dataclasses.replace(TOY.loop, steps=3000, updates_per_step=2)
TARGET = 15.0
EVERY = 100  # environment steps between two evaluations
EXACT = dataclasses.replace(
    BOTH,
    warmup_model_updates=0,  # no model is trained: rollouts come from the toy world itself
    tokenizer_every=BOTH.steps + 1,
    transformer_every=BOTH.steps + 1,
    warmup_rollouts=640,
    rollouts=64,
    rollout_every=10,
    keep_rollouts=25,
    real_ratio=Linear(0.1, 0.1, 1),
)


def test_drqv2_learns_the_toy_world() -> None:
    agent = DrQv2((RESOLUTION, RESOLUTION, 3), 3, 2, TOY.agent, seed=0)
    learner = MBPO(gym.make("Simulator-Toy-v0"), None, agent, TOY.loop)
    while learner.step < STEPS:
        learner.advance()
    result = evaluate(gym.make("Simulator-Toy-v0"), agent, 20)
    assert result is not None
    assert result.mean_return > RETURN
    assert result.success > 0.3


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exact_imagination_halves_the_real_steps(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    env = RecordingEnv(gym.make("Simulator-Toy-v0"))
    monkeypatch.setattr(world, "imagine_rollouts", env.imagine)
    model = fresh_world_model(TOY.world_model)
    model.trained = True
    imagining = steps_to_target(EXACT, env, seed, model, BOTH.steps)
    assert imagining < BOTH.steps
    alone = steps_to_target(BOTH, gym.make("Simulator-Toy-v0"), seed, None, 2 * imagining - 1)
    print(f"seed {seed}: return {TARGET} after {imagining} steps with rollouts, without them not by {alone}")
    assert alone >= 2 * imagining - 1


def steps_to_target(config: MBPOConfig, env: gym.Env[Any, Any], seed: int, model: WorldModel | None, most: int) -> int:
    """Environment steps until the mean return of 20 episodes reaches the target, at most ``most``."""
    agent = DrQv2((RESOLUTION, RESOLUTION, 3), 3, 2, TOY.agent, seed=seed)
    learner = MBPO(env, model, agent, dataclasses.replace(config, seed=seed))
    evaluation_env = gym.make("Simulator-Toy-v0")
    while learner.step < most:
        learner.advance()
        if not learner.warming_up and learner.step % EVERY == 0 and learner.step > config.seed_steps:
            result = evaluate(evaluation_env, agent, 20)
            assert result is not None
            if result.mean_return >= TARGET:
                return learner.step
    return most


class RecordingEnv(gym.Wrapper[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]):
    """Records the state behind each frame, so that rollouts can continue exactly from a frame."""

    def __init__(self, env: gym.Env[NDArray[np.uint8], NDArray[np.float32]]) -> None:
        super().__init__(env)
        self.states: dict[bytes, NDArray[np.float64]] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        frame, info = super().reset(seed=seed, options=options)
        self.states[frame.tobytes()] = info["state"]
        return frame, info

    def step(self, action: NDArray[np.float32]) -> Any:
        result = super().step(action)
        self.states[result[0].tobytes()] = result[4]["state"]
        return result

    def imagine(self, _: WorldModel, policy: Policy, stacks: Tensor, horizon: int, **__: Any) -> Rollouts:
        """As :func:`worldgym.agents.common.rollouts.imagine_rollouts`, in the toy world itself."""
        starts = stacks.numpy()
        batch, context = starts.shape[:2]
        frames = np.concatenate([starts, np.repeat(starts[:, -1:], horizon, 1)], axis=1)
        actions, rewards = np.zeros((batch, horizon, 2), np.float32), np.zeros((batch, horizon), np.float32)
        envs = [SimulatorToy() for _ in starts]
        for env, start in zip(envs, starts, strict=True):
            env.reset(options={"state": self.states[start[-1].tobytes()]})
        for step in range(horizon):
            actions[:, step] = policy(torch.from_numpy(frames[:, step : step + context]))
            for row, env in enumerate(envs):
                frames[row, context + step], rewards[row, step], *_ = env.step(actions[row, step])
        return Rollouts(frames, actions, rewards, np.zeros_like(rewards), np.full(batch, horizon))

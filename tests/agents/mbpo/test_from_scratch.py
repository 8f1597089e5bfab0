"""MBPO with a world model from scratch needs half the environment steps of DrQ-v2 alone: `make learn`."""

import dataclasses

import gymnasium as gym
import pytest

import worldgym  # noqa: F401  (registers the ids)
from worldgym.agents.common.evaluation import evaluate
from worldgym.agents.drqv2 import DrQv2
from worldgym.agents.mbpo import MBPO
from worldgym.agents.presets import DIALS, DIALS_MODEL, FRAME_STACK
from worldgym.envs.simulators.dials import BARS
from worldgym.envs.simulators.toy_world import RESOLUTION
from worldgym.training.initial import fresh_world_model
from worldgym.world_model import WorldModel

TARGET = 14.0  # a mean return; a random policy earns 8.6, the expert 24.3
STEPS = 1500  # in which MBPO has to reach it


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_world_model_from_scratch_halves_the_real_steps(seed: int) -> None:
    imagining = steps_to_target(seed, fresh_world_model(DIALS_MODEL, seed), STEPS)
    assert imagining < STEPS
    alone = steps_to_target(seed, None, 2 * imagining)
    print(f"seed {seed}: return {TARGET} after {imagining} steps; without a model not by {alone - 1}")
    assert alone >= 2 * imagining


def steps_to_target(seed: int, model: WorldModel | None, most: int) -> int:
    """Environment steps until the mean return of 20 episodes reaches the target, at most ``most``."""
    env, evaluation_env = gym.make("Simulator-Dials-v0"), gym.make("Simulator-Dials-v0")
    agent = DrQv2((RESOLUTION, RESOLUTION, 3), FRAME_STACK, BARS, DIALS.agent, seed)
    learner = MBPO(env, model, agent, dataclasses.replace(DIALS.loop, steps=max(most, STEPS), seed=seed))
    while learner.step < most:
        learner.advance()
        if (
            not learner.warming_up
            and learner.step % DIALS.loop.evaluate_every == 0
            and learner.step > DIALS.loop.seed_steps
        ):
            result = evaluate(evaluation_env, agent, DIALS.loop.evaluation_episodes)
            assert result is not None
            print(f"  {learner.step}: {result.mean_return:.1f}", flush=True)
            if result.mean_return >= TARGET:
                return learner.step
    return most

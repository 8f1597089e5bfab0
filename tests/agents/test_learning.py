"""Agents learn: the toy world, from pixels, as the preset has it."""

import gymnasium as gym

import worldgym  # noqa: F401  (registers the ids)
from worldgym.agents.drqv2 import DrQv2
from worldgym.agents.evaluation import evaluate
from worldgym.agents.mbpo import MBPO
from worldgym.agents.presets import TOY
from worldgym.envs.toy import RESOLUTION

STEPS = 1250
RETURN = 8.0  # a random policy earns 3.5, the expert 21.7


def test_drqv2_learns_the_toy_world_from_scratch() -> None:
    agent = DrQv2((RESOLUTION, RESOLUTION, 3), 3, 2, TOY.agent, seed=0)
    learner = MBPO(gym.make("Simulator-Toy-v0"), None, agent, TOY.loop)
    while learner.step < STEPS:
        learner.advance()
    result = evaluate(gym.make("Simulator-Toy-v0"), agent, 20)
    assert result is not None
    assert result.mean_return > RETURN
    assert result.success > 0.3

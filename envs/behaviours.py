"""Who acts in recorded episodes, from the most to the least purposeful.

expert     the simulator's scripted expert
noisy      the expert with Gaussian noise, whose scale is sampled for each episode from 0.1 to 1
clumsy     the expert, slowed and with a constant push for the whole episode, so that it comes near the object and
           often misses it, as a cloned policy does; in a third of the episodes the gripper does not move either
straying   the expert, the expert with a constant push, a constant action and a random walk in turns: like agents
           that have half learned a task, it is often near success without reaching it
smooth     a random walk with mean reversion, which crosses the whole workspace
sticky     uniform actions, each held for a few steps
random     independent uniform actions

The last two act in any environment.
"""

from collections.abc import Callable
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from worldgym.envs.actions import ActionCodec
from worldgym.envs.contract import no_expert
from worldgym.errors import InvalidOption, nearest

Policy = Callable[[], Any]
"""Returns the next action."""
Behaviour = Callable[[Any, np.random.Generator], Policy]
"""Makes the policy of one episode, from an environment that was just reset and a source of randomness."""
SMOOTH_REVERSION = 0.1
STICKY_PROBABILITY = 0.75  # of holding an action for another step
CLUMSY_GRIP = 1 / 3  # of the episodes
STRAYING_STEPS = (5, 30)  # of one turn


class ExpertEnv(Protocol):
    """An environment with a scripted expert."""

    @property
    def action_space(self) -> gym.spaces.Space[Any]:
        """The action space."""

    def expert_action(self) -> NDArray[np.float32]:
        """The expert's action in the current state."""


def expert(env: ExpertEnv, rng: np.random.Generator) -> Policy:
    """The scripted expert."""
    return _expert_action(env)


def noisy(env: ExpertEnv, rng: np.random.Generator) -> Policy:
    """The expert with Gaussian noise."""
    scale, shape, act = rng.uniform(0.1, 1.0), _shape(env), _expert_action(env)
    return lambda: np.clip(act() + scale * rng.standard_normal(shape), -1.0, 1.0).astype(np.float32)


def clumsy(env: ExpertEnv, rng: np.random.Generator) -> Policy:
    """The expert, slowed and pushed to a side. An expert that steers by the distance then stops beside its target."""
    shape, act = _shape(env), _expert_action(env)
    speed, push = rng.uniform(0.4, 1.0), rng.uniform(0.0, 0.5) * rng.standard_normal(shape)
    grip = rng.uniform(-1.0, 1.0) if rng.random() < CLUMSY_GRIP else None

    def clumsy_action() -> NDArray[np.float32]:
        action = speed * act() + push
        if grip is not None:
            action[-1] = grip  # the gripper, in all simulators that have one
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    return clumsy_action


def straying(env: ExpertEnv, rng: np.random.Generator) -> Policy:
    """Turns of different behaviours, each with its own noise."""
    shape, expert_action = _shape(env), _expert_action(env)
    remaining, turn, scale = 0, expert_action, 0.0

    def turns() -> tuple[Callable[[], NDArray[np.floating[Any]]], ...]:
        # Half of the constant actions' values lie at the bounds.
        push, constant = rng.uniform(-1, 1, shape), rng.uniform(-2, 2, shape)
        return expert_action, lambda: expert_action() + push, lambda: constant, smooth(env, rng)

    def act() -> NDArray[np.float32]:
        nonlocal remaining, turn, scale
        if not remaining:
            remaining, scale = int(rng.integers(*STRAYING_STEPS)), rng.uniform(0, 0.5)
            turn = turns()[rng.integers(4)]
        remaining -= 1
        return np.clip(turn() + scale * rng.standard_normal(shape), -1.0, 1.0).astype(np.float32)

    return act


def smooth(env: ExpertEnv, rng: np.random.Generator) -> Policy:
    """A random walk with mean reversion."""
    walk = 0.5 * rng.standard_normal(_shape(env))

    def act() -> NDArray[np.float32]:
        nonlocal walk
        walk = (1 - SMOOTH_REVERSION) * walk + 0.4 * rng.standard_normal(_shape(env))
        return np.clip(walk, -1.0, 1.0).astype(np.float32)

    return act


def sticky(env: gym.Env[Any, Any], rng: np.random.Generator) -> Policy:
    """Uniform actions, each held for a few steps."""
    draw = random(env, rng)
    action = draw()

    def act() -> Any:
        nonlocal action
        if rng.random() >= STICKY_PROBABILITY:
            action = draw()
        return action

    return act


def random(env: gym.Env[Any, Any], rng: np.random.Generator) -> Policy:
    """Independent uniform actions."""
    space = env.action_space
    if isinstance(space, gym.spaces.Box) and ActionCodec(space).scaled:
        return lambda: rng.uniform(-1.0, 1.0, space.shape).astype(np.float32)
    space.seed(int(rng.integers(2**31)))
    return space.sample


BEHAVIOURS: dict[str, Behaviour] = {
    "expert": expert,
    "noisy": noisy,
    "clumsy": clumsy,
    "straying": straying,
    "smooth": smooth,
    "sticky": sticky,
    "random": random,
}


def mixed(share: float) -> Callable[[ExpertEnv, int], Policy]:
    """Policies of graded skill: the expert, with a share of uniformly random actions.

    Args:
        share: of random actions, from 0 to 1.

    Returns:
        Makes the policy of an episode from the environment and the episode's seed.
    """

    def make(env: ExpertEnv, seed: int) -> Policy:
        rng, shape = behaviour_rng("mixed", seed), _shape(env)

        def act() -> NDArray[np.float32]:
            chance, action = rng.random(), rng.uniform(-1.0, 1.0, shape).astype(np.float32)
            return action if chance < share else env.expert_action()

        return act

    return make


def find_behaviour(name: str) -> Behaviour:
    """A behaviour by its name. Raises InvalidOption for an unknown one."""
    if name not in BEHAVIOURS:
        raise InvalidOption(f"unknown behaviour {name!r}; {nearest(name, BEHAVIOURS)}")
    return BEHAVIOURS[name]


def behaviour_rng(name: str, seed: int) -> np.random.Generator:
    """The generator of one episode of a behaviour: equal seeds of different behaviours give unequal episodes."""
    return np.random.default_rng([seed, *name.encode()])


def _expert_action(env: ExpertEnv) -> Callable[[], NDArray[np.float32]]:
    """Raises InvalidOption for an environment without a scripted expert."""
    if not hasattr(env, "expert_action"):
        raise no_expert(getattr(env, "task", type(env).__name__))
    return env.expert_action


def _shape(env: ExpertEnv) -> tuple[int, ...]:
    shape = env.action_space.shape
    assert shape is not None
    return shape

"""Goals by scripted solutions; planning in the simulator itself is tested with the agent."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from worldgym.agents.planning.oracle import check_goals, scripted_goal
from worldgym.errors import ConfigError


def toy() -> Any:
    return gym.make("Simulator-Toy-v0")


def test_a_scripted_goal_is_the_first_success_and_leaves_the_episode_as_it_was() -> None:
    env, twin = toy(), toy()
    check_goals(env)
    env.reset(seed=3)
    twin.reset(seed=3)
    success, steps = False, 0
    while not success:
        frame, _, _, _, info = twin.step(twin.unwrapped.expert_action())
        success, steps = info["success"], steps + 1
    start = env.unwrapped.frame
    found = scripted_goal(env, steps)
    assert found.solved
    assert np.array_equal(found.frame, frame)
    assert np.array_equal(env.unwrapped.draw(), start)
    assert np.array_equal(env.unwrapped.frame, start)
    assert steps > 1
    assert not scripted_goal(env, steps - 1).solved


def test_a_failed_solution_gives_the_frame_of_its_greatest_reward() -> None:
    env, twin = toy(), toy()
    env.reset(seed=3)
    twin.reset(seed=3)
    results = [twin.step(twin.unwrapped.expert_action()) for _ in range(3)]
    best = max(results, key=lambda result: float(result[1]))
    assert not results[-1][4]["success"]
    assert np.array_equal(scripted_goal(env, 3).frame, best[0])


def test_environments_without_what_goals_need_are_named() -> None:
    with pytest.raises(ConfigError, match="no get_state, set_state, advance, draw, expert_action: give a picture"):
        check_goals(gym.make("CartPole-v1"))

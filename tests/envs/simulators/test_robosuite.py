"""What robosuite adds to the contract: rewards, looks, tasks for one arm, pushing, a broken OpenGL library."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

from worldgym.agents.planning.oracle import check_goals
from worldgym.envs.simulators import robosuite_push
from worldgym.envs.simulators.robosuite import SimulatorRobosuite
from worldgym.errors import ConfigError, InvalidOption, UnknownTask

pytestmark = pytest.mark.other_simulator


@pytest.fixture(scope="module")
def env() -> Iterator[SimulatorRobosuite]:
    env = SimulatorRobosuite("Lift")
    yield env
    env.close()


def test_reward_is_the_sum_over_the_repeat(env: SimulatorRobosuite) -> None:
    twin = SimulatorRobosuite("Lift")
    env.reset(seed=0)
    twin.reset(seed=0)
    for _ in range(20):
        action = env.expert_action()
        _, reward, _, _, info = env.step(action)
        parts, successes = [], []
        for _ in range(2):
            parts.append(twin.simulator.step(action)[1])
            successes.append(twin.simulator._check_success())
        assert reward == pytest.approx(sum(parts))
        assert info["success"] == any(successes)
    assert info["success"]
    assert reward == pytest.approx(2.0)  # 1 a control step, robosuite's greatest
    twin.close()


def test_looks_differ_in_pictures_alone(env: SimulatorRobosuite) -> None:
    reference = SimulatorRobosuite("Lift", look="reference")
    one, two = env.reset(seed=0), reference.reset(seed=0)
    assert 0.1 < np.abs(one[0].astype(int) - two[0]).mean() < 60
    action = np.full(7, 0.5, np.float32)
    assert env.step(action)[1] == reference.step(action)[1]
    reference.close()


def test_a_sponge_ignores_the_gripper() -> None:
    env = SimulatorRobosuite("Wipe")
    env.reset(seed=0)
    opened = env.step(np.array([0.5, 0, 0, 0, 0, 0, 1], np.float32))
    env.reset(seed=0)
    assert data_equivalence(env.step(np.array([0.5, 0, 0, 0, 0, 0, -1], np.float32)), opened, exact=True)
    with pytest.raises(InvalidOption, match="Wipe has no scripted expert; tasks that have one: Lift, Push"):
        env.expert_action()
    with pytest.raises(ConfigError, match="needs a task that has one: Wipe has no scripted expert"):
        check_goals(env)
    env.close()


def test_wiped_marks_are_part_of_a_state() -> None:
    env, twin = SimulatorRobosuite("Wipe"), SimulatorRobosuite("Wipe")
    for each in (env, twin):
        each.reset(seed=0)
    marks = env.simulator.model.mujoco_arena.markers
    before = env.get_state()
    env.simulator.wiped_markers.append(marks[3])
    after = env.get_state()
    env.set_state(before)
    assert env.simulator.wiped_markers == []
    twin.set_state(after)
    assert twin.simulator.wiped_markers == [twin.simulator.model.mujoco_arena.markers[3]]
    env.close()
    twin.close()


def test_a_push_ends_where_its_goal_says() -> None:
    env = SimulatorRobosuite("Push")
    env.reset(seed=3)
    start, pushed = robosuite_push.positions(env.simulator), env.simulator.pushed
    moves = env.simulator.goals - start
    assert np.hypot(*moves[pushed, :2]) == pytest.approx(0.15, abs=1e-3)
    assert not np.delete(moves[:, :2], pushed, axis=0).any()
    assert robosuite_push.goal_distance(env.simulator) == pytest.approx(0.15, abs=0.02)
    state, rewards = env.get_state(), []
    for _ in range(100):
        _, reward, _, _, info = env.step(env.expert_action())
        rewards.append(reward)
        if info["success"]:
            break
    assert info["success"]
    assert robosuite_push.goal_distance(env.simulator) < 0.05
    assert rewards[0] < rewards[-2] < rewards[-1] <= 2
    goals = env.simulator.goals.copy()
    env.reset(seed=4)
    assert not np.array_equal(env.simulator.goals, goals)
    env.set_state(state)
    assert np.array_equal(env.simulator.goals, goals)
    assert np.array_equal(robosuite_push.positions(env.simulator), start)
    assert [env.step(env.expert_action())[1] for _ in range(4)] == rewards[:4]
    env.close()


def test_tasks_for_two_arms_are_not_offered() -> None:
    with pytest.raises(UnknownTask, match="no task 'TwoArmLift'; did you mean 'Lift'"):
        SimulatorRobosuite("TwoArmLift")


BROKEN_OPENGL = """
import os
os.environ["MUJOCO_GL"] = "bogus"
import gymnasium as gym
import worldgym
from worldgym.errors import RenderingError
try:
    gym.make({id!r}).reset()
except RenderingError as error:
    print(error)
"""


@pytest.mark.parametrize("family", ["Robosuite", "RoboDesk"])
def test_broken_opengl_is_not_called_a_missing_simulator(family: str) -> None:
    code = BROKEN_OPENGL.format(id=f"Simulator-{family}-v0")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert "MUJOCO_GL='bogus'" in done.stdout, done.stderr
    assert "libegl1" in done.stdout
    assert "not installed" not in done.stdout

"""The real Meta-World behind the contract: pictures, seeds, rewards and errors."""

import copy
import gc
import importlib
import itertools
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import matplotlib as mpl
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence

from worldgym.envs.simulators.metaworld import ACTION_REPEAT, PAPER_TASKS, SimulatorMetaWorld, task_names
from worldgym.errors import EnvironmentClosed, InvalidAction, InvalidOption, ResetNeeded, UnknownTask

ID = "Simulator-MetaWorld-v0"
pytestmark = pytest.mark.simulator


@pytest.fixture(scope="module")
def env() -> Iterator[SimulatorMetaWorld]:
    """One environment for all tests, because its first frame takes most of a second; each resets it."""
    env = SimulatorMetaWorld("plate-slide")
    yield env
    env.close()


def actions(steps: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (steps, 4)).astype(np.float32)


def test_gymnasium_finds_nothing_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.pyplot.pause", lambda seconds: None)
    before = mpl.get_backend()
    mpl.use("template")  # a backend with windows in name only, for render_mode="human"
    check_env(gym.make(ID, task="hammer", render_mode="rgb_array").unwrapped)
    mpl.use(before)


def test_one_word_changes_the_world(tiny_checkpoint: Path) -> None:
    real, learned = gym.make(ID), gym.make("WorldModel-MetaWorld-v0", checkpoint=tiny_checkpoint)
    assert real.observation_space == learned.observation_space
    assert real.action_space == learned.action_space
    assert real.spec.max_episode_steps == gym.make("WorldModel-MetaWorld-v0").spec.max_episode_steps == 100
    real.close()


def test_all_50_tasks_by_their_plain_names() -> None:
    names = task_names()
    assert len(names) == 50
    assert set(PAPER_TASKS) <= set(names)
    assert not any(name.endswith("-v3") for name in names)


def test_task_names() -> None:
    env = gym.make(ID, task="plate-slide-v3")
    assert env.reset(seed=0)[1]["task"] == "plate-slide"
    env.close()
    with pytest.raises(UnknownTask, match=r"'plate-slid'; did you mean 'plate-slide'"):
        gym.make(ID, task="plate-slid")


def test_right_way_up(env: SimulatorMetaWorld) -> None:
    frame = env.reset(seed=0)[0].astype(int)
    wall, table = frame[:16, 44:].mean(axis=(0, 1)), frame[42:52, 24:44].mean(axis=(0, 1))
    assert np.ptp(wall) < 10  # grey, above
    assert table[0] - table[2] > 20  # brown, below


def test_pictures_are_right_with_several_environments_alive_and_closed_in_any_order() -> None:
    def frames(env: SimulatorMetaWorld) -> np.ndarray:
        return np.stack([env.reset(seed=1)[0], *(env.step(action)[0] for action in actions(2))])

    tasks = ("hammer", "door-lock")
    expected = {}
    for task in tasks:
        alone = SimulatorMetaWorld(task)
        expected[task] = frames(alone)
        alone.close()
    envs = {task: SimulatorMetaWorld(task) for task in tasks}
    for task in (*tasks, *reversed(tasks)):
        np.testing.assert_array_equal(frames(envs[task]), expected[task])
    envs.pop("hammer").close()
    np.testing.assert_array_equal(frames(envs["door-lock"]), expected["door-lock"])
    envs["hammer"] = SimulatorMetaWorld("hammer")
    for task in tasks:
        np.testing.assert_array_equal(frames(envs[task]), expected[task])
    del envs["door-lock"]  # dropped, not closed
    np.testing.assert_array_equal(frames(envs["hammer"]), expected["hammer"])
    envs["hammer"].close()


def test_an_environment_dropped_while_another_draws(env: SimulatorMetaWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python may collect garbage at any time, also when the OpenGL context of the other environment is in use."""
    module = importlib.import_module("mujoco.renderer")
    expected = env.reset(seed=1)[0]
    dropped = SimulatorMetaWorld("door-lock")
    dropped.reset(seed=0)
    dropped.cycle = dropped  # type: ignore[attr-defined]
    alive = weakref.ref(dropped)
    del dropped
    render = module._render.mjr_render

    def collect_and_render(*arguments: Any) -> None:
        gc.collect()
        render(*arguments)

    functions = {**vars(module._render), "mjr_render": collect_and_render}
    monkeypatch.setattr(module, "_render", SimpleNamespace(**functions))
    np.testing.assert_array_equal(env.reset(seed=1)[0], expected)
    assert alive() is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_follow_moving_parts(copied: Callable[[Any], Any]) -> None:
    """Rewards of some tasks depend on attributes that are parts of MuJoCo's own arrays."""
    env = SimulatorMetaWorld("door-lock")
    env.reset(seed=1)
    for _ in range(5):
        env.step(env.expert_action())
    twin = copied(env)
    for _ in range(3):
        action = env.expert_action()
        np.testing.assert_array_equal(twin.expert_action(), action)
        assert data_equivalence(env.step(action), twin.step(action), exact=True)
    assert twin.simulator.data is not env.simulator.data
    env.close()
    twin.close()


@pytest.mark.parametrize("task", ["door-lock", "plate-slide"])
def test_states_are_restored_exactly(task: str) -> None:
    """What follows is the same to the last bit, however often a state is set and whatever happened in between."""
    env = SimulatorMetaWorld(task)
    env.reset(seed=1)
    for _ in range(6):
        env.step(env.expert_action())
    state, frame, taken = env.get_state(), env.frame, [env.expert_action(), *actions(6)]
    first = [env.step(action) for action in taken]
    for wander in (actions(3), -actions(9)):
        for action in wander:
            env.step(action)
        env.set_state(state)
        assert np.array_equal(env.frame, frame)
        assert np.array_equal(env.draw(), frame)
        assert np.array_equal(env.expert_action(), taken[0])
        assert all(
            data_equivalence(env.step(action), old, exact=True) for action, old in zip(taken, first, strict=True)
        )
    env.set_state(state)
    undrawn = [env.advance(action) for action in taken]
    assert undrawn == [(reward, info["success"]) for _, reward, _, _, info in first]
    assert np.array_equal(env.draw(), first[-1][0])
    env.close()


def test_a_script_that_closes_nothing_ends_in_silence() -> None:
    """Also where another library has registered a finalizer of its own before, as stable-baselines3 does."""
    done = subprocess.run([sys.executable, "-c", CLOSES_NOTHING], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "64\n", "")


CLOSES_NOTHING = f"""
import weakref
weakref.finalize(type("Other", (), {{}}), int)
import gymnasium as gym, worldgym
env = gym.make("{ID}")
print(len(env.reset(seed=0)[0]))
"""


def test_pictures_change(env: SimulatorMetaWorld) -> None:
    frames = np.stack([env.reset(seed=0)[0], *(env.step(action)[0] for action in actions(5))])
    assert all((a != b).any() for a, b in itertools.pairwise(frames))


def test_equal_seeds_give_equal_episodes_whatever_came_before(env: SimulatorMetaWorld) -> None:
    def episode(seed: int | None, steps: int) -> list[Any]:
        return [env.reset(seed=seed), *(env.step(action) for action in actions(steps))]

    once, then = episode(5, 10), episode(None, 10)
    episode(6, 30)
    other = SimulatorMetaWorld("plate-slide")
    assert data_equivalence(episode(5, 10), once, exact=True)
    assert data_equivalence(episode(None, 10), then, exact=True)
    other.reset(seed=5)
    assert data_equivalence(other.step(actions(1)[0]), once[1], exact=True)
    assert not data_equivalence(once[0], then[0])
    assert not data_equivalence(once[0], episode(6, 0)[0])
    other.close()


def test_reward_is_the_sum_over_the_repeat_plus_ten_on_success() -> None:
    env, twin = SimulatorMetaWorld("plate-slide"), SimulatorMetaWorld("plate-slide")
    env.reset(seed=0)
    twin.reset(seed=0)
    solved = 0
    for _ in range(100):
        action = env.expert_action()
        _, reward, terminated, truncated, info = env.step(action)
        parts = [twin.simulator.step(action) for _ in range(2)]
        success = any(part[4]["success"] for part in parts)
        assert reward == pytest.approx(sum(part[1] for part in parts) + 10 * success)
        assert info["success"] == success
        assert type(reward) is float
        assert (terminated, truncated) == (False, False)
        np.testing.assert_array_equal(info["state"], parts[-1][0])
        solved += success
        if solved == 3:
            break
    assert solved == 3
    env.close()
    twin.close()


def test_looks_differ_in_pictures_alone() -> None:
    fast, reference = SimulatorMetaWorld("hammer"), SimulatorMetaWorld("hammer", look="reference")
    assert fast.observation_space == reference.observation_space
    assert fast.action_space == reference.action_space
    one, two = fast.reset(seed=0), reference.reset(seed=0)
    assert 0.5 < np.abs(one[0].astype(int) - two[0]).mean() < 40
    np.testing.assert_array_equal(one[1]["state"], two[1]["state"])
    assert fast.step(actions(1)[0])[1] == reference.step(actions(1)[0])[1]
    fast.close()
    reference.close()


def test_the_only_limit_is_gymnasiums(env: SimulatorMetaWorld) -> None:
    env.reset(seed=0)
    for _ in range(510):  # Meta-World's own limit is 500; without pictures these are quick
        *_, truncated, _ = env.simulator.step(np.zeros(4, np.float32))
        assert not truncated
    env.step(np.zeros(4, np.float32))


def test_shown_at_the_pace_of_the_simulator(env: SimulatorMetaWorld) -> None:
    assert env.metadata["render_fps"] == pytest.approx(1 / (ACTION_REPEAT * env.simulator.dt))


def test_render() -> None:
    env = SimulatorMetaWorld(render_mode="rgb_array")
    with pytest.raises(ResetNeeded):
        env.render()
    frame, _ = env.reset(seed=0)
    shown = env.render()
    np.testing.assert_array_equal(shown, frame)
    frame[:] = 0
    assert env.render().any()
    env.close()


@pytest.mark.parametrize("bad", [np.zeros(3), np.array([0, 0, np.nan, 0]), np.array([np.inf, 0, 0, 0]), "up"])
def test_bad_actions(env: SimulatorMetaWorld, bad: Any) -> None:
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="expected"):
        env.step(bad)


def test_actions_beyond_the_space_are_clipped(env: SimulatorMetaWorld) -> None:
    env.reset(seed=0)
    one = env.step(np.array([7, -7, 1, 0], np.float32))
    env.reset(seed=0)
    assert data_equivalence(one, env.step(np.array([1, -1, 1, 0], np.float32)), exact=True)


def test_calls_out_of_order_and_bad_options() -> None:
    env = SimulatorMetaWorld()  # never draws
    for call in (lambda: env.step(np.zeros(4, np.float32)), env.expert_action):
        with pytest.raises(ResetNeeded, match=r"reset\(\)"):
            call()
    with pytest.raises(InvalidOption, match="frames"):
        env.reset(options={"frames": 1})
    with pytest.raises(InvalidOption, match="a dictionary or None, got 5"):
        env.reset(options=5)  # type: ignore[arg-type]
    env.close()
    for call in (env.reset, env.render, env.expert_action, lambda: env.step(np.zeros(4, np.float32))):
        with pytest.raises(EnvironmentClosed, match="make a new environment"):
            call()
    with pytest.raises(InvalidOption, match="'fast' or 'reference', got 'nice'"):
        SimulatorMetaWorld("hammer", look="nice")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="'ansi'"):
        SimulatorMetaWorld("hammer", render_mode="ansi")

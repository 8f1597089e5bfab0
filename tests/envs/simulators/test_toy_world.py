"""What holds in every toy world: spaces, seeds, states to go on from, recordings and errors."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib as mpl
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence

from worldgym.data.recordings import Recordings
from worldgym.envs.behaviours import BEHAVIOURS
from worldgym.envs.collect import collect, record
from worldgym.envs.simulators.dials import SimulatorDials
from worldgym.envs.simulators.toy import SimulatorToy
from worldgym.envs.simulators.toy_world import EPISODE_STEPS, ToyWorld
from worldgym.errors import EnvironmentClosed, InvalidAction, InvalidOption, ResetNeeded

TOY_WORLDS = {"toy": SimulatorToy, "dials": SimulatorDials}


def env_id(world: type[ToyWorld]) -> str:
    return f"Simulator-{world.spec_name}-v0"


@pytest.fixture(params=TOY_WORLDS.values(), ids=TOY_WORLDS)
def world(request: pytest.FixtureRequest) -> type[ToyWorld]:
    return request.param


@pytest.fixture
def env(world: type[ToyWorld]) -> ToyWorld:
    return world()


def actions(env: ToyWorld, steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, env.action_dim)).astype(np.float32)


def test_gymnasium_finds_nothing_wrong(world: type[ToyWorld], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.pyplot.pause", lambda seconds: None)
    before = mpl.get_backend()
    mpl.use("template")  # a backend with windows in name only, for render_mode="human"
    check_env(gym.make(env_id(world), render_mode="rgb_array").unwrapped)
    mpl.use(before)


def test_spaces_and_length(world: type[ToyWorld]) -> None:
    env = gym.make(env_id(world))
    assert type(env.unwrapped) is world
    assert env.observation_space == gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, (world.action_dim,), np.float32)
    assert env.spec.max_episode_steps == EPISODE_STEPS == 25
    env.reset(seed=0)
    ends = [env.step(action)[2:4] for action in actions(env.unwrapped, 25)]
    assert ends == [(False, False)] * 24 + [(False, True)]


def test_equal_seeds_give_equal_episodes_whatever_came_before(env: ToyWorld) -> None:
    def episode(env: ToyWorld, seed: int | None) -> list[Any]:
        return [env.reset(seed=seed), *(env.step(action) for action in actions(env, 5))]

    once, then = episode(env, 5), episode(env, None)
    episode(env, 6)
    assert data_equivalence(episode(type(env)(), 5), once, exact=True)
    assert data_equivalence(episode(env, 5), once, exact=True)
    assert data_equivalence(episode(env, None), then, exact=True)
    assert not data_equivalence(once[0], then[0])


def test_a_fiftieth_of_a_pixel_shows_everywhere(env: ToyWorld) -> None:
    env.reset(seed=0)
    for _ in range(EPISODE_STEPS):
        frame, *_ = env.step(env.expert_action())
        moved, *_ = env.step(np.full(env.action_dim, 0.02))
        assert (moved != frame).any()


def test_the_expert_arrives_and_nobody_earns_more(env: ToyWorld) -> None:
    def earned(seed: int, noise: np.ndarray) -> tuple[float, bool]:
        env.reset(seed=seed)
        steps = [env.step(env.expert_action() + part) for part in noise]
        return sum(step[1] for step in steps), steps[-1][-1]["success"]

    for seed in range(20):
        best, arrived = earned(seed, np.zeros((EPISODE_STEPS, env.action_dim)))
        assert arrived
        assert 15 < best < EPISODE_STEPS
        unit = np.random.default_rng(seed).normal(size=(EPISODE_STEPS, env.action_dim))
        assert all(earned(seed, scale * unit)[0] < best for scale in (0.01, 0.3, 10))


def test_render(world: type[ToyWorld]) -> None:
    env = world()
    with pytest.raises(ResetNeeded):
        env.render()
    assert (env.reset(seed=0)[0] != 0).any()
    assert env.render() is None
    env = world(render_mode="rgb_array")
    frame, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), frame)
    frame[:] = 0
    assert env.render().any()


@pytest.mark.parametrize("bad", [np.zeros(3), np.array([0, np.nan]), np.full(8, np.inf), "up", None])
def test_bad_actions_are_refused_and_move_nothing(env: ToyWorld, bad: Any) -> None:
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="expected"):
        env.step(bad)
    action = actions(env, 1)[0]
    after = env.step(action)
    env.reset(seed=0)
    assert data_equivalence(env.step(action), after, exact=True)


def test_actions_beyond_the_space_are_clipped(env: ToyWorld) -> None:
    signs = np.resize([1, -1], env.action_dim).astype(np.float32)
    env.reset(seed=0)
    one = env.step(7 * signs)
    env.reset(seed=0)
    assert data_equivalence(one, env.step(signs), exact=True)


def test_an_episode_goes_on_from_the_state_of_another(env: ToyWorld) -> None:
    env.reset(seed=3)
    for action in actions(env, 7):
        frame, *_, info = env.step(action)
    other = type(env)()
    again, told = other.reset(options={"state": info["state"]})
    assert data_equivalence((again, told), (frame, info), exact=True)
    for action in actions(env, 5, seed=1):
        assert data_equivalence(other.step(action), env.step(action), exact=True)


def test_states_are_restored(env: ToyWorld) -> None:
    frame, _ = env.reset(seed=0)
    state, action = env.get_state(), env.expert_action()
    first = env.step(action)
    for _ in range(2):
        env.set_state(state)
        assert np.array_equal(env.frame, frame)
        assert env.advance(action) == (first[1], first[4]["success"])
        assert np.array_equal(env.frame, frame)  # not drawn anew
        assert np.array_equal(env.draw(), first[0])


def test_the_state_given_and_the_state_told_are_copies(env: ToyWorld) -> None:
    _, info = env.reset(seed=0)
    state = info["state"].copy()
    env.reset(options={"state": state})
    state += 1
    info["state"] += 1
    action = actions(env, 1)[0]
    after = env.step(action)
    env.reset(seed=0)
    assert data_equivalence(env.step(action), after, exact=True)


@pytest.mark.parametrize("change", [-100, 100, np.nan, "shorter", None, "here"])
def test_impossible_states_are_refused(env: ToyWorld, change: Any) -> None:
    before, info = env.reset(seed=0)
    state: Any = info["state"]
    if isinstance(change, (int, float)):
        state[-1] += change
    elif change == "shorter":
        state = state[:-1]
    else:
        state = change
    with pytest.raises(InvalidOption, match=r"'state': expected . numbers within"):
        env.reset(options={"state": state})
    env.render_mode = "rgb_array"
    assert np.array_equal(env.render(), before)


def test_calls_out_of_order_and_bad_options(env: ToyWorld) -> None:
    calls = (lambda: env.step(np.zeros(env.action_dim, np.float32)), env.expert_action)
    for call in calls:
        with pytest.raises(ResetNeeded, match=r"reset\(\)"):
            call()
    with pytest.raises(InvalidOption, match="frames"):
        env.reset(options={"frames": 1})
    with pytest.raises(InvalidOption, match="'ansi'"):
        type(env)(render_mode="ansi")
    with pytest.raises(InvalidOption, match="expected a dictionary or None, got 5"):
        env.reset(options=5)  # type: ignore[arg-type]
    env.reset(seed=0, options={"minari_autoseed": True})
    env.close()
    for call in (*calls, env.reset, env.render):
        with pytest.raises(EnvironmentClosed, match=r"after close\(\): make a new environment"):
            call()


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_every_behaviour_can_be_recorded(world: type[ToyWorld], behaviour: str) -> None:
    once, other, again = (record(world(), behaviour, seed) for seed in (3, 4, 3))
    for name in ("frames", "actions", "rewards", "successes"):
        np.testing.assert_array_equal(getattr(once, name), getattr(again, name))
    assert not np.array_equal(once.actions, other.actions)
    assert (once.frames.shape, once.actions.shape) == ((26, 32, 32, 3), (25, world.action_dim))
    assert (once.info.environment, once.info.task, once.info.frame_skip) == (env_id(world), world.spec_name.lower(), 1)


def test_collecting(tmp_path: Path) -> None:
    paths = collect(tmp_path, TOY_WORLDS, {"expert": 1}, workers=1)
    assert paths == [tmp_path / task / "expert-00000000.safetensors" for task in TOY_WORLDS]
    for task, world in TOY_WORLDS.items():
        recordings = Recordings(tmp_path / task)
        assert (recordings.action_dim, recordings.tasks) == (world.action_dim, (task,))
        assert recordings.frame_shape == (32, 32, 3)
        np.testing.assert_array_equal(recordings.episodes[0].frames(), record(world(), "expert", 0).frames)


def test_interrupted_collecting_says_how_far_it_came(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HEARS_INTERRUPTS, str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        while process.poll() is None and not list(tmp_path.rglob("*.safetensors")):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the recording processes hear it, too
        told = process.communicate()[1]
    assert process.returncode == 130
    recorded = len(list(tmp_path.rglob("*.safetensors")))
    assert 0 < recorded < 3000
    assert f"stopped at {recorded} of 3000 episodes; run the same command again" in told
    assert "Traceback" not in told


# A shell's background job starts with interrupts ignored.
HEARS_INTERRUPTS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from worldgym.cli import main
sys.exit(main(["collect", "--tasks", "toy", "--workers", "1", "--episodes", "random=3000", "--out", sys.argv[1]]))
"""

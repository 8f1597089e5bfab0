"""What all simulator families promise, each on its real simulator."""

import copy
import itertools
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import matplotlib as mpl
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence

import worldgym  # noqa: F401  (registers the ids)
from worldgym.envs.contract import FrameEnv
from worldgym.envs.registry import SimulatorSpec, find_task, specs
from worldgym.errors import ConfigError, EnvironmentClosed, InvalidAction, InvalidOption, ResetNeeded, UnknownTask

# Two tasks of each family, the packages that it needs, a name close to the first task's, and the steps of its episodes.
FAMILIES = {
    "MetaWorld": (("plate-slide", "hammer"), ("metaworld", "mujoco"), "plate-slid", 100),
    "ManiSkill": (("PickCube-v1", "PushT-v1"), ("mani_skill", "sapien"), "PickCub-v1", 50),
    "Robosuite": (("Lift", "Stack"), ("robosuite", "mujoco"), "Lif", 100),
    "RoboDesk": (("push_red", "open_slide"), ("robodesk", "dm_control"), "push_rd", 100),
    "LIBERO": (("libero_spatial/0", "libero_object/0"), ("libero", "robosuite"), "libero_spatia/0", 300),
}
MARKS = {"MetaWorld": pytest.mark.simulator}
RESTORABLE = ("MetaWorld", "Robosuite", "RoboDesk", "LIBERO")  # as a model of planners; and can be copied
MOVABLE = RESTORABLE[1:]  # states can be set in another episode, and in another environment
DIRECTION_SEEDS = range(5)
NAMES_KNOWN = ("LIBERO",)  # all tasks can be named without the simulator
PARAMETERS = [pytest.param(name, marks=MARKS.get(name, pytest.mark.other_simulator)) for name in FAMILIES]


@pytest.fixture(scope="module", params=PARAMETERS)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def spec(family: str) -> SimulatorSpec:
    return specs()[family]


@pytest.fixture(scope="module")
def tasks(family: str) -> tuple[str, str]:
    return FAMILIES[family][0]


@pytest.fixture(scope="module")
def env(spec: SimulatorSpec, tasks: tuple[str, str]) -> Iterator[Any]:
    """One environment for all tests, because making one takes long; each resets it."""
    env = spec.make(tasks[0])
    yield env
    env.close()


def actions(env: Any, steps: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)


def episode(env: Any, seed: int | None, steps: int) -> list[Any]:
    return [env.reset(seed=seed), *(env.step(action) for action in actions(env, steps))]


def test_gymnasium_finds_nothing_wrong(
    spec: SimulatorSpec, tasks: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("matplotlib.pyplot.pause", lambda seconds: None)
    before = mpl.get_backend()
    mpl.use("template")  # a backend with windows in name only, for render_mode="human"
    env = gym.make(spec.simulator_id, task=tasks[0], render_mode="rgb_array")
    check_env(env.unwrapped)
    env.close()
    mpl.use(before)


def test_spaces(env: Any, spec: SimulatorSpec) -> None:
    assert isinstance(env, FrameEnv)
    assert env.observation_space == gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    assert env.action_space == gym.spaces.Box(-1, 1, (len(spec.action_names),), np.float32)
    assert env.metadata["render_fps"] == spec.render_fps
    assert env.frame_skip == spec.frame_skip


def test_what_reset_and_step_give(env: Any, tasks: tuple[str, str]) -> None:
    frame, info = env.reset(seed=0)
    assert (frame.dtype, frame.shape) == (np.uint8, (64, 64, 3))
    assert (info["success"], info["task"]) == (False, tasks[0])
    frame, reward, terminated, truncated, info = env.step(actions(env, 1)[0])
    assert (frame.dtype, frame.shape) == (np.uint8, (64, 64, 3))
    assert type(reward) is float
    assert np.isfinite(reward)
    assert (terminated, truncated) == (False, False)
    assert type(info["success"]) is bool
    assert info["task"] == tasks[0]


def test_pictures_change_and_are_not_dark(env: Any) -> None:
    frames = [result[0] for result in episode(env, 0, 5)[1:]]
    assert all((one != two).any() for one, two in itertools.pairwise(frames))
    assert frames[0].std() > 10
    assert 30 < frames[0].mean() < 240


def test_equal_seeds_give_equal_episodes_whatever_came_before(
    env: Any, spec: SimulatorSpec, tasks: tuple[str, str]
) -> None:
    np.random.seed(0)  # noqa: NPY002
    once, then = episode(env, 5, 10), episode(env, None, 3)
    untouched = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    assert untouched == np.random.random()  # noqa: NPY002
    episode(env, 6, 20)
    assert data_equivalence(episode(env, 5, 10), once, exact=True)
    assert data_equivalence(episode(env, None, 3), then, exact=True)
    other = spec.make(tasks[0])
    episode(other, 7, 2)
    assert data_equivalence(episode(other, 5, 10), once, exact=True)
    assert not np.array_equal(once[0][0], then[0][0])
    assert not np.array_equal(once[0][0], env.reset(seed=6)[0])
    other.close()


def test_pictures_are_right_with_several_environments_alive_and_closed_in_any_order(
    spec: SimulatorSpec, tasks: tuple[str, str]
) -> None:
    def frames(env: Any) -> np.ndarray:
        seed = tasks.index(env.task)  # because tasks may share a scene
        return np.stack([result[0] for result in episode(env, seed, 2)])

    expected = {}
    for task in tasks:
        alone = spec.make(task)
        expected[task] = frames(alone)
        alone.close()
    assert (expected[tasks[0]] != expected[tasks[1]]).any()
    envs = {task: spec.make(task) for task in tasks}
    for task in (*tasks, *reversed(tasks)):
        np.testing.assert_array_equal(frames(envs[task]), expected[task])
    envs.pop(tasks[0]).close()
    np.testing.assert_array_equal(frames(envs[tasks[1]]), expected[tasks[1]])
    envs[tasks[0]] = spec.make(tasks[0])
    for task in tasks:
        np.testing.assert_array_equal(frames(envs[task]), expected[task])
    del envs[tasks[1]]  # dropped, not closed
    np.testing.assert_array_equal(frames(envs[tasks[0]]), expected[tasks[0]])
    envs[tasks[0]].close()


def test_an_episode_is_truncated_at_its_limit_alone(family: str, spec: SimulatorSpec, tasks: tuple[str, str]) -> None:
    env = gym.make(spec.simulator_id, task=tasks[0])
    limit = FAMILIES[family][3]
    assert getattr(env.unwrapped, "episode_steps", spec.episode_steps) == limit
    for _ in range(2):
        env.reset(seed=0)
        ends = [env.step(env.action_space.sample())[2:4] for _ in range(limit)]
        assert ends == [(False, False)] * (limit - 1) + [(False, True)]
    env.close()


def test_the_expert_succeeds(family: str, env: Any) -> None:
    steps = range(FAMILIES[family][3])
    for seed in range(2):
        env.reset(seed=seed)
        assert any(env.step(env.expert_action())[4]["success"] for _ in steps), seed


def test_states_are_restored_exactly(family: str, env: Any, spec: SimulatorSpec, tasks: tuple[str, str]) -> None:
    """What follows is the same to the last bit, however often a state is set and whatever happened in between."""
    if family not in RESTORABLE:
        assert not hasattr(env, "set_state")
        return
    episode(env, 1, 6)
    state, frame, taken = env.get_state(), env.frame, actions(env, 12)[6:]
    first = [env.step(action) for action in taken]
    undrawn = [(reward, info["success"]) for _, reward, _, _, info in first]
    following = env.reset() if family in MOVABLE else None
    for wander in (actions(env, 3), -actions(env, 9)):
        for action in wander:
            env.step(action)
        env.set_state(state)
        assert np.array_equal(env.frame, frame)
        assert np.array_equal(env.draw(), frame)
        assert data_equivalence([env.step(action) for action in taken], first, exact=True)
    env.set_state(state)
    assert [env.advance(action) for action in taken] == undrawn
    assert np.array_equal(env.draw(), first[-1][0])
    if family not in MOVABLE:
        return
    assert data_equivalence(env.reset(), following, exact=True)  # from the state's generator
    others = [spec.make(task) for task in tasks]
    episode(others[0], 7, 3)
    others[0].set_state(state)  # type: ignore[attr-defined]
    assert data_equivalence([others[0].step(action) for action in taken], first, exact=True)
    others[1].reset(seed=0)
    with pytest.raises(InvalidOption, match=f"expected a state of {tasks[1]}, got one of {tasks[0]}"):
        others[1].set_state(state)  # type: ignore[attr-defined]
    for other in others:
        other.close()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_continue_identically(family: str, env: Any, copied: Callable[[Any], Any]) -> None:
    episode(env, 1, 3)
    if family not in RESTORABLE:
        with pytest.raises(ConfigError, match="can be neither copied nor pickled: make another one"):
            copied(env)
        return
    twin = copied(env)
    for action in actions(env, 3):
        assert data_equivalence(env.step(action), twin.step(action), exact=True)
    assert data_equivalence(env.reset(), twin.reset(), exact=True)
    twin.close()


@pytest.mark.parametrize("bad", [np.zeros(3), np.nan, np.inf, "up", None])
def test_bad_actions(env: Any, bad: Any) -> None:
    env.reset(seed=0)
    given = np.full(env.action_space.shape, bad) if isinstance(bad, float) else bad
    with pytest.raises(InvalidAction, match="expected"):
        env.step(given)


def test_actions_beyond_the_space_are_clipped(env: Any) -> None:
    action = np.zeros(env.action_space.shape, np.float32)
    action[:2] = 7, -7
    env.reset(seed=0)
    one = env.step(action)
    env.reset(seed=0)
    assert data_equivalence(one, env.step(np.clip(action, -1, 1)), exact=True)


def test_render(spec: SimulatorSpec, tasks: tuple[str, str]) -> None:
    env = spec.make(tasks[0], render_mode="rgb_array")
    with pytest.raises(ResetNeeded):
        env.render()
    frame, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), frame)  # type: ignore[arg-type]
    env.close()


def test_calls_out_of_order_and_bad_options(family: str, spec: SimulatorSpec, tasks: tuple[str, str]) -> None:
    env: Any = spec.make(tasks[0])  # never draws
    action = np.zeros(env.action_space.shape, np.float32)
    calls: list[Callable[[], Any]] = [lambda: env.step(action), env.expert_action, env.render]
    if family in RESTORABLE:
        calls += [lambda: env.advance(action), env.draw, env.get_state, lambda: env.set_state(None)]
    for call in calls:
        with pytest.raises(ResetNeeded, match=r"reset\(\)"):
            call()
    with pytest.raises(InvalidOption, match="frames"):
        env.reset(options={"frames": 1})
    env.close()
    env.close()
    for call in [env.reset, *calls]:
        with pytest.raises(EnvironmentClosed, match="make a new environment"):
            call()
    with pytest.raises(InvalidOption, match="'ansi'"):
        spec.make(tasks[0], render_mode="ansi")
    if len(spec.looks) > 1:
        with pytest.raises(InvalidOption, match="look: expected"):
            spec.make(tasks[0], look="nice")


def test_tasks(family: str, spec: SimulatorSpec, tasks: tuple[str, str]) -> None:
    known = spec.known_tasks()
    assert set(spec.tasks) < set(known)
    assert len(known) == len(set(known))
    for task in known:
        assert find_task(task) == (spec, task)
    with pytest.raises(UnknownTask, match=f"'{FAMILIES[family][2]}'; did you mean '{tasks[0]}'"):
        gym.make(spec.simulator_id, task=FAMILIES[family][2])


WITHOUT = """
import sys
sys.modules[{package!r}] = None  # importing it raises ImportError
import gymnasium as gym
import worldgym
from worldgym.envs.registry import find_task
from worldgym.errors import DependencyNotInstalled, UnknownTask
try:
    gym.make({id!r}, task={task!r})
except DependencyNotInstalled as error:
    assert isinstance(error, gym.error.DependencyNotInstalled)
    print(error)
try:
    find_task("no-such-task")
except UnknownTask as error:
    print(error)
"""

CLOSES_NOTHING = """
import gymnasium as gym, worldgym
env = gym.make({id!r}, task={task!r})
print(len(env.reset(seed=0)[0]))
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def test_a_missing_package_names_the_extra(family: str, spec: SimulatorSpec, tasks: tuple[str, str]) -> None:
    package = FAMILIES[family][1][0]
    done = run(WITHOUT.format(package=package, id=spec.simulator_id, task=tasks[0]))
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert f"{package} not found" in first
    assert f"pip install worldgym[{family.lower()}]" in first
    partly = f"not installed, so that only some of its tasks are known: {family} (pip install"
    assert (partly in second) == (family not in NAMES_KNOWN)


def test_a_script_that_closes_nothing_ends_in_silence(spec: SimulatorSpec, tasks: tuple[str, str]) -> None:
    done = run(CLOSES_NOTHING.format(id=spec.simulator_id, task=tasks[0]))
    assert (done.returncode, done.stdout, done.stderr) == (0, "64\n", "")


def moved(env: Any, action: np.ndarray, seed: int) -> np.ndarray:
    """The frame after some equal steps, int ``[H, W, 3]``."""
    env.reset(seed=seed)
    return [env.step(action.astype(np.float32))[0] for _ in range(6)][-1].astype(int)


def hand_place(family: str, frame: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """Row and column of the hand: Meta-World's right finger alone is cyan; else of what other frames show elsewhere."""
    if family == "MetaWorld":
        shown = (frame[..., 1] - frame[..., 0] > 60) & (frame[..., 2] - frame[..., 0] > 60)
    else:
        shown = np.all([np.abs(frame - other).max(-1) > 40 for other in others], axis=0)
    assert shown.any()
    return np.argwhere(shown).mean(0)


def test_directions_are_those_of_the_picture(env: Any, spec: SimulatorSpec, family: str) -> None:
    """Measured in the frames after a direction, its opposite and rest, as a mean over seeds: objects hide the hand."""
    assert bool(spec.directions) == (family != "ManiSkill")  # not measured yet
    rests = [moved(env, np.zeros(env.action_space.shape), seed) for seed in DIRECTION_SEEDS]
    for direction, column, sign in zip(np.array(spec.directions), (1, 0, 0), (1, -1, -1), strict=False):
        shifts = []
        for seed, rest in zip(DIRECTION_SEEDS, rests, strict=True):
            along, against = moved(env, direction, seed), moved(env, -direction, seed)
            shifts.append(hand_place(family, along, against, rest) - hand_place(family, against, along, rest))
        shift = np.mean(shifts, axis=0)
        assert shift[column] * sign > 1, (direction, shift)
        assert column == 0 or abs(shift[1]) > abs(shift[0]), (direction, shift)

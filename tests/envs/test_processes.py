"""Every environment in vector environments of processes, in forked children, in threads, copied and pickled."""

import copy
import multiprocessing
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

import worldgym

STEPS = 3
TIMEOUT = 120  # seconds; what hangs fails
IDS = [
    pytest.param("Simulator-MetaWorld-v0", marks=pytest.mark.simulator),
    "Simulator-Toy-v0",
    "Simulator-Dials-v0",
    "WorldModel-v0",
    "WorldModel-MetaWorld-v0",
]


@pytest.fixture
def options(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> dict[str, Any]:
    """Arguments of ``gym.make`` for the id of a test."""
    env_id = request.getfixturevalue("env_id")
    return {"checkpoint": str(tiny_checkpoint)} if env_id.startswith("WorldModel") else {}


def actions(env: gym.Env[Any, Any], steps: int = STEPS) -> list[np.ndarray]:
    shape = env.action_space.shape
    return list(np.random.default_rng(1).uniform(-1, 1, (steps, *shape)).astype(np.float32))  # type: ignore[misc]


def episode(env: gym.Env[Any, Any], seed: int = 5) -> list[Any]:
    return [env.reset(seed=seed)[0], *(env.step(action)[:2] for action in actions(env))]


@pytest.mark.parametrize("parent_steps", [False, True], ids=["fresh", "stepped"])
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("env_id", IDS)
def test_slots_of_a_vector_environment_equal_single_ones(
    env_id: str, mode: str, parent_steps: bool, options: dict[str, Any]
) -> None:
    single = gym.make(env_id, **options)
    expected = [episode(single, seed) for seed in (5, 6)] if parent_steps else []
    envs = gym.make_vec(env_id, num_envs=2, vectorization_mode=mode, **options)
    try:
        if mode == "async":
            envs.reset_async(seed=5)  # type: ignore[attr-defined]
            frames = [envs.reset_wait(timeout=TIMEOUT)[0]]  # type: ignore[attr-defined]
        else:
            frames = [envs.reset(seed=5)[0]]
        rewards = []
        for action in actions(single):
            frame, reward, *_ = envs.step(np.stack([action, action]))
            frames.append(frame.copy())
            rewards.append(reward)
    finally:
        envs.close(**({"terminate": True} if mode == "async" else {}))
    expected = expected or [episode(single, seed) for seed in (5, 6)]
    for slot, (first, *steps) in enumerate(expected):
        np.testing.assert_array_equal(frames[0][slot], first)
        for (frame, reward), shown, given in zip(steps, frames[1:], rewards, strict=True):
            np.testing.assert_array_equal(shown[slot], frame)
            assert given[slot] == pytest.approx(reward, rel=1e-6)
    single.close()


def _play(env_id: str, options: dict[str, Any], results: Any) -> None:
    results.put(episode(gym.make(env_id, **options)))


@pytest.mark.parametrize("env_id", IDS)
def test_forked_child_steps_like_its_parent(env_id: str, options: dict[str, Any]) -> None:
    env = gym.make(env_id, **options)
    expected = episode(env)
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()
    child = context.Process(target=_play, args=(env_id, options, results), daemon=True)
    child.start()
    assert data_equivalence(results.get(timeout=TIMEOUT), expected, exact=True)
    child.join(TIMEOUT)
    assert child.exitcode == 0
    assert data_equivalence(episode(env), expected, exact=True)  # the parent's own environment still works
    env.close()


@pytest.mark.parametrize("env_id", IDS)
def test_environment_moves_into_a_forked_child(env_id: str, options: dict[str, Any]) -> None:
    """The child continues with the parent's very environment, in the middle of an episode."""
    env = gym.make(env_id, **options)
    env.reset(seed=5)
    env.step(actions(env)[0])
    twin = copy.deepcopy(env)
    expected = twin.step(actions(env)[1])[:2]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, pickle.dumps(env.step(actions(env)[1])[:2]))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        assert data_equivalence(pickle.load(file), expected, exact=True)
    assert os.waitpid(child, 0)[1] == 0
    env.close()
    twin.close()


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "cloudpickle": lambda env: pickle.loads(cloudpickle.dumps(env)),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("env_id", IDS)
def test_copies_continue_identically(env_id: str, way: str, options: dict[str, Any]) -> None:
    env = gym.make(env_id, **options)
    env.reset(seed=5)
    first, *rest = actions(env)
    env.step(first)
    twin = COPIES[way](env)
    for action in rest:
        assert data_equivalence(env.step(action), twin.step(action), exact=True)
    assert data_equivalence(env.reset(), twin.reset(), exact=True)  # from their own generators
    twin.close()
    assert len(env.step(first)) == 5
    env.close()


def test_copies_of_a_learned_environment_share_its_weights(tiny_checkpoint: Path) -> None:
    env = gym.make("WorldModel-v0", checkpoint=tiny_checkpoint)
    env.reset(seed=0)
    twin = copy.deepcopy(env)
    assert twin.unwrapped.world_model is env.unwrapped.world_model  # type: ignore[attr-defined]
    assert len(pickle.dumps(env)) < 2_000_000


@pytest.mark.parametrize("way", COPIES)
def test_copies_take_a_model_in_memory_with_them(way: str, tiny_checkpoint: Path, real_frames: np.ndarray) -> None:
    env = gym.make("WorldModel-v0", checkpoint=worldgym.WorldModel.from_pretrained(tiny_checkpoint))
    env.reset(seed=0, options={"frames": real_frames})
    first, *rest = actions(env)
    env.step(first)
    twin = COPIES[way](env)
    assert twin.unwrapped.world_model is not env.unwrapped.world_model  # type: ignore[attr-defined]
    for action in rest:
        assert data_equivalence(env.step(action), twin.step(action), exact=True)


def test_vector_environment_copies_continue_identically(tiny_checkpoint: Path) -> None:
    envs = gym.make_vec("WorldModel-v0", 3, checkpoint=tiny_checkpoint)
    envs.reset(seed=0)
    moves = np.zeros((3, 4), np.float32)
    envs.step(moves)
    twin = pickle.loads(pickle.dumps(envs))
    for _ in range(2):
        assert data_equivalence(envs.step(moves), twin.step(moves), exact=True)


@pytest.mark.simulator
def test_simulators_can_be_used_from_any_thread() -> None:
    tasks = ("hammer", "door-lock", "plate-slide")
    envs = [gym.make("Simulator-MetaWorld-v0", task=task) for task in tasks]
    expected = [episode(env) for env in envs]
    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            for env, wanted in zip(pool.map(episode, envs), expected, strict=True):
                assert data_equivalence(env, wanted, exact=True)
    for env, wanted in zip(envs, expected, strict=True):
        assert data_equivalence(episode(env), wanted, exact=True)  # and again from this one
        env.close()

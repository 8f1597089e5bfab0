"""Episodes that are left and brought back, and tensors in place of arrays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from worldgym.envs.learned.env import WorldModelEnv
from worldgym.envs.learned.vector_env import WorldModelVectorEnv
from worldgym.errors import InvalidAction, InvalidOption, OutOfMemory, ResetNeeded
from worldgym.world_model import WorldModel


def actions(count: int, *shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(7).uniform(-1, 1, (count, *shape, 4)).astype(np.float32)


def single_steps(env: WorldModelEnv, count: int) -> list[tuple[Any, ...]]:
    return [env.step(action)[:2] for action in actions(count)]


def test_an_episode_comes_back_exactly_as_often_as_wanted(tiny_checkpoint: Path) -> None:
    env = WorldModelEnv(checkpoint=tiny_checkpoint)
    env.reset(seed=3)
    single_steps(env, 3)
    here = env.get_state()
    first = single_steps(env, 7)  # past the window: it re-anchors on the way
    for _ in range(2):
        env.reset(seed=11)
        env.set_state(here)
        for (frame, reward), (old_frame, old_reward) in zip(single_steps(env, 7), first, strict=True):
            assert np.array_equal(frame, old_frame)
            assert reward == old_reward


def test_resets_behind_a_state_draw_what_they_drew_before(tiny_checkpoint: Path) -> None:
    env = WorldModelEnv(checkpoint=tiny_checkpoint)
    env.reset(seed=3)
    here = env.get_state()
    drawn = [env.reset()[1]["start"] for _ in range(6)]
    env.set_state(here)
    assert [env.reset()[1]["start"] for _ in range(6)] == drawn


def test_a_state_moves_to_another_environment_of_the_same_checkpoint(tiny_checkpoint: Path) -> None:
    env, other = WorldModelEnv(checkpoint=tiny_checkpoint), WorldModelEnv(checkpoint=tiny_checkpoint)
    env.reset(seed=1)
    other.set_state(env.get_state())
    assert np.array_equal(env.step(actions(1)[0])[0], other.step(actions(1)[0])[0])


def test_all_slots_come_back_exactly_across_their_resets(tiny_checkpoint: Path) -> None:
    envs = WorldModelVectorEnv(3, max_episode_steps=4, checkpoint=tiny_checkpoint)
    envs.reset(seed=5)
    envs.step(actions(1, 3)[0])
    here = envs.get_state()
    first = [envs.step(action) for action in actions(9, 3)]
    envs.reset(seed=6)
    envs.set_state(here)
    for action, (frames, rewards, _, truncated, infos) in zip(actions(9, 3), first, strict=True):
        again = envs.step(action)
        assert np.array_equal(again[0], frames)
        assert np.array_equal(again[1], rewards)
        assert np.array_equal(again[3], truncated)
        assert np.array_equal(again[4]["_task"], infos["_task"])
    assert any(step[3].any() for step in first)


def test_states_that_do_not_fit_are_refused(tiny_checkpoint: Path, copy_of: Callable[[], WorldModel]) -> None:
    env, envs = WorldModelEnv(checkpoint=tiny_checkpoint), WorldModelVectorEnv(2, checkpoint=tiny_checkpoint)
    with pytest.raises(ResetNeeded):
        env.get_state()
    with pytest.raises(ResetNeeded):
        envs.get_state()
    env.reset(seed=0)
    envs.reset(seed=0)
    with pytest.raises(InvalidOption, match="2 slots"):
        envs.set_state(env.get_state())
    with pytest.raises(InvalidOption, match="dict"):
        env.set_state({})  # type: ignore[arg-type]
    model = copy_of()
    WorldModelEnv(checkpoint=model).set_state(env.get_state())  # equal weights will do
    with torch.no_grad():
        next(model.transformer.parameters()).mul_(1.5)
    with pytest.raises(InvalidOption, match="another model"):
        WorldModelEnv(checkpoint=model).set_state(env.get_state())


@pytest.fixture
def copy_of(tiny_checkpoint: Path) -> Callable[[], WorldModel]:
    return lambda: WorldModel.from_pretrained(tiny_checkpoint)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_tensors_say_what_arrays_say(tiny_checkpoint: Path, mode: str) -> None:
    made: list[gym.vector.VectorEnv[Any, Any, Any]] = [
        WorldModelVectorEnv(3, 3, mode, checkpoint=tiny_checkpoint, output=output) for output in ("numpy", "torch")
    ]
    (frames, _), (tensors, _) = (envs.reset(seed=2) for envs in made)
    assert isinstance(tensors, torch.Tensor)
    assert np.array_equal(frames, tensors.numpy())
    for action in actions(8, 3):
        arrays, given = made[0].step(action), made[1].step(torch.from_numpy(action))
        kinds = [tensor.dtype for tensor in given[:4]]
        assert kinds == [torch.uint8, torch.float32, torch.bool, torch.bool]
        for array, tensor in zip(arrays[:4], given[:4], strict=True):
            assert np.array_equal(array, tensor.numpy())
        assert arrays[4].keys() == given[4].keys()
        if "uncertainty" in arrays[4]:
            assert np.allclose(arrays[4]["uncertainty"], np.asarray(given[4]["uncertainty"]))


def test_frames_that_were_handed_out_stay_as_they_are(tiny_checkpoint: Path) -> None:
    envs = WorldModelVectorEnv(2, 2, "SameStep", checkpoint=tiny_checkpoint, output="torch")
    first, _ = envs.reset(seed=0)
    kept = first.clone()
    for action in actions(5, 2):
        envs.step(torch.from_numpy(action))
    assert torch.equal(first, kept)


def test_bad_output_and_tensors_are_named(tiny_checkpoint: Path) -> None:
    with pytest.raises(InvalidOption, match="'numpy' or 'torch'"):
        WorldModelVectorEnv(2, checkpoint=tiny_checkpoint, output="jax")  # type: ignore[arg-type]
    envs = WorldModelVectorEnv(2, checkpoint=tiny_checkpoint, output="torch")
    envs.reset(seed=0)
    with pytest.raises(InvalidAction, match="slot 1"):
        envs.step(torch.tensor([[0.0] * 4, [float("nan")] * 4]))
    with pytest.raises(InvalidAction, match="shape"):
        envs.step(torch.zeros(3, 4))


def test_more_slots_than_fit_memory_are_refused_by_name(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldgym.world_model.memory.UNCHECKED_BYTES", 0)
    monkeypatch.setattr("worldgym.world_model.memory.free_memory", lambda device: 2**20)
    with pytest.raises(OutOfMemory, match=r"at most \d+ rows fit"):
        WorldModelVectorEnv(500, checkpoint=tiny_checkpoint).reset(seed=0)

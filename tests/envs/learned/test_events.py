"""Predicted successes and terminations, and action spaces, in learned environments and in imagined rollouts."""

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from worldgym.agents.common.replay import ReplayBuffer
from worldgym.agents.common.rollouts import imagine_rollouts
from worldgym.config import WorldModelConfig
from worldgym.errors import InvalidAction
from worldgym.tokenizer import build_tokenizer
from worldgym.transformer.transformer import Transformer
from worldgym.world_model import WorldModel

SLOTS = 64


def event_model(config: WorldModelConfig, success: float, termination: float, **changes: Any) -> WorldModel:
    """A model that predicts the same probabilities at every step."""
    torch.manual_seed(0)
    config = dataclasses.replace(config, success=True, termination=True, **changes)
    transformer = Transformer.build(config)
    for name, probability in (("success", success), ("termination", termination)):
        transformer.heads[name].bias.data.fill_(float(np.log(probability / (1 - probability))))
    return WorldModel(config, build_tokenizer(config.tokenizer), transformer)


def start(real_frames: NDArray[np.uint8]) -> dict[str, Any]:
    return {"options": {"frames": real_frames}}


def test_info_has_predicted_events(tiny_config: WorldModelConfig, real_frames: NDArray[np.uint8]) -> None:
    env = gym.make("WorldModel-v0", checkpoint=event_model(tiny_config, 0.75, 0.001))
    _, info = env.reset(seed=0, **start(real_frames))
    assert (info["success"], info["success_probability"], info["termination_probability"]) == (False, 0.0, 0.0)
    *_, terminated, _, info = env.step(env.action_space.sample())
    assert not terminated
    assert info["success"] is True
    assert info["success_probability"] == pytest.approx(0.75, abs=1e-6)
    assert info["termination_probability"] == pytest.approx(0.001, abs=1e-6)


def test_episodes_terminate_with_the_predicted_probability(
    tiny_config: WorldModelConfig, real_frames: NDArray[np.uint8]
) -> None:
    model = event_model(tiny_config, 0.5, 0.25)
    envs: Any = gym.make_vec("WorldModel-v0", SLOTS, checkpoint=model, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=0, **start(real_frames))
    _, _, terminations, truncations, infos = envs.step(np.zeros((SLOTS, 4), np.float32))
    assert terminations.mean() == pytest.approx(0.25, abs=0.15)
    assert not truncations.any()
    assert infos["termination_probability"].shape == (SLOTS,)
    single = gym.make("WorldModel-v0", checkpoint=model)
    for slot in range(8):
        single.reset(seed=slot, **start(real_frames))
        assert single.step(np.zeros(4, np.float32))[2] == terminations[slot]


def test_terminated_slots_are_reset(tiny_config: WorldModelConfig, tiny_checkpoint: Any) -> None:
    model = event_model(tiny_config, 0.5, 0.5)
    folder = tiny_checkpoint.parent / "events"
    model.save_pretrained(folder)
    (folder / "start_states").symlink_to(tiny_checkpoint / "start_states")
    envs: Any = gym.make_vec("WorldModel-v0", 8, checkpoint=folder, autoreset_mode=AutoresetMode.SAME_STEP)
    envs.reset(seed=0)
    _, _, terminations, _, infos = envs.step(np.zeros((8, 4), np.float32))
    assert 0 < terminations.sum() < 8
    np.testing.assert_array_equal(infos["_final_obs"], terminations)
    assert (infos["success_probability"][terminations] == 0).all()
    np.testing.assert_allclose(infos["final_info"]["success_probability"][terminations], 0.5)


def test_imagined_rollouts_end_at_terminations(tiny_config: WorldModelConfig, real_frames: NDArray[np.uint8]) -> None:
    model = event_model(tiny_config, 0.5, 0.3)
    history = torch.from_numpy(real_frames).repeat(SLOTS, 1, 1, 1, 1)
    seen: list[int] = []

    def act(frames: torch.Tensor) -> NDArray[np.float32]:
        seen.append(len(frames))
        return np.zeros((len(frames), 4), np.float32)

    rollouts = imagine_rollouts(model, act, history, 4, generator=torch.Generator().manual_seed(0))
    assert seen[0] == SLOTS
    assert seen == [int((rollouts.lengths > step).sum()) for step in range(len(seen))]
    assert rollouts.terminated[rollouts.lengths < 4].all()
    replay = ReplayBuffer((64, 64, 3), 4, 500, frame_stack=2, n_step=1)
    rollouts.store(replay, made_at=1)
    batch = replay.sample(np.random.default_rng(0), 2000)
    share = rollouts.terminated.sum() / rollouts.lengths.sum()
    assert (batch.discounts == 0).float().mean().item() == pytest.approx(share, abs=0.04)


def test_a_twin_takes_the_actions_of_its_environment(
    tiny_config: WorldModelConfig, real_frames: NDArray[np.uint8]
) -> None:
    space = {"kind": "Discrete", "n": 4, "start": 0}
    model = event_model(tiny_config, 0.5, 0.001, action_space=space)
    env = gym.make("WorldModel-v0", checkpoint=model)
    assert env.action_space == gym.spaces.Discrete(4)
    env.reset(seed=0, **start(real_frames))
    frame = env.step(2)[0]
    with pytest.raises(InvalidAction, match="outside"):
        env.step(4)
    envs: Any = gym.make_vec("WorldModel-v0", 2, checkpoint=model)
    assert envs.action_space == gym.spaces.MultiDiscrete([4, 4])
    envs.reset(seed=0, **start(real_frames))
    np.testing.assert_array_equal(envs.step(np.array([2, 2]))[0][0], frame)
    boxed = gym.make("WorldModel-v0", checkpoint=event_model(tiny_config, 0.5, 0.001))
    boxed.reset(seed=0, **start(real_frames))
    np.testing.assert_array_equal(boxed.step(np.array([0, 0, 1, 0], np.float32))[0], frame)

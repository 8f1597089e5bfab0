"""Pessimism about rewards, and episodes that end where the model is unsure."""

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from worldgym.agents.common.rollouts import imagine_rollouts
from worldgym.config import WorldModelConfig
from worldgym.errors import ConfigError, InvalidOption
from worldgym.reward_scale import RewardScale
from worldgym.tokenizer import build_tokenizer
from worldgym.transformer.transformer import Transformer
from worldgym.world_model import WorldModel

BINS = RewardScale.of(torch.tensor([0.0, 10.0]), "identity", 11).bins


def binned_model(config: WorldModelConfig, probabilities: dict[int, float]) -> WorldModel:
    """A model that predicts the same distribution of rewards at every step: bin -> probability."""
    torch.manual_seed(0)
    config = dataclasses.replace(config, reward_bins=BINS, reward_transform="identity")
    transformer = Transformer.build(config)
    weights = torch.full((11,), 1e-12)
    for index, probability in probabilities.items():
        weights[index] = probability
    transformer.heads["reward"].bias.data.copy_(weights.log())
    return WorldModel(config, build_tokenizer(config.tokenizer), transformer)


@pytest.fixture
def unsure(tiny_config: WorldModelConfig) -> WorldModel:
    """Rewards of 0 or 10: the mean is 5 and the standard deviation 5."""
    return binned_model(tiny_config, {0: 0.5, 10: 0.5})


def step(model: WorldModel, frames: NDArray[np.uint8], **arguments: Any) -> tuple[Any, ...]:
    env = gym.make("WorldModel-v0", checkpoint=model, **arguments)
    env.reset(seed=0, options={"frames": frames})
    return env.step(np.zeros(4, np.float32))


def test_pessimism_subtracts_the_spread(unsure: WorldModel, real_frames: NDArray[np.uint8]) -> None:
    _, reward, _, _, info = step(unsure, real_frames)
    assert reward == pytest.approx(5, abs=1e-4)
    assert info["reward_spread"] == pytest.approx(5, abs=1e-4)
    assert step(unsure, real_frames, pessimism=0.5)[1] == pytest.approx(2.5, abs=1e-4)
    envs: Any = gym.make_vec("WorldModel-v0", 2, checkpoint=unsure, pessimism=0.5)
    envs.reset(seed=0, options={"frames": real_frames})
    np.testing.assert_allclose(envs.step(np.zeros((2, 4), np.float32))[1], 2.5, atol=1e-4)


def test_rollouts_are_pessimistic(unsure: WorldModel, real_frames: NDArray[np.uint8]) -> None:
    history = torch.from_numpy(real_frames)[None]
    rollouts = imagine_rollouts(
        unsure, lambda frames: np.zeros((len(frames), 4), np.float32), history, 2, pessimism=1.0
    )
    np.testing.assert_allclose(rollouts.rewards, 0, atol=1e-3)


def test_a_sure_model_is_not_changed_by_pessimism(
    tiny_config: WorldModelConfig, real_frames: NDArray[np.uint8]
) -> None:
    assert step(binned_model(tiny_config, {7: 1.0}), real_frames, pessimism=2.0)[1] == pytest.approx(7, abs=1e-3)


def test_episodes_end_where_the_model_is_unsure(unsure: WorldModel, real_frames: NDArray[np.uint8]) -> None:
    uncertainty = step(unsure, real_frames)[4]["uncertainty"]
    assert step(unsure, real_frames, truncate_when_unsure=0.9 * uncertainty)[3]
    assert not step(unsure, real_frames, truncate_when_unsure=1.1 * uncertainty)[3]
    envs: Any = gym.make_vec("WorldModel-v0", 2, checkpoint=unsure, truncate_when_unsure=0.9 * uncertainty)
    envs.reset(seed=0, options={"frames": real_frames})
    assert envs.step(np.zeros((2, 4), np.float32))[3].all()


@pytest.mark.parametrize("arguments", [{"pessimism": -1.0}, {"pessimism": float("nan")}, {"truncate_when_unsure": 0.0}])
def test_other_numbers_are_refused(unsure: WorldModel, arguments: dict[str, float]) -> None:
    with pytest.raises(InvalidOption, match="pessimism of at least 0"):
        gym.make("WorldModel-v0", checkpoint=unsure, **arguments)


def test_a_model_without_bins_cannot_be_pessimistic(
    tiny_checkpoint: Any, tiny_config: WorldModelConfig, real_frames: NDArray[np.uint8]
) -> None:
    with pytest.raises(InvalidOption, match="reward_bins"):
        gym.make("WorldModel-v0", checkpoint=tiny_checkpoint, pessimism=1.0)
    model = WorldModel.from_pretrained(tiny_checkpoint)
    with pytest.raises(ConfigError, match="reward_bins"):
        imagine_rollouts(model, lambda frames: np.zeros((1, 4)), torch.from_numpy(real_frames)[None], 2, pessimism=1.0)

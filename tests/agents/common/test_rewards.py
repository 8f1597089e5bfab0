"""Rewards read off frames."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from worldgym.agents.common.rewards import RewardReader
from worldgym.errors import CheckpointError, ConfigError

SHAPE = (16, 24, 3)


def bright(seed: int, count: int = 32) -> tuple[Tensor, Tensor]:
    """Frames with a square somewhere, whose brightness is the reward: -1 to 1."""
    rng = np.random.default_rng(seed)
    frames, rewards = np.full((count, *SHAPE), 128, np.uint8), rng.uniform(-1, 1, count)
    for frame, reward in zip(frames, rewards, strict=True):
        top, left = rng.integers(12), rng.integers(20)
        frame[top : top + 4, left : left + 4] = round(128 + 120 * reward)
    return torch.from_numpy(frames), torch.from_numpy(rewards).float()


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_it_learns_what_frames_show(scale: float) -> None:
    reader = RewardReader(SHAPE)
    for seed in range(600):
        frames, rewards = bright(seed)
        reader.fit(frames, scale * rewards)
    frames, rewards = bright(1000, 200)
    error = (reader.read(frames) / scale - rewards).square().mean() / rewards.var()
    assert error < 0.2
    assert reader.fit(frames, scale * rewards) == pytest.approx(scale * float((error * rewards.var()).sqrt()), rel=1e-3)


def test_leading_dimensions_are_kept() -> None:
    reader, (frames, rewards) = RewardReader(SHAPE), bright(0, 12)
    reader.fit(frames, rewards)
    flat = reader.read(frames)
    assert flat.shape == (12,)
    assert flat.dtype == torch.float32
    torch.testing.assert_close(reader.read(frames.view(3, 4, *SHAPE)), flat.view(3, 4))


def test_what_is_read_stays_as_it_was_when_a_larger_reward_comes() -> None:
    reader, (frames, rewards) = RewardReader(SHAPE), bright(0)
    reader.fit(frames, rewards)
    before = reader.read(frames)
    reader._grow(torch.tensor(50.0))
    torch.testing.assert_close(reader.read(frames), before, rtol=1e-4, atol=1e-5)


def test_before_the_first_reward_it_reads_nothing() -> None:
    reader, (frames, _) = RewardReader(SHAPE), bright(0)
    assert not reader.read(frames).any()
    assert reader.fit(frames, torch.zeros(len(frames))) == 0
    assert not reader.read(frames).any()


def test_it_goes_on_exactly_from_its_state() -> None:
    one, other = RewardReader(SHAPE, seed=1), RewardReader(SHAPE, seed=2)
    for seed in range(3):
        one.fit(*bright(seed))
    other.load_state(one.state())
    for reader in (one, other):
        reader.fit(*bright(3))
    frames, _ = bright(4)
    assert torch.equal(one.read(frames), other.read(frames))
    assert torch.equal(RewardReader(SHAPE, seed=1).network[0].weight, RewardReader(SHAPE, seed=1).network[0].weight)


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.pop("scale"),
        lambda state: state.pop("weights.0.weight"),
        lambda state: state.update({"weights.0.weight": torch.zeros(2)}),
        lambda state: state.update({"other.0": torch.zeros(2)}),
    ],
)
def test_other_states_are_refused(damage: Callable[[dict[str, Tensor]], object]) -> None:
    reader = RewardReader(SHAPE)
    reader.fit(*bright(0))
    state = reader.state()
    damage(state)
    with pytest.raises(CheckpointError, match="not the state of a reader of rewards"):
        RewardReader(SHAPE).load_state(state)


def test_frames_of_other_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiples of 8 pixels, got 20 x 32"):
        RewardReader((20, 32, 3))

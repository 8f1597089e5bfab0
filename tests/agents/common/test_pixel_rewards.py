"""Rewards predicted from pixels."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch
from torch import Tensor

from worldgym.agents.common.pixel_rewards import PixelRewardModel
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
def test_learns_rewards_that_frames_show(scale: float) -> None:
    model = PixelRewardModel(SHAPE)
    for seed in range(600):
        frames, rewards = bright(seed)
        model.fit(frames, scale * rewards)
    frames, rewards = bright(1000, 200)
    error = (model.predict(frames) / scale - rewards).square().mean() / rewards.var()
    assert error < 0.2
    assert model.fit(frames, scale * rewards) == pytest.approx(scale * float((error * rewards.var()).sqrt()), rel=1e-3)


def test_leading_dimensions_are_kept() -> None:
    model, (frames, rewards) = PixelRewardModel(SHAPE), bright(0, 12)
    model.fit(frames, rewards)
    flat = model.predict(frames)
    assert flat.shape == (12,)
    assert flat.dtype == torch.float32
    torch.testing.assert_close(model.predict(frames.view(3, 4, *SHAPE)), flat.view(3, 4))


def test_predictions_do_not_change_when_the_scale_grows() -> None:
    model, (frames, rewards) = PixelRewardModel(SHAPE), bright(0)
    model.fit(frames, rewards)
    before = model.predict(frames)
    model._enlarge_scale(torch.tensor(50.0))
    torch.testing.assert_close(model.predict(frames), before, rtol=1e-4, atol=1e-5)


def test_predicts_zero_before_the_first_reward() -> None:
    model, (frames, _) = PixelRewardModel(SHAPE), bright(0)
    assert not model.predict(frames).any()
    assert model.fit(frames, torch.zeros(len(frames))) == 0
    assert not model.predict(frames).any()


def test_continues_exactly_from_its_state() -> None:
    one, other = PixelRewardModel(SHAPE, seed=1), PixelRewardModel(SHAPE, seed=2)
    for seed in range(3):
        one.fit(*bright(seed))
    other.load_state_dict(one.state_dict())
    for model in (one, other):
        model.fit(*bright(3))
    frames, _ = bright(4)
    assert torch.equal(one.predict(frames), other.predict(frames))
    assert torch.equal(
        PixelRewardModel(SHAPE, seed=1).network[0].weight, PixelRewardModel(SHAPE, seed=1).network[0].weight
    )


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
    model = PixelRewardModel(SHAPE)
    model.fit(*bright(0))
    state = model.state_dict()
    damage(state)
    with pytest.raises(CheckpointError, match="expected the state of this pixel reward model"):
        PixelRewardModel(SHAPE).load_state_dict(state)


def test_frames_of_other_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiples of 8 pixels, got 20 x 32"):
        PixelRewardModel((20, 32, 3))


def test_results_do_not_depend_on_the_callers_pytorch_settings(
    caller_settings: Callable[[], AbstractContextManager[None]],
) -> None:
    batches = [bright(seed) for seed in range(3)]

    def train() -> tuple[list[float], dict[str, Tensor]]:
        model = PixelRewardModel(SHAPE)
        errors = [model.fit(*batch) for batch in batches]
        return errors, model.state_dict() | {"predictions": model.predict(batches[0][0])}

    expected_errors, expected = train()
    with caller_settings():
        errors, found = train()
    assert errors == expected_errors
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)

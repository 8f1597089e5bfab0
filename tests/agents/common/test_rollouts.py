"""Rollouts of a policy in a world model."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from worldgym.agents.common.pixel_rewards import PixelRewardModel
from worldgym.agents.common.replay import ReplayBuffer
from worldgym.agents.common.rewards import ClippedRewards, HeadRewards, PixelRewards
from worldgym.agents.common.rollouts import imagine_rollouts
from worldgym.agents.common.transitions import Starts
from worldgym.world_model import WorldModel


@pytest.fixture(scope="module")
def stacks() -> torch.Tensor:
    """Where rollouts begin, uint8 ``[6, 3, 32, 32, 3]``."""
    blocks = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 4, 3), np.uint8)
    return torch.from_numpy(blocks.repeat(8, axis=2).repeat(8, axis=3))


def policy(seen: torch.Tensor) -> NDArray[np.float32]:
    """Any function of all that is seen."""
    means = seen.float().mean(dim=(1, 2, 3, 4)) / 255
    return torch.stack([means, 1 - means], dim=1).numpy()


def test_rollouts_equal_the_world_models_own(
    random_world_model: Callable[[], WorldModel], stacks: torch.Tensor
) -> None:
    world_model = random_world_model()
    made = imagine_rollouts(world_model, policy, stacks, 5)
    assert made.frames.shape == (6, 3 + 5, 32, 32, 3)
    assert np.array_equal(made.frames[:, :3], stacks.numpy())
    assert (made.lengths == 5).all()
    same = world_model.rollout(stacks[:, -2:], made.actions, top_k=1)
    assert np.array_equal(made.frames[:, 3:], same.frames.numpy())
    assert np.allclose(made.rewards, same.rewards.numpy(), atol=1e-6)
    assert np.allclose(made.uncertainty, same.uncertainty.numpy(), atol=1e-6)
    seen = torch.from_numpy(made.frames)
    for step in range(5):
        assert np.allclose(made.actions[:, step], policy(seen[:, step : step + 3]), atol=1e-6)


def test_rollouts_continue_what_is_known(random_world_model: Callable[[], WorldModel], stacks: torch.Tensor) -> None:
    world_model, rng = random_world_model(), np.random.default_rng(1)
    frames = torch.cat([stacks, stacks.flip(0)], dim=1)[:, :5].numpy()
    past = Starts(frames, rng.uniform(-1, 1, (6, 3, 2)).astype(np.float32), np.array([0, 3, 1, 3, 0, 1]))
    made = imagine_rollouts(world_model, policy, stacks, 4, past=past)
    for row, known in enumerate(past.known):
        actions = past.actions[row : row + 1, 3 - known :]
        state = world_model.start(frames[row : row + 1, 3 - known :], actions if known else None)
        for step in range(4):
            state, frame, reward = world_model.step(state, made.actions[row : row + 1, step], top_k=1)
            assert np.array_equal(made.frames[row, 3 + step], frame[0].numpy())
            assert np.isclose(made.rewards[row, step], float(reward), atol=1e-6)
    alone = imagine_rollouts(world_model, policy, stacks, 4, past=past._replace(known=np.zeros(6, np.int64)))
    assert not np.array_equal(made.frames[1], alone.frames[1])  # what is known matters


def test_rollouts_end_before_uncertain_frames(
    random_world_model: Callable[[], WorldModel], stacks: torch.Tensor
) -> None:
    world_model = random_world_model()
    full = imagine_rollouts(world_model, policy, stacks, 5)
    unsure = full.uncertainty
    limit = float(np.median(unsure[:, 2:]))
    made = imagine_rollouts(world_model, policy, stacks, 5, max_uncertainty=limit)
    first = np.where((unsure > limit).any(1), (unsure > limit).argmax(1), 5)
    assert np.array_equal(made.lengths, first)
    assert len(set(first)) > 1
    replay = ReplayBuffer((32, 32, 3), 2, 100)
    made.store(replay, made_at=1)
    assert len(replay) == first.sum()
    for row, length in enumerate(first):
        assert np.array_equal(made.frames[row, : 3 + length], full.frames[row, : 3 + length])
        assert np.array_equal(made.actions[row, :length], full.actions[row, :length])
        assert np.allclose(made.rewards[row, :length], full.rewards[row, :length], atol=1e-6)
        assert (made.uncertainty[row] <= limit).all()
    nothing = imagine_rollouts(world_model, policy, stacks, 5, max_uncertainty=1e-9)
    nothing.store(replay, made_at=2)
    assert not nothing.lengths.any()
    assert len(replay) == first.sum()


def test_clipped_rewards(random_world_model: Callable[[], WorldModel], stacks: torch.Tensor) -> None:
    world_model = random_world_model()
    full = imagine_rollouts(world_model, policy, stacks, 5).rewards
    low, high = np.quantile(full, [0.3, 0.7]).tolist()
    made = imagine_rollouts(world_model, policy, stacks, 5, rewards=ClippedRewards(HeadRewards(), low, high))
    assert np.array_equal(made.rewards, full.clip(np.float32(low), np.float32(high)))


def test_pixel_rewards(random_world_model: Callable[[], WorldModel], stacks: torch.Tensor) -> None:
    model = PixelRewardModel((32, 32, 3))
    model.fit(stacks[:, 0], torch.arange(6.0))
    made = imagine_rollouts(random_world_model(), policy, stacks, 5, rewards=PixelRewards(model))
    expected = model.predict(torch.from_numpy(made.frames[:, 3:])).numpy()
    assert made.rewards.std() > 0
    assert np.allclose(made.rewards, expected, atol=1e-6)


def test_rollouts_do_not_depend_on_the_callers_pytorch_settings(
    random_world_model: Callable[[], WorldModel],
    stacks: torch.Tensor,
    caller_settings: Callable[[], AbstractContextManager[None]],
) -> None:
    model = random_world_model()
    expected = imagine_rollouts(model, policy, stacks, 5)
    with caller_settings():
        found = imagine_rollouts(model, policy, stacks, 5)
    for name, value in vars(expected).items():
        assert getattr(found, name).dtype == value.dtype
        np.testing.assert_array_equal(getattr(found, name), value)

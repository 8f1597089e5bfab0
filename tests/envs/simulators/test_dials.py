"""The eight bars: what a picture tells of them, how they move, what they earn."""

import numpy as np
import pytest

from worldgym.envs.collect import record
from worldgym.envs.simulators.dials import BARS, CELLS, EMPTY_COLOUR, FULL_COLOUR, HEIGHT, LEVELS, SimulatorDials
from worldgym.envs.simulators.toy_world import EPISODE_STEPS


@pytest.fixture
def env() -> SimulatorDials:
    return SimulatorDials()


def seen(frame: np.ndarray) -> np.ndarray:
    """The bars' heights in pixels, from the picture alone."""
    red = frame[:, :, 0].astype(float)
    cells = red.reshape(4, 8, 4, 8).swapaxes(1, 2).reshape(16, 8, 8)[CELLS, :7, 1:7]
    return ((cells - EMPTY_COLOUR[0]) / (FULL_COLOUR[0] - EMPTY_COLOUR[0])).mean(axis=2).sum(axis=1)


def test_a_picture_tells_how_high_all_bars_stand(env: SimulatorDials) -> None:
    for seed in range(50):
        frame, info = env.reset(seed=seed)
        np.testing.assert_allclose(seen(frame), info["state"], atol=0.01)
    assert len(set(CELLS.tolist())) == BARS


def test_an_action_moves_its_own_bar_between_empty_and_full(env: SimulatorDials) -> None:
    _, info = env.reset(seed=1)
    heights = info["state"]
    signs = np.resize([1, -1], BARS)
    for action in [*np.random.default_rng(0).uniform(-1, 1, (20, BARS)).astype(np.float32), *[signs] * 8]:
        *_, info = env.step(action)
        heights = np.clip(heights + action, 0, HEIGHT)
        np.testing.assert_array_equal(info["state"], heights)
    np.testing.assert_array_equal(heights, np.where(signs > 0, HEIGHT, 0))


def test_reward_and_success_are_functions_of_the_heights(env: SimulatorDials) -> None:
    env.reset(seed=0)
    successes = []
    for seed in range(20):
        env.reset(seed=seed)
        rng = np.random.default_rng(seed)
        for _ in range(EPISODE_STEPS):
            _, reward, *_, info = env.step(env.expert_action() + 0.4 * rng.normal(size=BARS))
            away = np.abs(info["state"] - LEVELS)
            assert type(reward) is float
            assert reward == pytest.approx(np.mean(1 / (1 + away**2)))
            assert info["success"] == (away <= 0.75).all()
            successes.append(info["success"])
    assert 20 < sum(successes) < 480


def test_random_actions_earn_a_third_of_what_the_expert_earns() -> None:
    returns = {
        behaviour: np.mean([record(SimulatorDials(), behaviour, seed).rewards.sum() for seed in range(20)])
        for behaviour in ("random", "expert")
    }
    assert returns["random"] < 9 < 24 < returns["expert"]

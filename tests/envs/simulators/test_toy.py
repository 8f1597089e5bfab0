"""The two squares: what a picture tells of them, how they move, what they earn."""

from typing import Any

import numpy as np
import pytest
import torch

from worldgym.config import CompactTokenizerConfig, TransformerConfig, WorldModelConfig
from worldgym.envs.behaviours import BEHAVIOURS
from worldgym.envs.collect import record
from worldgym.envs.simulators.toy import AGENT_COLOUR, FLOOR_COLOUR, GOAL_COLOUR, SPEC, SimulatorToy
from worldgym.tokenizer import build_tokenizer
from worldgym.transformer.transformer import Transformer
from worldgym.world_model import WorldModel


@pytest.fixture
def env() -> SimulatorToy:
    return SimulatorToy()


def actions(steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, 2)).astype(np.float32)


def places(info: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return info["state"][:2], info["state"][2:]


def seen(frame: np.ndarray, colour: tuple[int, int, int], channel: int) -> np.ndarray:
    """x and y of the square of this colour, from the picture alone; nothing else may be brighter than the floor."""
    floor = FLOOR_COLOUR[channel]
    share = (frame[:, :, channel].astype(float) - floor).clip(0) / (colour[channel] - floor)
    centres = np.arange(32) + 0.5
    return np.array([share.sum(0) @ centres, share.sum(1) @ centres]) / share.sum()


def test_a_picture_tells_where_both_squares_are(env: SimulatorToy) -> None:
    for seed in range(50):  # an episode starts with the squares apart
        frame, info = env.reset(seed=seed)
        agent, goal = places(info)
        np.testing.assert_allclose(seen(frame, AGENT_COLOUR, channel=0), agent, atol=0.05)
        np.testing.assert_allclose(seen(frame, GOAL_COLOUR, channel=2), goal, atol=0.05)


def test_actions_move_the_agent_and_walls_stop_it(env: SimulatorToy) -> None:
    _, info = env.reset(seed=1)
    agent, goal = places(info)
    for action in np.concatenate([actions(20), [[1, 0]] * 16, [[0, -1]] * 16]):
        *_, info = env.step(action)
        agent = np.clip(agent + 2 * action.astype(np.float32), 4.5, 27.5)
        np.testing.assert_array_equal(places(info)[0], agent)
        np.testing.assert_array_equal(places(info)[1], goal)
    np.testing.assert_array_equal(agent, [27.5, 4.5])
    np.testing.assert_array_equal(env.step(np.zeros(2))[0][[1, 2], [29, 30]], [[80] * 3] * 2)  # wall, not agent


def test_reward_and_success_are_functions_of_the_places(env: SimulatorToy) -> None:
    successes = []
    for seed in range(20):
        _, info = env.reset(seed=seed)
        agent, goal = places(info)
        assert np.linalg.norm(agent - goal) >= 10
        assert info["success"] is False
        for _ in range(25):
            noise = np.random.default_rng(seed).normal(size=2)
            _, reward, *_, info = env.step(env.expert_action() + noise)
            agent, goal = places(info)
            assert type(reward) is float
            assert reward == pytest.approx(1 / (1 + np.sum((agent - goal) ** 2) / 25))
            assert info["success"] == (np.abs(agent - goal) <= 2).all()
            successes.append(info["success"])
    assert 20 < sum(successes) < 480


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_who_aims_at_the_goal_reaches_it(behaviour: str) -> None:
    assert record(SimulatorToy(), behaviour, 3).successes.any() == (behaviour in ("expert", "noisy", "clumsy"))


def test_straying_comes_near_without_staying() -> None:
    returns = {
        behaviour: np.mean([record(SimulatorToy(), behaviour, seed).rewards.sum() for seed in range(20)])
        for behaviour in ("random", "straying", "expert")
    }
    assert 1.5 * returns["random"] < returns["straying"] < 0.75 * returns["expert"]


@pytest.mark.parametrize("frame_grid", [1, 2, 4])
def test_a_small_world_model_fits_its_frames(env: SimulatorToy, frame_grid: int) -> None:
    tokenizer = CompactTokenizerConfig(
        resolution=32, width=8, depth=1, context_grid=4, frame_grid=frame_grid, context_codes=16, dynamics_codes=16
    )
    transformer = TransformerConfig(1, 2, 1, 16, 32, max_positions=tokenizer.layout.length(3))
    config = WorldModelConfig(tokenizer, transformer, action_dim=2, reward=True)
    torch.manual_seed(0)
    parts = build_tokenizer(tokenizer), Transformer(transformer, config.layout, 2, reward=True)
    frames = np.stack([env.reset(seed=0)[0], env.step(actions(1)[0])[0]])[None]
    imagined = WorldModel(config, *parts).rollout(frames, actions(3)[None])
    assert imagined.frames.shape == (1, 3, 32, 32, 3)
    assert imagined.tokens.shape == (1, 3, frame_grid**2)
    # Untrained, the decoder repeats the newest frame (up to rounding) where it does not paint.
    assert np.abs(imagined.frames[0, 0].numpy().astype(int) - frames[0, 1]).max() < 30


def test_directions_are_those_of_the_picture() -> None:
    env = SimulatorToy()
    env.reset(seed=0, options={"state": [10, 10, 25, 25]})
    for direction, expected in zip(SPEC.directions, ([12, 10], [12, 8]), strict=True):
        env.step(np.array(direction, np.float32))
        np.testing.assert_allclose(env.state[:2], expected)  # x to the right, y downwards

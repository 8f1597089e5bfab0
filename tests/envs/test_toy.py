"""The toy world: exact dynamics, pictures that tell all of it, seeds, rewards and errors."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib as mpl
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence

from worldgym.config import CompactTokenizerConfig, TransformerConfig, WorldModelConfig
from worldgym.data.recordings import Recordings
from worldgym.envs.collect import BEHAVIOURS, collect, record
from worldgym.envs.toy import AGENT_COLOUR, EPISODE_STEPS, FLOOR_COLOUR, GOAL_COLOUR, SPEED, SimulatorToy
from worldgym.errors import InvalidAction, InvalidOption, ResetNeeded
from worldgym.tokenizer import build_tokenizer
from worldgym.transformer.llama import Transformer
from worldgym.world_model import WorldModel

ID = "Simulator-Toy-v0"


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


def test_gymnasium_finds_nothing_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.pyplot.pause", lambda seconds: None)
    before = mpl.get_backend()
    mpl.use("template")  # a backend with windows in name only, for render_mode="human"
    check_env(gym.make(ID, render_mode="rgb_array").unwrapped)
    mpl.use(before)


def test_spaces_and_length() -> None:
    env = gym.make(ID)
    assert env.observation_space == gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    assert env.spec.max_episode_steps == EPISODE_STEPS == 25
    env.reset(seed=0)
    ends = [env.step(action)[2:4] for action in actions(25)]
    assert ends == [(False, False)] * 24 + [(False, True)]


def test_equal_seeds_give_equal_episodes_whatever_came_before(env: SimulatorToy) -> None:
    def episode(env: SimulatorToy, seed: int | None) -> list[Any]:
        return [env.reset(seed=seed), *(env.step(action) for action in actions(5))]

    once, then = episode(env, 5), episode(env, None)
    episode(env, 6)
    assert data_equivalence(episode(SimulatorToy(), 5), once, exact=True)
    assert data_equivalence(episode(env, 5), once, exact=True)
    assert data_equivalence(episode(env, None), then, exact=True)
    assert not data_equivalence(once[0], then[0])


def test_a_picture_tells_where_both_squares_are(env: SimulatorToy) -> None:
    for seed in range(50):  # an episode starts with the squares apart
        frame, info = env.reset(seed=seed)
        agent, goal = places(info)
        np.testing.assert_allclose(seen(frame, AGENT_COLOUR, channel=0), agent, atol=0.05)
        np.testing.assert_allclose(seen(frame, GOAL_COLOUR, channel=2), goal, atol=0.05)


def test_a_fiftieth_of_a_pixel_shows_everywhere(env: SimulatorToy) -> None:
    env.reset(seed=0)
    for _ in range(EPISODE_STEPS):
        frame, *_ = env.step(env.expert_action())
        moved, *_ = env.step(np.full(2, 0.02 / SPEED))
        assert (moved != frame).any()


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
        for _ in range(EPISODE_STEPS):
            noise = np.random.default_rng(seed).normal(size=2)
            _, reward, *_, info = env.step(env.expert_action() + noise)
            agent, goal = places(info)
            assert type(reward) is float
            assert reward == pytest.approx(1 / (1 + np.sum((agent - goal) ** 2) / 25))
            assert info["success"] == (np.abs(agent - goal) <= 2).all()
            successes.append(info["success"])
    assert 20 < sum(successes) < 480


def test_the_expert_arrives_and_nobody_earns_more(env: SimulatorToy) -> None:
    def earned(seed: int, noise: np.ndarray) -> tuple[float, bool]:
        env.reset(seed=seed)
        steps = [env.step(env.expert_action() + part) for part in noise]
        return sum(step[1] for step in steps), steps[-1][-1]["success"]

    for seed in range(20):
        best, arrived = earned(seed, np.zeros((EPISODE_STEPS, 2)))
        assert arrived
        assert 15 < best < EPISODE_STEPS
        noises = [scale * np.random.default_rng(seed).normal(size=(EPISODE_STEPS, 2)) for scale in (0.01, 0.3, 10)]
        assert all(earned(seed, noise)[0] < best for noise in noises)


def test_render(env: SimulatorToy) -> None:
    with pytest.raises(ResetNeeded):
        env.render()
    assert (env.reset(seed=0)[0] != 0).any()
    assert env.render() is None
    env = SimulatorToy("rgb_array")
    frame, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), frame)
    frame[:] = 0
    assert env.render().any()


@pytest.mark.parametrize("bad", [np.zeros(3), np.array([0, np.nan]), np.array([np.inf, 0]), "up", None])
def test_bad_actions_are_refused_and_move_nothing(env: SimulatorToy, bad: Any) -> None:
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="expected"):
        env.step(bad)
    after = env.step(actions(1)[0])
    env.reset(seed=0)
    assert data_equivalence(env.step(actions(1)[0]), after, exact=True)


def test_actions_beyond_the_space_are_clipped(env: SimulatorToy) -> None:
    env.reset(seed=0)
    one = env.step(np.array([7, -7], np.float32))
    env.reset(seed=0)
    assert data_equivalence(one, env.step(np.array([1, -1], np.float32)), exact=True)


def test_an_episode_goes_on_from_the_state_of_another(env: SimulatorToy) -> None:
    env.reset(seed=3)
    for action in actions(7):
        frame, *_, info = env.step(action)
    other = SimulatorToy()
    again, told = other.reset(options={"state": info["state"]})
    assert data_equivalence((again, told), (frame, info), exact=True)
    for action in actions(5, seed=1):
        assert data_equivalence(other.step(action), env.step(action), exact=True)


@pytest.mark.parametrize("state", [[16, 16, 16], [1, 16, 16, 16], [16, 16, 16, 31], [np.nan, 16, 16, 16], None, "here"])
def test_a_state_that_no_episode_can_be_in_is_refused(env: SimulatorToy, state: Any) -> None:
    before = env.reset(seed=0)[0]
    with pytest.raises(InvalidOption, match="inside the walls"):
        env.reset(options={"state": state})
    env.render_mode = "rgb_array"
    assert np.array_equal(env.render(), before)


def test_calls_out_of_order_and_bad_options(env: SimulatorToy) -> None:
    calls = (lambda: env.step(np.zeros(2, np.float32)), env.expert_action)
    for call in calls:
        with pytest.raises(ResetNeeded, match=r"reset\(\)"):
            call()
    with pytest.raises(InvalidOption, match="frames"):
        env.reset(options={"frames": 1})
    with pytest.raises(InvalidOption, match="'ansi'"):
        SimulatorToy("ansi")
    env.reset(seed=0)
    env.close()
    for call in calls:
        with pytest.raises(ResetNeeded, match=r"reset\(\)"):
            call()


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_every_behaviour_can_be_recorded(behaviour: str) -> None:
    once, other, again = (record(SimulatorToy(), behaviour, seed) for seed in (3, 4, 3))
    for name in ("frames", "actions", "rewards", "successes"):
        np.testing.assert_array_equal(getattr(once, name), getattr(again, name))
    assert not np.array_equal(once.actions, other.actions)
    assert (once.frames.shape, once.actions.shape) == ((26, 32, 32, 3), (25, 2))
    assert (once.info.environment, once.info.task, once.info.frame_skip) == (ID, "toy", 1)
    assert once.successes.any() == (behaviour in ("expert", "noisy"))


def test_straying_comes_near_without_staying() -> None:
    returns = {
        behaviour: np.mean([record(SimulatorToy(), behaviour, seed).rewards.sum() for seed in range(20)])
        for behaviour in ("random", "straying", "expert")
    }
    assert 1.5 * returns["random"] < returns["straying"] < 0.75 * returns["expert"]


def test_collecting(tmp_path: Path) -> None:
    paths = collect(tmp_path, ["toy"], {"expert": 1}, workers=1)
    assert paths == [tmp_path / "toy" / "expert-00000000.safetensors"]
    recordings = Recordings(tmp_path)
    assert (recordings.frame_shape, recordings.action_dim, recordings.tasks) == ((32, 32, 3), 2, ("toy",))
    np.testing.assert_array_equal(recordings.episodes[0].frames(), record(SimulatorToy(), "expert", 0).frames)


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

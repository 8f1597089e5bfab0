import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from worldgym.envs.behaviours import BEHAVIOURS
from worldgym.errors import ConfigError
from worldgym.reports.returns import Comparison, compare_returns, imagined_play, play, replay, returns_table

SEEDS = (5, 6, 7)
STEPS = 50
WINDOW = 5  # imagined frames in the model's window


def expert(env: Any, seed: int) -> Any:
    return BEHAVIOURS["expert"](env, np.random.default_rng(seed))


def learned(toy_checkpoint: Path, slots: int) -> gym.vector.VectorEnv[Any, Any, Any]:
    return gym.make_vec("WorldModel-v0", slots, checkpoint=str(toy_checkpoint), task="toy", max_episode_steps=-1)


def test_returns_of_the_simulator_are_those_of_its_episodes() -> None:
    simulator = gym.make("Simulator-Toy-v0")
    found = play(simulator, SEEDS, expert)
    steps = found.actions.shape[1]
    for seed, actions, total in zip(SEEDS, found.actions, found.returns, strict=True):
        simulator.reset(seed=seed)
        rewards, ends = zip(*[simulator.step(action)[1:4:2] for action in actions], strict=True)
        assert total == pytest.approx(sum(rewards))
        assert ends == (False,) * (steps - 1) + (True,)


def test_imagined_returns_are_those_of_the_recorded_actions(toy_checkpoint: Path) -> None:
    simulator = gym.make("Simulator-Toy-v0")
    frames = np.stack([simulator.reset(seed=seed)[0] for seed in SEEDS])
    actions = np.random.default_rng(0).uniform(-1, 1, (len(SEEDS), STEPS, 2)).astype(np.float32)
    envs = learned(toy_checkpoint, len(SEEDS))
    found = replay(envs, frames, actions)

    envs.reset(seed=0, options={"frames": np.repeat(frames[:, None], 2, axis=1)})
    expected = sum(envs.step(actions[:, step])[1] for step in range(STEPS))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert len(set(found)) == len(SEEDS)


def test_both_worlds_are_compared_over_whole_episodes(toy_checkpoint: Path) -> None:
    simulator = gym.make("Simulator-Toy-v0")
    found = compare_returns(learned(toy_checkpoint, len(SEEDS)), simulator, SEEDS, expert)
    np.testing.assert_allclose(found.real, play(simulator, SEEDS, expert).returns)
    assert found.imagined.shape == (len(SEEDS),)
    with pytest.raises(ConfigError, match="as many slots as seeds, got 2 slots and 3 seeds"):
        compare_returns(learned(toy_checkpoint, 2), simulator, SEEDS, expert)


def test_a_policy_that_sees_imagined_frames_is_judged_by_the_simulator(toy_checkpoint: Path) -> None:
    seen, taken = {seed: list[np.ndarray]() for seed in SEEDS}, {seed: list[np.ndarray]() for seed in SEEDS}

    def towards_the_brightest(slot: Any, seed: int) -> Any:
        def act() -> np.ndarray:
            row, column = np.unravel_index(slot.frame.sum(-1).argmax(), slot.frame.shape[:2])
            seen[seed].append(slot.frame)
            taken[seed].append(np.array([column - 16, row - 16], np.float32) / 16)
            return taken[seed][-1]

        return act

    simulator, envs = gym.make("Simulator-Toy-v0"), learned(toy_checkpoint, len(SEEDS))
    found = imagined_play(envs, simulator, SEEDS, towards_the_brightest, 10)
    first = np.stack([simulator.reset(seed=seed)[0] for seed in SEEDS])
    np.testing.assert_array_equal([seen[seed][0] for seed in SEEDS], first)
    actions = np.stack([taken[seed] for seed in SEEDS])
    np.testing.assert_allclose(found.imagined, replay(envs, first, actions), rtol=1e-6)
    for seed, chosen, total in zip(SEEDS, actions, found.real, strict=True):
        simulator.reset(seed=seed)
        assert total == pytest.approx(sum(float(simulator.step(action)[1]) for action in chosen))
    envs.reset(seed=0, options={"frames": np.repeat(first[:, None], 2, axis=1)})
    frames, *_ = envs.step(actions[:, 0])
    np.testing.assert_array_equal([seen[seed][1] for seed in SEEDS], frames)
    with pytest.raises(ConfigError, match="as many slots as seeds"):
        imagined_play(envs, simulator, SEEDS[:2], towards_the_brightest, 10)


def test_figures_of_returns() -> None:
    figures = Comparison(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0])).figures()
    assert figures == pytest.approx({"episodes": 3, "imagined": 4, "real": 2, "ratio": 2, "correlation": 1})
    constant = Comparison(np.array([2.0, 4.0]), np.array([0.0, 0.0])).figures()
    assert math.isnan(constant["ratio"])
    assert math.isnan(constant["correlation"])
    shown = returns_table({"push": {"random": figures, "expert": constant}})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines()]
    assert rows[-2] == ["push", "random", "3", "4", "2", "2.00", "1.00"]
    assert rows[-1] == ["push", "expert", "2", "3", "0", "-", "-"]

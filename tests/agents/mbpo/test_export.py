"""The world model of a run as a checkpoint for ``gym.make``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import worldgym  # noqa: F401  (registers the ids)
from worldgym.agents.common.random_streams import RandomStreams
from worldgym.agents.drqv2 import DrQv2
from worldgym.agents.mbpo import MBPO, MBPOConfig
from worldgym.agents.mbpo.export import FIRST_SEED, RESETS
from worldgym.agents.mbpo.run import train
from worldgym.data.start_states import StartStates
from worldgym.envs.collect import record
from worldgym.envs.simulators.toy import SimulatorToy
from worldgym.world_model import WorldModel

STEPS = 11  # of an episode


@pytest.fixture
def finish(
    make_agent: Callable[..., DrQv2],
    random_world_model: Callable[[], WorldModel],
    settings: Callable[..., MBPOConfig],
    tmp_path: Path,
) -> Callable[..., Path]:
    """Runs MBPO in episodes of :data:`STEPS` steps; returns the folder of its world model."""

    def run(demonstrations: Any = (), **changes: Any) -> Path:
        envs = [gym.make("Simulator-Toy-v0", max_episode_steps=STEPS) for _ in range(2)]
        config = settings(**changes, warmup_agent_updates=0, evaluation_episodes=1)
        assert train(MBPO(envs[0], random_world_model(), make_agent(), config, demonstrations), envs[1], tmp_path)
        return tmp_path / "world_model"

    return run


@pytest.mark.parametrize("changes", [{"steps": 3 * STEPS - 2}, {"steps": STEPS - 1, "seed_steps": 8}])
def test_gym_make_runs_the_world_model_of_a_run(changes: dict[str, int], finish: Callable[..., Path]) -> None:
    folder = finish(**changes)
    env = gym.make("WorldModel-v0", checkpoint=str(folder))
    frame, info = env.reset(seed=0)
    assert info["task"] == "toy"
    first = [SimulatorToy().reset(seed=FIRST_SEED + index)[0] for index in range(RESETS)]
    assert any(np.array_equal(frame, each) for each in first)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(STEPS)]
    assert ends == [(False, False)] * (STEPS - 1) + [(False, True)]
    env.close()
    config = WorldModel.from_pretrained(folder).config
    assert (config.tasks, config.frame_skip, config.max_episode_steps) == (("toy",), 1, STEPS)
    assert (folder / "start_states").exists() == (changes["steps"] > STEPS)


def test_start_states_are_real_episodes(finish: Callable[..., Path]) -> None:
    starts = StartStates(finish(steps=3 * STEPS - 2) / "start_states")
    assert starts.tasks == ("toy",)
    assert starts.count("toy") == 2  # the third episode is not complete
    first = starts.get("toy", 0, context_length=2)
    assert (len(first.future_frames), first.first_frame) == (STEPS - 1, 0)
    frame, _ = SimulatorToy().reset(seed=RandomStreams(seed=0).episode_seed(0))
    assert np.array_equal(first.frames[0], frame)


def test_demonstrations_can_be_start_states(finish: Callable[..., Path]) -> None:
    demonstration = record(SimulatorToy(), "expert", 3)
    folder = finish([demonstration], steps=8, seed_steps=5)
    start = StartStates(folder / "start_states").get("toy", 1, context_length=2)
    assert start.first_frame == 20
    assert np.array_equal(start.frames, demonstration.frames[20:22])

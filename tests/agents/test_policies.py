"""Agents and functions as behaviours of recordings."""

import importlib
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from worldgym.agents.drqv2 import DrQv2
from worldgym.agents.policies import find_policy
from worldgym.agents.sb3 import make_vec_env
from worldgym.cli import main
from worldgym.data.recordings import Recordings
from worldgym.envs.collect import record
from worldgym.envs.simulators.gymnasium import GymnasiumEnv
from worldgym.envs.simulators.toy import SimulatorToy
from worldgym.errors import CheckpointError, ConfigError, InvalidOption


def test_an_object_of_a_class_gets_every_frame_of_its_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    env, policy = GymnasiumEnv("CartPole-v1"), find_policy("cartpole_by_eye:Balance")
    episode, again = (record(env, "policy", 0, policy=policy) for _ in range(2))
    env.close()
    balance = importlib.import_module("cartpole_by_eye").Balance()
    chosen = [balance(frame) for frame in episode.frames[:-1]]
    np.testing.assert_array_equal(episode.actions, np.eye(2)[chosen])
    np.testing.assert_array_equal(again.actions, episode.actions)  # what an object remembers ends with its episode
    assert len(chosen) > 40
    assert 0 < sum(chosen) < len(chosen)


def test_an_agent_acts_on_its_own_stack(tmp_path: Path) -> None:
    agent = DrQv2((32, 32, 3), 3, 2)
    agent.save(tmp_path / "agent.safetensors")
    episode = record(SimulatorToy(), "policy", 1, policy=find_policy(str(tmp_path / "agent.safetensors")))
    stack = np.stack([episode.frames[0], episode.frames[0], episode.frames[1]])
    np.testing.assert_allclose(episode.actions[1], agent.act(stack, explore=False), atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_sb3_agent_acts(tmp_path: Path) -> None:
    envs = make_vec_env("Simulator-Toy-v0", seed=0)
    PPO("MlpPolicy", envs, n_steps=8, batch_size=8).save(tmp_path / "ppo.zip")
    policy = find_policy(str(tmp_path / "ppo.zip"))
    episode, state = record(SimulatorToy(), "policy", 1, policy=policy), torch.get_rng_state()
    assert len(episode) == 25
    record(SimulatorToy(), "policy", 2, policy=policy)
    assert torch.equal(torch.get_rng_state(), state)
    again = record(SimulatorToy(), "policy", 1, policy=policy)  # it samples, but equal seeds record equal episodes
    np.testing.assert_array_equal(again.actions, episode.actions)


def test_an_agent_of_another_environment_is_refused(tmp_path: Path) -> None:
    DrQv2((32, 32, 3), 3, 5).save(tmp_path / "agent.safetensors")
    with pytest.raises(ConfigError, match=r"takes frames .* and 5 actions"):
        record(SimulatorToy(), "policy", 0, policy=find_policy(str(tmp_path / "agent.safetensors")))
    DrQv2((64, 64, 3), 3, 1).save(tmp_path / "one.safetensors")
    env, policy = GymnasiumEnv("Pendulum-v1"), find_policy(str(tmp_path / "one.safetensors"))
    with pytest.raises(ConfigError, match=r"1 actions in \[-1, 1\].*Box\(-2.0, 2.0"):
        record(env, "policy", 0, policy=policy)
    env.close()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("missing.zip", CheckpointError, "found none"),
        ("nothing", InvalidOption, "expected a behaviour"),
        ("no_such_module:act", InvalidOption, "can be imported"),
        ("math:no_such_function", InvalidOption, "can be imported"),
    ],
)
def test_what_is_no_policy_is_refused(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        find_policy(text)


def test_a_damaged_sb3_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ppo.zip").write_bytes(b"no zip")
    with pytest.raises(CheckpointError, match="could not be loaded"):
        record(SimulatorToy(), "policy", 0, policy=find_policy(str(tmp_path / "ppo.zip")))


def test_collecting_with_an_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DrQv2((32, 32, 3), 3, 2).save(tmp_path / "agent.safetensors")
    command = ["collect", "--out", str(tmp_path / "data"), "--tasks", "toy", "--workers", "1"]
    assert main([*command, "--policy", str(tmp_path / "agent.safetensors"), "--episodes", "2"]) == 0
    recordings = Recordings(tmp_path / "data")
    (behaviour,) = {episode.info.behaviour for episode in recordings.episodes}
    assert behaviour.startswith("policy-agent-")
    DrQv2((32, 32, 3), 3, 2, seed=1).save(tmp_path / "other" / "agent.safetensors")
    assert main([*command, "--policy", str(tmp_path / "other" / "agent.safetensors"), "--episodes", "2"]) == 0
    assert len(Recordings(tmp_path / "data").episodes) == 4  # another agent, whose file has the same name
    assert main([*command, "--policy", "random"]) == 2
    assert "number of episodes" in capsys.readouterr().err
    assert main([*command, "--episodes", "2"]) == 2
    assert "give --policy too" in capsys.readouterr().err


def test_gymnasium_environments_are_collected_until_they_end(tmp_path: Path) -> None:
    command = ["collect", "--out", str(tmp_path), "--env", "CartPole-v1", "--workers", "1", "--max-steps", "30"]
    assert main([*command, "--episodes", "random=2,sticky=1", "--resolution", "32"]) == 0
    recordings = Recordings(tmp_path)
    assert recordings.frame_shape == (32, 32, 3)
    assert recordings.action_space == {"kind": "Discrete", "n": 2, "start": 0}
    for episode in recordings.episodes:
        assert episode.info.terminated == (len(episode) < 30)
        assert episode.info.max_steps == 500
        assert set(episode.actions.sum(1).tolist()) == {1.0}
    assert gym.spec("CartPole-v1").max_episode_steps == 500

"""From an id to its learned environment in one command."""

from pathlib import Path

import gymnasium as gym
import pytest

from worldgym.cli import main, twin
from worldgym.runs.checkpoint import checkpoint_step
from worldgym.world_model import WorldModel

FEW = {"TIMED_UPDATES": 4, "LEAST_UPDATES": 3, "LEAST_HELD_OUT": 3, "QUICK_HEAD_BATCHES": 4}


@pytest.fixture
def _few_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FEW.items():
        monkeypatch.setattr(twin, name, value)


@pytest.mark.usefixtures("_few_updates")
def test_a_twin_of_cartpole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "twin"
    command = ["twin", "--env", "CartPole-v1", "--out", str(out), "--quick", "--hours", "0.00001", "--workers", "1"]
    assert main(command) == 0
    assert checkpoint_step(out / "work" / "tokenizer") == FEW["LEAST_UPDATES"]
    model = WorldModel.from_pretrained(out)
    assert model.config.termination
    assert model.config.slides
    assert model.config.max_episode_steps == 500
    env, real = gym.make("WorldModel-v0", checkpoint=out), gym.make("Simulator-v0", env="CartPole-v1")
    assert env.observation_space == real.observation_space
    assert env.action_space == real.action_space == gym.spaces.Discrete(2)
    _, info = env.reset(seed=0)
    assert info["task"] == "CartPole-v1"
    assert info["simulator_seed"] >= 2_000_000
    env.step(1)
    card = (out / "README.md").read_text()
    assert "termination f1" in card
    assert "It terminates episodes" in card
    before = model.fingerprint()
    assert main(command) == 0  # everything is there: only exported and measured again
    assert WorldModel.from_pretrained(out).fingerprint() == before
    capsys.readouterr()
    assert main(["twin", "--env", "Acrobot-v1", "--out", str(out), "--quick"]) == 2
    assert "holds another twin" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--env CartPol-v1", "CartPole-v1"),
        ("--env CartPole-v1 --policy nothing", "expected a behaviour"),
        ("--env toy --frame-skip 2", "has one of its own"),
    ],
)
def test_what_cannot_be_learned_is_named(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["twin", "--out", str(tmp_path / "twin"), *arguments.split()]) == 2
    assert message in capsys.readouterr().err

"""Runs that begin with behaviour cloning of demonstrations."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from worldgym.agents.drqv2 import DrQv2
from worldgym.agents.mbpo import MBPO, MBPOConfig
from worldgym.agents.mbpo.run import train
from worldgym.data.episode import Episode
from worldgym.envs.collect import record
from worldgym.envs.simulators.toy import SimulatorToy
from worldgym.errors import ConfigError
from worldgym.runs.checkpoint import checkpoints
from worldgym.runs.log import Metrics

STEPS = 20


@pytest.fixture(scope="module")
def demonstrations() -> list[Episode]:
    return [record(SimulatorToy(), "expert", seed) for seed in range(2)]


@pytest.fixture
def make_clone(
    make_env: Callable[..., Any],
    make_agent: Callable[..., DrQv2],
    make_world_model: Callable[..., Any],
    settings: Callable[..., MBPOConfig],
    demonstrations: list[Episode],
) -> Callable[..., MBPO]:
    """Makes a learner without random steps; takes changes of the loop's settings."""

    def make(model_based: bool = False, **changes: Any) -> MBPO:
        untrained = make_agent()
        config = dataclasses.replace(untrained.config, clone_weight=1.0)
        agent = DrQv2(untrained.spec.frame_shape, untrained.spec.frame_stack, untrained.spec.action_dim, config, seed=0)
        loop = settings(**{"steps": STEPS, "seed_steps": 0, "warmup_clone_updates": 17, **changes})
        return MBPO(make_env(), make_world_model() if model_based else None, agent, loop, demonstrations)

    return make


def lines(folder: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("seconds")} for line in found]


def test_clones_first_and_acts_as_the_clone_from_the_first_step(
    make_clone: Callable[..., MBPO], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make_clone(warmup_agent_updates=0)
    cloned, updated = list[int](), list[bool]()
    clone, update = DrQv2.clone, DrQv2.update

    def counted_clone(self: DrQv2, batch: Any) -> Metrics:
        cloned.append(learner.step)
        return clone(self, batch)

    def counted_update(self: DrQv2, batch: Any, demonstrations: Any = None, actor: bool = True) -> Metrics:
        updated.append(demonstrations is not None)
        return update(self, batch, demonstrations, actor)

    monkeypatch.setattr(DrQv2, "clone", counted_clone)
    monkeypatch.setattr(DrQv2, "update", counted_update)
    while learner.step < 3:
        learner.advance()
    assert cloned == [0] * 17
    assert updated == [True] * 3


def test_policy_before_the_first_step_is_evaluated(
    make_clone: Callable[..., MBPO], make_env: Any, tmp_path: Path
) -> None:
    assert train(make_clone(), make_env(), tmp_path)
    assert [line["step"] for line in lines(tmp_path) if "evaluation/success" in line] == [0, 20]
    assert (tmp_path / "videos" / "0000000.mp4").exists()


def test_no_step_at_all_leaves_a_policy_from_imagination(
    make_clone: Callable[..., MBPO], make_env: Any, tmp_path: Path
) -> None:
    learner = make_clone(model_based=True, steps=0)
    assert train(learner, make_env(), tmp_path)
    assert (learner.step, learner.agent.updates, len(learner.imagined) > 0) == (0, 17 + 10, True)
    assert "success" in json.loads((tmp_path / "summary.json").read_text())
    assert np.isfinite(DrQv2.from_file(tmp_path / "agent.safetensors").act(np.zeros((3, 32, 32, 3), np.uint8))).all()


@pytest.mark.parametrize("unit", [0, 1, 3])
def test_interrupted_cloning_resumes_exactly(
    make_clone: Callable[..., MBPO], make_env: Any, unit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(make_clone(), make_env(), whole)
    learner, warm_up = make_clone(), MBPO.warm_up

    def fails(self: MBPO) -> Metrics:
        if self.warmup_done == unit + 1:
            raise KeyboardInterrupt
        return warm_up(self)

    with monkeypatch.context() as patch:
        patch.setattr(MBPO, "warm_up", fails)
        patch.setattr("worldgym.agents.mbpo.run._AgentJob.save_due", True)
        with pytest.raises(KeyboardInterrupt):
            train(learner, make_env(), parts)
    assert train(make_clone(), make_env(), parts, resume=True)
    one, other = (load_file(checkpoints(folder)[-1] / "state.safetensors") for folder in (whole, parts))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert lines(whole) == lines(parts)


@pytest.mark.parametrize(("changes", "weight"), [({"warmup_clone_updates": 5}, 0.0), ({}, 1.0)])
def test_cloning_without_demonstrations_is_refused(
    make_env: Any, make_agent: Any, settings: Any, changes: dict[str, int], weight: float
) -> None:
    agent = make_agent()
    agent.config = dataclasses.replace(agent.config, clone_weight=weight)
    with pytest.raises(ConfigError, match="without demonstrations expected 0"):
        MBPO(make_env(), None, agent, settings(**changes))


@pytest.mark.parametrize("model_based", [False, True])
def test_critics_learn_what_the_clone_is_worth_before_it_follows_them(
    make_clone: Callable[..., MBPO], model_based: bool
) -> None:
    learner = make_clone(model_based, warmup_critic_updates=7, warmup_agent_updates=0)
    while learner.warmup_done < learner.config.warmup_clone_units:
        learner.advance()
    agent = learner.agent
    clone = {name: value.clone() for name, value in agent.state_dict().items()}
    while learner.warming_up:
        learner.advance()
    assert agent.updates - int(clone["updates"]) == 7
    for name, value in agent.actor.state_dict().items():
        assert torch.equal(value, clone[f"actor.{name}"])
    assert not torch.equal(agent.critic.state_dict()["first.0.weight"], clone["critic.first.0.weight"])
    learner.advance()
    assert any(not torch.equal(value, clone[f"actor.{name}"]) for name, value in agent.actor.state_dict().items())

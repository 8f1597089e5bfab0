"""The agent that plans, wherever an agent can be used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3.common.evaluation import evaluate_policy

from worldgym.agents.common.evaluation import evaluate
from worldgym.agents.drqv2 import DrQv2
from worldgym.agents.planning import (
    CEM,
    ICEM,
    LearnedModel,
    PlanningAgent,
    Proposal,
    RewardCost,
    SimulatorModel,
    agent_proposal,
)
from worldgym.agents.planning.spaces import check_fits
from worldgym.agents.planning.trial import run_trial
from worldgym.envs.simulators.toy import SimulatorToy
from worldgym.errors import ConfigError, InvalidFrames
from worldgym.world_model import WorldModel

Frames = NDArray[np.uint8]
Make = Callable[..., PlanningAgent]


def toy() -> Any:
    return gym.wrappers.TimeLimit(SimulatorToy(), 25)


def actions_of(agent: PlanningAgent, frames: Frames) -> Any:
    return np.stack([agent.act(frame) for frame in frames])


def test_equal_seeds_choose_equal_actions(make_planning_agent: Make, frames: Frames) -> None:
    first = actions_of(make_planning_agent(seed=3), frames)
    assert first.shape == (3, 2)
    assert first.dtype == np.float32
    assert (np.abs(first) <= 1).all()
    again = make_planning_agent(seed=3)
    assert np.array_equal(actions_of(again, frames), first)
    again.reset()
    assert np.array_equal(actions_of(again, frames), first)
    again.reset(seed=1)
    assert not np.array_equal(actions_of(again, frames), first)


def test_plans_are_carried_out_in_chunks_and_begun_with_what_is_left(make_planning_agent: Make, frames: Frames) -> None:
    agent = make_planning_agent(replan_every=2)
    first = agent.act(frames[0])
    plan = agent.episode.plan
    assert plan is not None
    assert np.array_equal(first, plan.actions[0])
    assert np.array_equal(agent.act(frames[1]), plan.actions[1])
    assert agent.episode.plan is plan
    mean, given = agent._warm_start(agent.episode)
    assert torch.equal(mean, torch.cat([plan.actions[2:], plan.actions[-1:].repeat(2, 1)]))
    assert given.shape[1:] == mean.shape
    agent.act(frames[2])
    assert agent.episode.plan is not plan
    assert agent.imagined().frames.shape == (1, 4, 32, 32, 3)
    with pytest.raises(ConfigError, match="replan_every: expected 1 to the horizon of 4 steps, got 5"):
        make_planning_agent(replan_every=5)


def test_a_stack_that_does_not_continue_the_last_starts_an_episode(make_planning_agent: Make, frames: Frames) -> None:
    agent = make_planning_agent()
    assert agent.spec.frame_stack == 2
    first = agent.act(frames[[0, 0]])
    agent.act(frames[[0, 1]])
    assert agent.episode.steps == 2
    assert np.array_equal(agent.act(frames[[0, 0]]), first)
    assert agent.episode.steps == 1


def test_evaluation_and_evaluate_policy_take_it(make_planning_agent: Make) -> None:
    agent = make_planning_agent(replan_every=4)
    found = evaluate(toy(), agent, 1)
    assert found is not None
    assert found.frames.shape == (26, 32, 32, 3)
    agent.reset()
    assert evaluate(toy(), agent, 1).mean_return == found.mean_return  # type: ignore[union-attr]
    envs = [lambda: gym.wrappers.TimeLimit(SimulatorToy(), 5)] * 2
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    vector = DummyVecEnv([lambda make=make: Monitor(make()) for make in envs])  # type: ignore[misc]
    vector.seed(0)
    mean, _ = evaluate_policy(agent, vector, n_eval_episodes=2)  # type: ignore[arg-type]
    vector.seed(0)
    again, _ = evaluate_policy(agent, vector, n_eval_episodes=2)  # type: ignore[arg-type]
    assert np.isfinite(mean)
    assert mean == again


def test_predict_keeps_episodes_apart_and_takes_channels_first(make_planning_agent: Make, frames: Frames) -> None:
    agent = make_planning_agent()
    first, state = agent.predict(frames[:2])
    assert first.shape == (2, 2)
    assert [episode.steps for episode in state] == [1, 1]
    same, _ = agent.predict(np.moveaxis(frames[:2], -1, 1))
    assert np.array_equal(first, same)
    _, state = agent.predict(frames[:2], state, np.array([False, True]))
    assert [episode.steps for episode in state] == [2, 1]


def test_it_collects_episodes(make_planning_agent: Make) -> None:
    agent, env = make_planning_agent(), toy()
    env.reset(seed=0)
    act = agent.behaviour(env.unwrapped, np.random.default_rng(0))
    assert act().shape == (2,)
    assert agent.episode.steps == 1


@pytest.mark.parametrize("frames", [np.zeros((32, 32, 3), np.float32), np.zeros((32, 32), np.uint8)])
def test_other_observations_are_refused(make_planning_agent: Make, frames: Any) -> None:
    with pytest.raises(InvalidFrames, match="expected an observation uint8"):
        make_planning_agent().act(frames)


@pytest.mark.parametrize("centre", [True, False])
def test_proposals_are_tried(make_planning_agent: Make, make_agent: Callable[..., DrQv2], centre: bool) -> None:
    tried = []

    class Watching(CEM):
        def plan(self, evaluate: Any, mean: Any, given: Any, generator: Any) -> Any:
            tried.append((mean, given))
            return super().plan(evaluate, mean, given, generator)

    proposal = agent_proposal(make_agent(), candidates=3, centre=centre)
    agent = make_planning_agent(planner=Watching(candidates=8, horizon=4, elites=3), proposal=proposal)
    assert agent.spec.frame_stack == 3
    agent.act(np.zeros((32, 32, 3), np.uint8))
    mean, given = tried[0]
    assert len(given) == 3 + centre
    assert torch.equal(mean, given[1]) if centre else not mean.any()


def test_the_simulator_as_the_model_solves_the_toy_world() -> None:
    env = toy()
    planner = ICEM(candidates=48, horizon=6, elites=8, colour=2.0)
    agent = PlanningAgent(SimulatorModel(env), planner, RewardCost(), replan_every=2)
    ticks: list[int] = []

    def make_policy(inner: Any, seed: int) -> Any:
        return agent.behaviour(inner, np.random.default_rng(seed))

    trial = run_trial(env, make_policy, 0, agent, lambda: ticks.append(1))
    figures = trial.figures()
    assert figures["success"]
    assert figures["steps"] == len(ticks) == 25
    assert len(figures["plans"]) == 13
    for plan in trial.plans[:-1]:  # the simulator imagines what happens
        assert np.array_equal(plan.frames[:2], trial.frames[plan.step + 1 : plan.step + 3])
    assert trial.clip().shape == (26, 96, 3 * 96 + 4, 3)
    assert trial.strip().ndim == 3
    still = run_trial(env, lambda inner, seed: lambda: np.zeros(2, np.float32), 0)
    assert not still.figures()["success"]
    assert still.clip().shape == (26, 96, 96, 3)


def test_a_policy_proposes_in_the_simulator_which_is_put_back() -> None:
    env = toy()
    frame, _ = env.reset(seed=0)
    model = SimulatorModel(env)
    model.observe(frame[None])

    def expert(stacks: Any) -> Any:
        return env.unwrapped.expert_action()[None]

    taken = Proposal(expert, 2, candidates=2, noise=0.3).propose(model, 3, torch.Generator().manual_seed(0))
    assert np.array_equal(env.unwrapped.frame, frame)
    for action in taken[0].numpy():
        assert np.allclose(env.unwrapped.expert_action(), action)
        env.step(action)


def test_environments_that_do_not_fit_are_named(
    make_planning_agent: Make, make_world_model: Callable[..., WorldModel]
) -> None:
    model = make_planning_agent().model
    check_fits(SimulatorToy(), model)
    with pytest.raises(ConfigError, match="expected an environment with frames uint8"):
        check_fits(gym.make("CartPole-v1"), model)
    with pytest.raises(ConfigError, match="no get_state, set_state, advance, draw"):
        SimulatorModel(gym.make("CartPole-v1"))
    with pytest.raises(ConfigError, match="takes 3 actions"):
        check_fits(SimulatorToy(), LearnedModel(make_world_model(action_dim=3)))


def test_saved_agents_propose(make_agent: Callable[..., DrQv2], tmp_path: Path, make_planning_agent: Make) -> None:
    make_agent().save(tmp_path / "agent.safetensors")
    proposal = agent_proposal(DrQv2.from_file(tmp_path / "agent.safetensors"), candidates=2)
    frame, same = np.zeros((32, 32, 3), np.uint8), agent_proposal(make_agent(), candidates=2)
    first, again = (make_planning_agent(proposal=each).act(frame) for each in (proposal, same))
    assert np.array_equal(first, again)

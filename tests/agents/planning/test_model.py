"""Candidates in the learned world, and costs of what they lead to."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldgym.agents.drqv2 import DrQv2
from worldgym.agents.planning import (
    ALL_FRAMES,
    ContextCodeCost,
    DynamicsCodeCost,
    FunctionCost,
    Futures,
    GoalCost,
    GoalSuccessCost,
    LearnedModel,
    RewardCost,
    SuccessCost,
    TerminalValue,
    agent_proposal,
    critic_value,
)
from worldgym.agents.planning.model import evaluate
from worldgym.errors import ConfigError, InvalidFrames, OutOfMemory
from worldgym.world_model import WorldModel

ACTIONS = torch.rand((7, 4, 2), generator=torch.Generator().manual_seed(0)) * 2 - 1
Frames = NDArray[np.uint8]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def futures(model: LearnedModel, actions: Tensor = ACTIONS, frames: int = ALL_FRAMES) -> Futures:
    (found,) = model.futures(actions, frames, generator())
    return found


def test_futures_are_the_world_models_own(learned: LearnedModel, frames: Frames) -> None:
    found = futures(learned)
    same = learned.model.rollout(frames[None, -2:], ACTIONS, top_k=1)
    assert torch.equal(found.frames, same.frames)
    assert torch.equal(found.tokens, same.tokens)
    assert torch.allclose(found.rewards, same.rewards, atol=1e-6)
    assert torch.allclose(found.uncertainty, same.uncertainty, atol=1e-6)
    assert torch.equal(found.history, torch.from_numpy(frames))


@pytest.mark.parametrize("horizon", [4, 9])  # the window holds 6 frames
def test_only_the_frames_that_a_cost_reads_are_decoded(learned: LearnedModel, horizon: int) -> None:
    actions = torch.rand((3, horizon, 2), generator=generator()) * 2 - 1
    everything = futures(learned, actions)
    assert everything.frames.shape == (3, horizon, 32, 32, 3)
    last = futures(learned, actions, frames=2)
    assert torch.equal(last.frames, everything.frames[:, -2:])
    assert futures(learned, actions, frames=0).frames.shape == (3, 0, 32, 32, 3)
    assert torch.equal(last.rewards, everything.rewards)
    seen = everything.stacks(horizon + 4)
    assert torch.equal(seen[:, 4:], everything.frames)
    assert torch.equal(seen[:, :4], everything.history[[0, 0, 1, 2]].expand(3, -1, -1, -1, -1))
    assert torch.equal(last.stacks(2), everything.frames[:, -2:])


@pytest.mark.parametrize("cost", [RewardCost(), FunctionCost(lambda found: found.frames.float().mean((1, 2, 3, 4)), 1)])
def test_chunks_give_the_same_costs(learned: LearnedModel, cost: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate(learned, cost, ACTIONS, generator())
    learned.budget = learned.model.memory(2)
    assert learned.model.largest_batch(learned.budget) < 7
    rows = []
    monkeypatch.setattr(
        WorldModel,
        "imagine",
        lambda self, state, *rest, _real=WorldModel.imagine, **options: (
            rows.append(len(state)),
            _real(self, state, *rest, **options),
        )[1],
    )
    assert torch.allclose(evaluate(learned, cost, ACTIONS, generator()), whole, atol=1e-5)
    assert len(rows) > 1
    assert sum(rows) == 7


def test_a_budget_too_small_for_one_candidate_is_named(random_world_model: Callable[[], WorldModel]) -> None:
    with pytest.raises(OutOfMemory, match="not even one candidate fits budget=100 bytes"):
        LearnedModel(random_world_model(), budget=100)
    assert LearnedModel(random_world_model(), budget=None)._chunk_size(10**6) == 10**6


def test_candidates_share_their_random_numbers(make_world_model: Callable[..., WorldModel], frames: Frames) -> None:
    model = LearnedModel(make_world_model())
    model.observe(frames)
    equal = ACTIONS[:1].expand(5, -1, -1)
    found = futures(model, equal)
    assert (found.tokens == found.tokens[:1]).all()
    (other,) = model.futures(equal, 0, generator(1))
    assert not torch.equal(found.tokens, other.tokens)


def test_a_horizon_beyond_the_window_is_said(make_planning_agent: Callable[..., Any]) -> None:
    from worldgym.agents.planning import CEM

    with pytest.warns(UserWarning, match="horizon of 9 steps is longer than .* window of 6: it is started anew"):
        make_planning_agent(planner=CEM(horizon=9))


def test_models_that_cannot_plan_are_refused(make_world_model: Callable[..., WorldModel]) -> None:
    with pytest.raises(ConfigError, match="got an action-free one"):
        LearnedModel(make_world_model(action_dim=0, reward=False))
    with pytest.raises(ConfigError, match="got a goal-conditioned one"):
        LearnedModel(make_world_model(goal_conditioned=True))


def made(**changes: Any) -> Futures:
    """Two futures of three steps."""
    steps = torch.zeros(2, 3)
    given = {"rewards": steps, "reward_spread": steps, "uncertainty": steps, "success_probability": steps, **changes}
    history, images = torch.zeros(1, 2, 2, 3, dtype=torch.uint8), torch.zeros(2, 3, 2, 2, 3, dtype=torch.uint8)
    tokens = torch.zeros(2, 3, 1, dtype=torch.int64)
    return Futures(history, torch.zeros(2, 3, 1), images, tokens=tokens, context=history[:0], **given)


def test_rewards_are_discounted_pessimistic_and_trusted_while_certain() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0], [1.0, 1.0, 1.0]])
    spread = torch.tensor([[0.5, 1.0, 2.0], [0.0, 0.0, 0.0]])
    unsure = torch.tensor([[0.0, 0.9, 0.1], [0.0, 0.0, 0.0]])
    found = made(rewards=rewards, reward_spread=spread, uncertainty=unsure)
    assert RewardCost(discount=0.5)(found).tolist() == [-3.0, -1.75]
    assert RewardCost(discount=1.0, pessimism=2.0)(found).tolist() == [0.0, -3.0]
    value = TerminalValue(lambda stacks: torch.full((2,), 8.0), 1)
    assert RewardCost(1.0, max_uncertainty=0.5, unsure_reward=-1.0)(found).tolist() == [1.0, -3.0]
    assert RewardCost(0.5, max_uncertainty=0.5, terminal=value)(found).tolist() == [-1.0, -2.75]


def test_success_is_better_sooner() -> None:
    chances = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    sooner, later = SuccessCost()(made(success_probability=chances)).tolist()
    assert sooner < later < 0


@pytest.mark.parametrize(
    ("cost", "missing"),
    [(RewardCost(pessimism=1.0), "reward_spread"), (RewardCost(), "rewards"), (SuccessCost(), "success_probability")],
)
def test_heads_that_a_cost_needs_are_named(cost: Any, missing: str) -> None:
    with pytest.raises(ConfigError, match="needs a world model that predicts"):
        cost(made(**{missing: torch.full((2, 3), float("nan"))}))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda found: torch.full((len(found),), float("nan")), "got nan for candidate 0"),
        (lambda found: found.rewards, r"a tensor \[7\], got \[7, 4\]"),
        (lambda found: 1.0, r"a tensor \[7\], got float"),
    ],
)
def test_costs_that_are_no_costs_are_named(learned: LearnedModel, function: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        evaluate(learned, FunctionCost(function), ACTIONS, generator())


def test_goals_attract(learned: LearnedModel) -> None:
    """Frames that are the goal cost nothing, and others more."""
    images = torch.randint(0, 256, (2, 3, 32, 32, 3), dtype=torch.uint8, generator=generator())
    goal = images[1, -1].numpy()
    found = dataclasses.replace(made(), frames=images, history=images[0])
    last = dataclasses.replace(found, frames=images[:, -1:])
    assert GoalCost(goal).frames == ALL_FRAMES
    squared = (images.float() - images[1, -1].float()).div(255).square().mean((2, 3, 4))
    assert torch.allclose(GoalCost(goal)(found), squared.mean(1), atol=1e-6)
    assert torch.allclose(GoalCost(goal, every_frame=False)(last), squared[:, -1], atol=1e-6)
    assert GoalCost(goal, distance=lambda a, b: (a - b).abs().amax((1, 2, 3)))(last)[0] > squared[0, -1]
    codes = ContextCodeCost(learned.model, goal)(last)
    assert codes[0] >= codes[1] == 0


def test_goals_and_success_are_weighted_as_in_vp2() -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32, 3), dtype=torch.uint8, generator=generator())
    chances = torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.0, 0.2]])
    found = dataclasses.replace(made(), frames=images, success_probability=chances)
    squared = (images.float() - images[1, -1].float()).div(255).square().sum((1, 2, 3, 4))
    costs = GoalSuccessCost(images[1, -1].numpy())(found)
    assert torch.allclose(costs, 0.5 * squared - 10 * chances.sum(1), rtol=1e-5)


def test_dynamics_codes_are_compared_without_frames(learned: LearnedModel, frames: Frames) -> None:
    cost = DynamicsCodeCost(learned.model, frames[0], every_frame=False)
    assert cost.frames == 0
    costs = evaluate(learned, cost, ACTIONS, generator())
    found = futures(learned, frames=0)
    _, book = learned.model.tokenizer.codebooks()
    assert (costs >= 0).all()
    same = (found.tokens[:, None, -1] == found.tokens[None, :, -1]).all(2)
    assert ((costs[:, None] == costs[None]) | ~same).all()
    assert book.shape[0] == learned.model.layout.dynamics_codes


def test_codes_are_compared_under_the_context_that_they_refer_to(learned: LearnedModel, frames: Frames) -> None:
    learned.observe(frames, np.zeros((2, 2), np.float32))  # two frames are read behind the context, the repeated first
    model, found = learned.model, futures(learned, frames=0)
    first = torch.from_numpy(frames[[0, 0]])
    assert torch.equal(found.context, first)
    pixels = [torch.from_numpy(part).float().div(255).movedim(-1, -3)[None] for part in (frames[[0, 0]], frames[2:])]
    with torch.no_grad():
        _, features = model.tokenizer.encode_context(pixels[0])
        codes = model.tokenizer.encode_future(pixels[1], features)
    reached = dataclasses.replace(found, tokens=codes.expand(len(found), 4, -1))
    assert not DynamicsCodeCost(model, frames[2])(reached).any()


def test_goals_of_another_size_are_named(learned: LearnedModel) -> None:
    goal = np.zeros((16, 32, 3), np.uint8)
    for cost in (GoalCost(goal), ContextCodeCost(learned.model, goal), DynamicsCodeCost(learned.model, goal)):
        with pytest.raises(InvalidFrames, match=r"goal: expected uint8 \[32, 32, 3\], .* got uint8 \[16, 32, 3\]"):
            evaluate(learned, cost, ACTIONS, generator())


def test_a_policy_acts_in_the_model_and_sees_what_it_imagines(
    learned: LearnedModel, make_agent: Callable[..., DrQv2], frames: Frames
) -> None:
    agent = make_agent()
    proposals = agent_proposal(agent, candidates=3, noise=0.5).propose(learned, 4, generator())
    assert proposals.shape == (3, 4, 2)
    assert not torch.equal(proposals[1], proposals[2])
    (seen,) = learned.futures(proposals[:1], ALL_FRAMES, generator())
    stacks = torch.cat([torch.from_numpy(frames), seen.frames[0]])
    for step in range(4):
        assert np.allclose(proposals[0, step], agent.act(stacks[step : step + 3], explore=False), atol=1e-5)


def test_the_critic_values_the_last_frames(
    learned: LearnedModel, make_agent: Callable[..., DrQv2], frames: Frames
) -> None:
    terminal = critic_value(make_agent())
    assert terminal.value(torch.from_numpy(frames)[None]).shape == (1,)
    cost = RewardCost(terminal=terminal)
    assert cost.frames == 3
    bare, valued = (evaluate(learned, each, ACTIONS, generator()) for each in (RewardCost(), cost))
    value = terminal.value(futures(learned).frames[:, -3:])
    assert torch.allclose(valued, bare - 0.99**4 * value, atol=1e-5)


def test_the_newest_actions_are_read_with_the_frames_that_they_led_to(learned: LearnedModel, frames: Frames) -> None:
    taken = np.random.default_rng(1).uniform(-1, 1, (2, 2)).astype(np.float32)
    learned.observe(frames, taken)
    found, model = futures(learned, ACTIONS[:1]), learned.model
    state = model.start(np.concatenate([frames[:1], frames])[None], taken[None])  # the context is the repeated first
    noise = torch.rand(1, 4, model.layout.tokens_per_frame, generator=generator())
    same = model.imagine(state, ACTIONS[:1], top_k=1, noise=noise)
    assert torch.equal(found.tokens, same.tokens)
    assert torch.equal(found.frames, same.frames)
    learned.observe(frames)
    assert not torch.equal(futures(learned, ACTIONS[:1]).rewards, found.rewards)

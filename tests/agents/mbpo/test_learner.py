"""The loop of MBPO on the toy world: what is updated when, from which data."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from worldgym.agents.common.schedules import Linear
from worldgym.agents.common.transitions import Transitions
from worldgym.agents.drqv2 import DrQv2
from worldgym.agents.mbpo import MBPO, MBPOConfig
from worldgym.envs.collect import record
from worldgym.envs.simulators.toy import SimulatorToy
from worldgym.errors import ConfigError
from worldgym.runs.log import Metrics
from worldgym.training.initial import with_actions
from worldgym.world_model import WorldModel

STEPS, EPISODE, SEED_STEPS = 40, 25, 13  # of the toys in conftest.py


def updates(learner: MBPO) -> tuple[int, int]:
    """Of tokenizer and transformer."""
    assert learner.world.trainer is not None
    return learner.world.trainer.updates["tokenizer"], learner.world.trainer.updates["transformer"]


def test_schedule_of_all_updates(settings: Callable[..., MBPOConfig], make_learner: Callable[..., MBPO]) -> None:
    learner, config = make_learner(), settings()
    while learner.step < SEED_STEPS:
        learner.advance()
    assert (learner.agent.updates, learner.world.rollout_batches, updates(learner)) == (0, 0, (0, 0))
    assert learner.warming_up
    while learner.warming_up:
        assert learner.agent.updates == (7 if learner.warmup_done == 2 + 2 + 2 + 1 else 0)
        learner.warm_up()
    assert learner.warmup_done == learner.warmup_units == 2 + 2 + 2 + 2  # 7 agent updates after each of the last
    assert updates(learner) == (2, 2)
    assert learner.agent.updates == config.warmup_agent_updates == 10
    assert learner.world.rollout_batches == 2 + 2
    while learner.step < STEPS:
        learner.advance()
    assert learner.agent.updates == 10 + STEPS - SEED_STEPS
    assert updates(learner) == (2 + 3, 2 + 6)  # at 20, 30, 40; at 15, 20, 25, 30, 35, 40
    assert learner.world.rollout_batches == 4 + 4  # at 14, 21, 28, 35
    assert len(learner.imagined) == config.keep_rollouts * config.rollouts * config.horizon
    assert len(learner.replay) == STEPS


@pytest.mark.parametrize(("count", "units"), [(0, 0), (6, 1), (7, 1), (8, 2), (14, 2)])
def test_warmup_updates_of_an_agent_without_a_world_model(
    make_learner: Callable[..., MBPO], count: int, units: int
) -> None:
    for learner in (make_learner(False, warmup_agent_updates=count), make_learner(warmup_agent_updates=count)):
        while learner.step < SEED_STEPS or learner.warming_up:
            learner.advance()
        assert learner.agent.updates == count
        assert learner.warmup_done == units + (0 if learner.world is None else 6)


def test_no_rollouts_once_batches_are_all_real(make_learner: Callable[..., MBPO]) -> None:
    learner = make_learner(real_ratio=Linear(0.5, 1.0, 25))
    while learner.step < STEPS:
        learner.advance()
    assert learner.world.rollout_batches == 4 + 2  # at 14 and 21, not at 28 and 35
    learner = make_learner(real_ratio=Linear(1.0, 1.0, 1))
    while learner.step < STEPS:
        learner.advance()
    assert not learner.world.rollout_batches
    assert updates(learner) == (2 + 3, 2 + 6)  # the world model learns all the same


def test_schedule_of_reward_head_refits(
    make_env: Callable[..., Any],
    settings: Callable[..., MBPOConfig],
    make_agent: Callable[..., DrQv2],
    random_world_model: Callable[[], WorldModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, solved = settings(reward_head_every=10, warmup_model_updates=0), list[int]()
    learner = MBPO(make_env(), random_world_model(), make_agent(), config)
    trainer = learner.world.trainer
    assert trainer is not None
    solve = trainer.refit_rewards
    monkeypatch.setattr(trainer, "refit_rewards", lambda batches: (solved.append(learner.step), solve(batches)))
    while learner.step < STEPS:
        before, times = trainer.world_model.transformer.reward_linear.bias.clone(), len(solved)
        learner.advance()
        after = trainer.world_model.transformer.reward_linear.bias
        assert len(solved) == times or not torch.equal(before, after)
    assert solved == [SEED_STEPS, 20, 30, 40]  # the first time before the first rollouts


def test_seed_steps_are_uniform_and_later_actions_the_agents(make_learner: Callable[..., MBPO]) -> None:
    """Two agents, of which one has learned to go to a corner: they differ from the end of the ``seed_steps`` on."""
    taken = []
    for biased in (False, True):
        learner = make_learner(False)
        if biased:
            with torch.no_grad():
                list(learner.agent.actor.parameters())[-1].fill_(9.0)
        for _ in range(EPISODE - 1):
            learner.collect()
        assert learner.agent.step == learner.step == EPISODE - 1
        taken.append(learner.state_dict()["episode.actions"])
    first, later = (torch.stack(taken)[:, part] for part in (slice(SEED_STEPS), slice(SEED_STEPS, None)))
    assert torch.equal(*first)
    assert len(set(first.flatten().tolist())) == 2 * SEED_STEPS
    assert later[1].mean() > 0.5 > later[0].mean()


def test_demonstrations_are_in_the_replay_at_the_start(
    make_env: Callable[..., Any],
    settings: Callable[..., MBPOConfig],
    make_world_model: Callable[..., WorldModel],
    make_agent: Callable[..., DrQv2],
) -> None:
    demonstrations = [record(SimulatorToy(), "expert", seed) for seed in range(2)]
    learner = MBPO(make_env(), make_world_model(), make_agent(), settings(seed_steps=0), demonstrations)
    assert len(learner.replay) == 2 * EPISODE
    batch = learner.replay.segments(np.random.default_rng(0), 1, EPISODE + 1)
    assert any(np.array_equal(batch.frames[0], episode.frames) for episode in demonstrations)
    assert learner.warming_up  # there is something to learn from at once


@pytest.mark.parametrize(("ratio", "share"), [(Linear(1.0, 0.0, 2 * STEPS), 0.5), (Linear(0.25, 0.25, 1), 0.25)])
def test_share_of_real_steps_follows_its_schedule(
    make_learner: Callable[..., MBPO], ratio: Linear, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make_learner(real_ratio=ratio, updates_per_step=50)
    while learner.step < SEED_STEPS:
        learner.advance()
    frames = np.zeros((1, 6, 32, 32, 3), np.uint8)
    learner.imagined.add_episodes(frames, np.zeros((1, 3, 2)), np.full((1, 3), 100.0), context=3)
    learner._streams.step, real = STEPS, list[float]()

    def update(batch: Transitions, demonstrations: None, actor: bool) -> Metrics:
        real.append(float((batch.rewards < 50).float().mean()))
        return {}

    monkeypatch.setattr(learner.agent, "update", update)
    learner.update()
    assert len(real) == 50
    assert np.mean(real) == pytest.approx(share, abs=0.02)


def test_world_model_is_evaluated_on_every_episode(
    make_learner: Callable[..., MBPO], random_world_model: Callable[[], WorldModel]
) -> None:
    learner = make_learner(seed_steps=STEPS)
    learner.world.world_model = learner.world.trainer.world_model = random_world_model()  # type: ignore[union-attr]
    found = [learner.collect() and learner.learn() for _ in range(EPISODE)]  # figures of a step end an episode
    assert not any(found[:-1])
    frames, actions, rewards = learner.replay.newest(5)[:3]
    made = learner.world.world_model.rollout(frames[:, :2], actions[:, 1:], top_k=1)
    mse = (made.frames.float() - frames[:, 2:].float()).square().mean() / 255**2
    assert len(frames) == 6
    assert found[-1]["model_eval/psnr"] == pytest.approx(-10 * float(mse.log10()), abs=1e-3)
    assert found[-1]["model_eval/reward"] == pytest.approx(float(made.rewards.mean()), rel=1e-4)
    assert found[-1]["model_eval/real_reward"] == pytest.approx(float(rewards[:, 1:].mean()))
    error = (made.rewards - rewards[:, 1:]).square().mean().sqrt()
    assert found[-1]["model_eval/reward_error"] == pytest.approx(float(error), rel=1e-4)


def test_untrained_world_model_is_not_evaluated(make_learner: Callable[..., MBPO]) -> None:
    learner = make_learner(seed_steps=STEPS)
    figures = [learner.advance() for _ in range(EPISODE)][-1]
    assert "episode/return" in figures
    assert "model_eval/psnr" not in figures


def test_pixel_rewards_replace_the_head_in_rollouts(
    make_learner: Callable[..., MBPO], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make_learner(pixel_reward_updates=2)
    while learner.step < 20:
        learner.advance()

    def red_of_a_pixel(frames: torch.Tensor) -> torch.Tensor:
        return frames[..., 9, 9, 0] / 255

    learner.imagined = learner.imagined.__class__((32, 32, 3), 2, 100, frame_stack=3)
    monkeypatch.setattr(learner.world.pixel_rewards, "predict", red_of_a_pixel)
    monkeypatch.setattr(learner.replay, "reward_range", lambda: (-1.0, 1.0))
    learner._streams.step = 21
    learner.imagine()
    held = learner.imagined.segments(np.random.default_rng(0), 50, 2)
    assert torch.equal(held.rewards[:, 0], red_of_a_pixel(held.frames[:, 1]))


def test_pixel_reward_model_is_trained_before_the_first_rollouts(
    make_env: Callable[..., Any],
    settings: Callable[..., MBPOConfig],
    make_agent: Callable[..., DrQv2],
    random_world_model: Callable[[], WorldModel],
) -> None:
    config = settings(pixel_reward_updates=1, warmup_model_updates=0)
    learner = MBPO(make_env(), random_world_model(), make_agent(), config)
    while learner.step < SEED_STEPS:
        learner.advance()
    learner.warm_up()
    assert learner.world.pixel_rewards is not None
    real = learner.replay.segments(np.random.default_rng(0), 12, 2)
    errors = learner.world.pixel_rewards.predict(real.frames[:, 1]) - real.rewards[:, 0]
    assert errors.square().mean() < 0.1 * real.rewards.square().mean()
    drawn = learner.imagined.segments(np.random.default_rng(0), 20, 2).rewards
    assert drawn.std() > 0


def test_untrained_world_model_imagines_nothing(make_learner: Callable[..., MBPO]) -> None:
    learner = make_learner(warmup_model_updates=0, reward_head_every=1)
    while learner.step < 14 or learner.warming_up:
        learner.advance()
    assert (learner.world.rollout_batches, len(learner.imagined)) == (0, 0)
    assert learner.agent.updates == 10 + 1
    while learner.step < 21:
        learner.advance()
    assert learner.world.rollout_batches == 1  # the transformer learned at 15 and 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segment_length": 3}, "needs segments of 4 to 8 frames, got 3"),
        ({"segment_length": 9}, "needs segments of 4 to 8 frames, got 9"),
        ({"seed_steps": 4}, "got 6 frames, but the longest episode after seed_steps has 5"),
        ({"seed_steps": 40, "segment_length": 8}, "got 8 frames, but the longest episode after seed_steps has 6"),
    ],
)
def test_segments_that_the_replay_cannot_hold_are_refused(
    settings: Callable[..., MBPOConfig],
    make_world_model: Callable[..., WorldModel],
    make_agent: Callable[..., DrQv2],
    changes: dict[str, int],
    message: str,
) -> None:
    env = gym.make("Simulator-Toy-v0", max_episode_steps=5)
    with pytest.raises(ConfigError, match=message):
        MBPO(env, make_world_model(), make_agent(), settings(**changes))
    MBPO(env, None, make_agent(), settings(**changes))  # an agent by itself needs no segments


def test_imagined_rewards_are_clipped_to_the_real_range(
    make_env: Callable[..., Any],
    settings: Callable[..., MBPOConfig],
    make_agent: Callable[..., DrQv2],
    random_world_model: Callable[[], WorldModel],
) -> None:
    learner = MBPO(make_env(), random_world_model(), make_agent(), settings())
    for _ in range(SEED_STEPS):
        learner.collect()
    met = learner.replay.newest(2).rewards.flatten().tolist()
    assert learner.replay.reward_range() == (min(met), max(met))
    assert learner.world.world_model is not None
    torch.nn.init.constant_(learner.world.world_model.transformer.reward_linear.bias, 100.0)  # type: ignore[union-attr]
    learner._streams.step = 14
    learner.imagine()
    drawn = learner.imagined.segments(np.random.default_rng(0), 20, 2).rewards
    assert (drawn == max(met)).all()


def test_agent_is_trained_on_real_steps_while_all_rollouts_are_cut(make_learner: Callable[..., MBPO]) -> None:
    learner = make_learner(max_uncertainty=1e-9, warmup_agent_updates=0)
    while learner.step < SEED_STEPS + 2:
        learner.advance()
    assert not len(learner.imagined)
    assert learner.agent.updates == 2


def test_old_rollouts_are_removed(
    make_env: Callable[..., Any],
    settings: Callable[..., MBPOConfig],
    make_agent: Callable[..., DrQv2],
    random_world_model: Callable[[], WorldModel],
) -> None:
    learner = MBPO(make_env(), random_world_model(), make_agent(), settings(keep_rollouts=2))
    for _ in range(SEED_STEPS):
        learner.collect()
    held = []
    for _ in range(4):
        learner._streams.step = 14
        learner.imagine()
        held.append(len(learner.imagined))
    assert held == [12, 24, 24, 24]


def test_training_episodes_have_different_seeds(
    make_env: Callable[..., Any], make_learner: Callable[..., MBPO]
) -> None:
    env = make_env()
    learner = make_learner(False, env)
    for _ in range(3 * EPISODE):
        learner.collect()
    other = make_env()
    learner = make_learner(False, other, seed=1)
    learner.collect()
    assert len(set(env.seeds)) == 3
    assert not {*env.seeds} & {*other.seeds}


def test_loop_does_not_depend_on_the_callers_pytorch_settings(
    make_learner: Callable[..., MBPO], caller_settings: Callable[[], AbstractContextManager[None]]
) -> None:
    def train() -> dict[str, torch.Tensor]:
        learner = make_learner(pixel_reward_updates=1, reward_head_every=10)
        while learner.step < EPISODE:
            learner.advance()
        return learner.state_dict()

    expected = train()
    with caller_settings():
        found = train()
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


def test_action_free_world_model_is_trained_after_actions_are_added(
    make_env: Callable[..., Any],
    make_world_model: Callable[..., WorldModel],
    make_agent: Callable[..., DrQv2],
    settings: Callable[..., MBPOConfig],
) -> None:
    free = make_world_model(action_dim=0, reward=False)
    free.trained = True
    with pytest.raises(ConfigError, match=r"takes 2 actions, got an action-free one: .*initial\.with_actions"):
        MBPO(make_env(), free, make_agent(), settings())
    learner = MBPO(make_env(), with_actions(free, 2), make_agent(), settings())
    while learner.step < SEED_STEPS + 1:
        learner.advance()
    assert learner.world.rollout_batches
    transformer = learner.world.world_model.transformer
    assert transformer.action_linear.weight.any()
    assert transformer.reward_linear.bias.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_dim": 4}, "model takes 4 actions, the environment 2"),
        ({"reward": False}, "predicts no rewards"),
        ({"goal_conditioned": True}, "is goal-conditioned"),
        ({"resolution": 64}, "imagines frames of 64 x 64 pixels, the environment has"),
    ],
)
def test_world_model_that_does_not_fit_is_refused(
    changes: dict[str, Any],
    message: str,
    make_env: Callable[..., Any],
    make_world_model: Callable[..., WorldModel],
    make_agent: Callable[..., DrQv2],
) -> None:
    if "resolution" in changes:
        tokenizer = make_world_model().config.tokenizer
        changes = {"tokenizer": dataclasses.replace(tokenizer, context_grid=4, **changes)}
    with pytest.raises(ConfigError, match=message):
        MBPO(make_env(), make_world_model(**changes), make_agent())


def test_agent_that_does_not_fit_is_refused(
    make_env: Callable[..., Any], make_world_model: Callable[..., WorldModel], make_agent: Callable[..., DrQv2]
) -> None:
    with pytest.raises(ConfigError, match="needs 2 frames of context"):
        MBPO(make_env(), make_world_model(), make_agent(frame_stack=1))
    with pytest.raises(ConfigError, match=r"agent takes .* 4 actions"):
        MBPO(make_env(), None, make_agent(action_dim=4))
    with pytest.raises(ConfigError, match=r"frames uint8 \[height, width, 3\]"):
        MBPO(gym.make("CartPole-v1"), None, make_agent())


@pytest.mark.parametrize("bounds", [(-2, 2), (0, 1), (-1, 2), (-0.5, 1)])
def test_action_bounds_other_than_one_are_refused(
    bounds: tuple[float, float], make_env: Callable[..., Any], make_agent: Callable[..., DrQv2]
) -> None:
    env = gym.wrappers.RescaleAction(make_env(), *map(np.float32, bounds))
    with pytest.raises(ConfigError, match=rf"actions in \[-1, 1\], got Box\({bounds[0]:.1f}, {bounds[1]:.1f}"):
        MBPO(env, None, make_agent())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": 0}, "horizon: expected a number above 0, got 0"),
        ({"seed": -1}, "seed: expected a number of at least 0, got -1"),
        ({"max_uncertainty": 0.0}, "max_uncertainty: expected a number above 0"),
        ({"real_ratio": Linear(0.5, 1.5, 10)}, r"real_ratio: expected shares in \[0, 1\]"),
        ({"precision": "float16"}, "precision: expected one of 'auto', 'float32', 'bfloat16', got 'float16'"),
    ],
)
def test_settings_out_of_range_are_refused(
    changes: dict[str, Any], message: str, settings: Callable[..., MBPOConfig]
) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**changes)


def test_without_demonstrations_seed_steps_are_needed(
    make_env: Callable[..., Any], make_agent: Callable[..., DrQv2], settings: Callable[..., MBPOConfig]
) -> None:
    with pytest.raises(ConfigError, match="seed_steps: without demonstrations"):
        MBPO(make_env(), None, make_agent(), settings(seed_steps=0))

"""``ImaginationCallback`` with SB3's own algorithms on the toy simulator."""

import copy
import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common import env_util
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecTransposeImage

from worldgym.agents.sb3 import ImaginationCallback, MixedReplayBuffer, make_vec_env
from worldgym.agents.sb3.callback import _ExploringPolicy
from worldgym.config import CompactTokenizerConfig, TransformerConfig, WorldModelConfig
from worldgym.errors import ConfigError, DataError
from worldgym.training.initial import fresh_world_model
from worldgym.training.online import OnlineConfig, OnlineTrainer
from worldgym.world_model import WorldModel

TABLE = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)
ROLLOUTS, HORIZON = 4, 3


class DiscreteToy(gym.ActionWrapper):
    """The toy simulator with four actions in place of a vector."""

    action_space = gym.spaces.Discrete(4)

    def action(self, action: int) -> np.ndarray:
        return TABLE[action]


def toy(slots: int = 1, wrapper: Callable[[gym.Env], gym.Env] | None = None) -> VecEnv:
    """The toy simulator in episodes of 10 steps, in stacks of three frames."""
    name, arguments = "Simulator-Toy-v0", {"max_episode_steps": 10}
    if wrapper is None:
        return VecFrameStack(make_vec_env(name, slots, 0, **arguments), 3)
    return VecFrameStack(env_util.make_vec_env(lambda: wrapper(gym.make(name, **arguments)), slots, seed=0), 3)


@pytest.fixture
def toy_model() -> WorldModel:
    """A world model of the toy simulator with random weights."""
    tokenizer = CompactTokenizerConfig(32, 2, 8, 1, 4, 4, latent_channels=4, context_codes=16, dynamics_codes=16)
    transformer = TransformerConfig(1, 2, 1, hidden_size=16, mlp_size=32, max_positions=tokenizer.layout.length(8))
    config = WorldModelConfig(tokenizer, transformer, action_dim=2, reward=True)
    untrained = fresh_world_model(config)
    torch.manual_seed(0)
    for weight in untrained.transformer.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return WorldModel(config, untrained.tokenizer, untrained.transformer)


def make_agent(algorithm: type[OffPolicyAlgorithm], envs: VecEnv, **arguments: Any) -> OffPolicyAlgorithm:
    small: dict[str, Any] = {
        "buffer_size": 400,
        "learning_starts": 20,
        "batch_size": 8,
        "policy_kwargs": {"net_arch": [8]},
        "replay_buffer_class": MixedReplayBuffer,
        "replay_buffer_kwargs": {"imagined_size": 200},
        "seed": 0,
    }
    return algorithm("MlpPolicy", envs, **{**small, **arguments})


def make_callback(model: WorldModel, trainer: OnlineTrainer | None = None, **arguments: Any) -> ImaginationCallback:
    small = {"rollout_every": 10, "rollouts": ROLLOUTS, "horizon": HORIZON, "train_every": 10, "updates": 5}
    return ImaginationCallback(model, trainer, **{**small, "batch_size": 2, "segment_length": 7, **arguments})


def full_rollouts(buffer: MixedReplayBuffer) -> dict[str, np.ndarray]:
    """The imagined transitions, ``[batch, rollout, step, ...]``, if all rollouts have full length."""
    part = buffer.imagined
    names = ("observations", "next_observations", "actions", "rewards")
    return {
        name: (held := getattr(part, name)[: part.pos, 0]).reshape(-1, ROLLOUTS, HORIZON, *held.shape[1:])
        for name in names
    }


def with_rewards(model: WorldModel, reward: float) -> WorldModel:
    """A copy that predicts rewards close to this one."""
    model = copy.deepcopy(model)
    head = model.transformer.reward_linear
    torch.nn.init.normal_(head.weight, std=1e-3)
    torch.nn.init.constant_(head.bias, reward)
    return model


class CountImagined(BaseCallback):
    """Records the number of imagined transitions by the number of real steps."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[int, int] = {}

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.counts[self.num_timesteps] = self.model.replay_buffer.imagined.size()

    def batches(self) -> dict[int, int]:
        """Batches of rollouts of full length by the number of real steps."""
        return {steps: count // (ROLLOUTS * HORIZON) for steps, count in self.counts.items()}


def test_rollouts_continue_real_states(toy_model: WorldModel, log_folder: Path) -> None:
    agent = make_agent(SAC, toy(2)).learn(40, make_callback(toy_model))
    buffer = agent.replay_buffer
    assert buffer.observation_space.shape == (9, 32, 32)
    held = full_rollouts(buffer)
    real = {observation.tobytes() for observation in buffer.observations[: buffer.pos].reshape(-1, 9, 32, 32)}
    for start in held["observations"][:, :, 0].reshape(-1, 9, 32, 32):
        assert start.tobytes() in real
    np.testing.assert_array_equal(held["observations"][:, :, 1:], held["next_observations"][:, :, :-1])
    np.testing.assert_array_equal(held["next_observations"][..., :6, :, :], held["observations"][..., 3:, :, :])
    assert np.abs(held["actions"]).max() <= 1
    assert len(np.unique(held["actions"])) == held["actions"].size  # the policy explores in every rollout
    assert np.isfinite(held["rewards"]).all()
    assert held["rewards"].std() > 0
    assert agent.logger.name_to_value["world_model/imagined_length"] == HORIZON
    assert Path(agent.logger.get_dir()) == log_folder  # no folder in the temporary directory


def test_frames_and_rewards_are_those_of_the_world_model(toy_model: WorldModel) -> None:
    model = with_rewards(toy_model, 0.13)
    agent = make_agent(SAC, toy(), learning_starts=30).learn(30, make_callback(model, rollout_every=30, seed=5))
    buffer, held = agent.replay_buffer, full_rollouts(agent.replay_buffer)
    history = buffer.starts(np.random.default_rng(5), ROLLOUTS, 2)
    np.testing.assert_array_equal(held["observations"][0, :, 0], buffer.stacked(history))
    generator = torch.Generator().manual_seed(5)
    expected = model.rollout(history[:, -2:], torch.from_numpy(held["actions"][0]), generator=generator)
    np.testing.assert_array_equal(buffer.newest_frames(held["next_observations"][0]), expected.frames.numpy())
    np.testing.assert_allclose(held["rewards"][0], expected.rewards.numpy(), rtol=1e-5)
    assert len(np.unique(held["rewards"])) == held["rewards"].size


def test_rewards_are_clipped_to_the_range_of_real_ones(toy_model: WorldModel) -> None:
    for predicted, bound in ((100.0, np.max), (-100.0, np.min)):
        callback = make_callback(with_rewards(toy_model, predicted), rollout_every=30)
        buffer = make_agent(SAC, toy(), learning_starts=30).learn(30, callback).replay_buffer
        assert (full_rollouts(buffer)["rewards"] == bound(buffer.rewards[: buffer.pos])).all()


@pytest.mark.parametrize("algorithm", [SAC, DQN])
def test_uncertain_rollouts_are_stored_up_to_their_length(
    toy_model: WorldModel, monkeypatch: pytest.MonkeyPatch, algorithm: type[OffPolicyAlgorithm]
) -> None:
    lengths, step = [3, 1, 0, 2], toy_model.step
    running, moves = np.arange(ROLLOUTS), list[np.ndarray]()

    def uncertain_step(state: Any, action: torch.Tensor, *rest: Any) -> Any:
        nonlocal running
        moves.append(action.numpy())
        state, frame, reward = step(state, action, *rest)
        ends = np.array(lengths)[running] == len(moves) - 1
        state.uncertainty = torch.from_numpy(np.where(ends, 0.7, 0.5)).float()
        running = running[~ends]
        return state, frame, reward

    monkeypatch.setattr(toy_model, "step", uncertain_step)
    discrete = algorithm is DQN
    table = {"action_table": TABLE} if discrete else {}
    agent = make_agent(algorithm, toy(1, DiscreteToy if discrete else None), learning_starts=30)
    agent.learn(30, make_callback(toy_model, rollout_every=30, max_uncertainty=0.6, **table))
    part = agent.replay_buffer.imagined
    assert [len(move) for move in moves] == [4, 3, 2]
    assert part.size() == sum(lengths)
    np.testing.assert_array_equal(np.flatnonzero(part.timeouts[:6, 0]), [2, 3, 5])
    np.testing.assert_array_equal(part.next_observations[[0, 1, 4], 0], part.observations[[1, 2, 5], 0])
    stored = part.actions[:6, 0]
    expected = [moves[0][0], moves[1][0], moves[2][0], moves[0][1], moves[0][3], moves[1][2]]
    np.testing.assert_array_equal(TABLE[stored[:, 0]] if discrete else stored, expected)
    assert agent.logger.name_to_value["world_model/imagined_length"] == 1.5


@pytest.mark.parametrize("algorithm", [SAC, DQN])
def test_rollouts_end_where_the_world_model_terminates_them(
    toy_model: WorldModel, algorithm: type[OffPolicyAlgorithm]
) -> None:
    """With the actions that were chosen for them, as ends and not as time limits."""
    torch.manual_seed(0)
    config = dataclasses.replace(toy_model.config, termination=True)
    model = WorldModel(config, toy_model.tokenizer, fresh_world_model(config).transformer)
    torch.nn.init.constant_(model.transformer.heads["termination"].bias, -0.7)  # a third of the steps
    moves, step = list[np.ndarray](), model.step

    def noted(state: Any, action: torch.Tensor, *rest: Any) -> Any:
        moves.append(action.numpy())
        return step(state, action, *rest)

    model.step = noted  # type: ignore[method-assign]
    discrete = algorithm is DQN
    agent = make_agent(algorithm, toy(1, DiscreteToy if discrete else None), learning_starts=30)
    agent.learn(
        30, make_callback(model, rollout_every=30, rollouts=16, **({"action_table": TABLE} if discrete else {}))
    )
    part = agent.replay_buffer.imagined
    dones, timeouts = part.dones[: part.pos, 0], part.timeouts[: part.pos, 0]
    lengths = np.diff(np.flatnonzero(dones + timeouts), prepend=-1)
    assert len(lengths) == 16
    assert len(set(lengths)) > 1
    np.testing.assert_array_equal(timeouts[np.cumsum(lengths) - 1][lengths < HORIZON], 0)
    assert [len(move) for move in moves] == [int((lengths > at).sum()) for at in range(lengths.max())]
    stored = np.split(part.actions[: part.pos, 0], np.cumsum(lengths)[:-1])
    for at, move in enumerate(moves):
        chosen = np.stack([actions[at] for actions in stored if len(actions) > at])
        np.testing.assert_array_equal(TABLE[chosen[:, 0]] if discrete else chosen, move)


def test_batches_without_a_certain_step_are_left_out(toy_model: WorldModel) -> None:
    agent = make_agent(SAC, toy()).learn(30, make_callback(toy_model, max_uncertainty=1e-9))
    assert agent.replay_buffer.imagined.size() == 0
    assert agent.logger.name_to_value["world_model/imagined_length"] == 0


def test_rollouts_do_not_depend_on_the_callers_torch_settings(
    toy_model: WorldModel, caller_settings: Callable[[], AbstractContextManager[None]]
) -> None:
    callback = make_callback(toy_model, rollout_every=30)
    agent = make_agent(SAC, toy(), learning_starts=30).learn(30, callback)
    part, results = agent.replay_buffer.imagined, []
    for change in (False, True):
        torch.manual_seed(0)
        callback._generator.manual_seed(0)
        callback._rng, part.pos = np.random.default_rng(0), 0
        if change:
            with caller_settings():
                callback._imagine()
        else:
            callback._imagine()
        results.append([array[: part.pos].copy() for array in (part.next_observations, part.actions, part.rewards)])
    for plain, changed in zip(*results, strict=True):
        np.testing.assert_array_equal(plain, changed)


def test_rollouts_keep_pace_with_real_steps(toy_model: WorldModel) -> None:
    count = CountImagined()
    make_agent(SAC, toy(2), learning_starts=24).learn(60, [make_callback(toy_model), count])
    expected = {steps: steps // 10 if steps >= 24 else 0 for steps in range(22, 62, 2)}
    assert {steps: batches for steps, batches in count.batches().items() if steps >= 22} == expected


def test_nothing_happens_before_each_slot_has_the_steps_of_a_segment(toy_model: WorldModel) -> None:
    count, trainer = CountImagined(), OnlineTrainer(toy_model, OnlineConfig(future_frames=2))
    callback = make_callback(toy_model, trainer, updates=1, segment_length=5)
    make_agent(SAC, toy(10), learning_starts=10).learn(60, [callback, count])
    assert count.batches() == {10: 0, 20: 0, 30: 0, 40: 4, 50: 5, 60: 6}
    assert trainer.updates["transformer"] == 6


def test_untrained_world_models_imagine_nothing(toy_model: WorldModel) -> None:
    count, model = CountImagined(), fresh_world_model(toy_model.config)
    trainer = OnlineTrainer(model, OnlineConfig(future_frames=2))
    callback = make_callback(model, trainer, updates=1, segment_length=5, rollout_every=10, train_every=30)
    make_agent(SAC, toy(), learning_starts=10).learn(40, [callback, count])
    assert {steps: count.batches()[steps] for steps in (20, 29, 30, 40)} == {20: 0, 29: 0, 30: 1, 40: 2}


def test_rollouts_after_whole_episodes(toy_model: WorldModel) -> None:
    count, callback = CountImagined(), make_callback(toy_model, rollout_every=5)
    agent = make_agent(SAC, toy(), train_freq=(1, "episode"), learning_starts=0).learn(20, [callback, count])
    assert count.batches() == {10: 2, 20: 4}
    agent.learn(20, [make_callback(toy_model, rollout_every=5), count])  # counts anew, with the same replay buffer
    assert count.batches() == {10: 6, 20: 8}


def test_training_again_ends_the_episode(toy_model: WorldModel) -> None:
    agent = make_agent(SAC, toy()).learn(14, make_callback(toy_model)).learn(3, make_callback(toy_model))
    buffer = agent.replay_buffer
    np.testing.assert_array_equal(np.flatnonzero(buffer.timeouts[:17]), [9, 13])


@pytest.mark.parametrize(
    ("slots", "kind", "sigma"), [(2, NormalActionNoise, 0.1), (1, OrnsteinUhlenbeckActionNoise, 1)]
)
def test_action_noise_explores_in_rollouts(toy_model: WorldModel, slots: int, kind: Any, sigma: float) -> None:
    noise, callback = kind(np.zeros(2), np.full(2, sigma)), make_callback(toy_model)
    agent = make_agent(TD3, toy(slots), action_noise=noise, learning_rate=0.0).learn(34, callback)
    held = full_rollouts(agent.replay_buffer)
    planned = agent.predict(held["observations"].reshape(-1, 9, 32, 32))[0].reshape(held["actions"].shape)
    assert 0.02 < (held["actions"] - planned).std() < 0.3
    assert np.abs(held["actions"]).max() <= 1
    if kind is OrnsteinUhlenbeckActionNoise:
        assert noise.noise_prev.all()
        policy = _ExploringPolicy(agent, agent.replay_buffer, None, ROLLOUTS)
        assert not any(fresh.noise_prev.any() for fresh in policy._noise.noises)


@pytest.mark.parametrize(("low", "high"), [(-2, 2), (0, 1)])
def test_actions_of_other_bounds_are_scaled_for_the_world_model(toy_model: WorldModel, low: int, high: int) -> None:
    moves: list[np.ndarray] = []

    def wrapper(env: gym.Env) -> gym.Env:
        rescaled = gym.wrappers.RescaleAction(env, np.float32(low), np.float32(high))
        return gym.wrappers.TransformAction(
            rescaled, lambda action: moves.append(action) or action, rescaled.action_space
        )

    agent = make_agent(SAC, toy(1, wrapper)).learn(30, make_callback(toy_model))
    real = agent.replay_buffer.actions[:30, 0]
    np.testing.assert_allclose((np.stack(moves) - low) / (high - low) * 2 - 1, real, atol=1e-5)
    assert real.min() < -0.5
    held = full_rollouts(agent.replay_buffer)["actions"]
    assert -1 <= held.min() < -0.5
    assert 0.5 < held.max() <= 1


def test_discrete_actions_use_the_table(toy_model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    moves, step = [], toy_model.step
    monkeypatch.setattr(
        toy_model, "step", lambda state, action, *rest: moves.append(action) or step(state, action, *rest)
    )
    trainer = OnlineTrainer(toy_model)
    agent = make_agent(DQN, toy(2, DiscreteToy), exploration_final_eps=0.5)
    agent.learn(30, make_callback(toy_model, trainer, action_table=TABLE))
    held = full_rollouts(agent.replay_buffer)
    assert held["actions"].shape == (3, ROLLOUTS, HORIZON, 1)
    assert set(held["actions"].flat) <= {0, 1, 2, 3}
    expected = np.stack(moves).reshape(3, HORIZON, ROLLOUTS, 2).swapaxes(1, 2)
    np.testing.assert_array_equal(TABLE[held["actions"][..., 0]], expected)
    assert trainer.updates["transformer"] == 15


def test_the_world_model_is_trained(toy_model: WorldModel) -> None:
    before = {name: weight.clone() for name, weight in toy_model.transformer.state_dict().items()}
    trainer = OnlineTrainer(toy_model)
    callback = make_callback(toy_model, trainer, train_every=20)
    agent = make_agent(SAC, toy()).learn(40, callback)
    assert trainer.updates == {"tokenizer": 2 * 2, "transformer": 2 * 5}
    after = toy_model.transformer.state_dict()
    assert any(not after[name].equal(weight) for name, weight in before.items())
    assert np.isfinite(agent.logger.name_to_value["world_model/transformer_loss"])
    random_state = torch.get_rng_state()
    callback._train(trainer)
    assert torch.get_rng_state().equal(random_state)  # the policy's exploration does not depend on the training


@pytest.mark.parametrize(("trained", "max_uncertainty"), [(True, None), (False, 2.67)])
def test_equal_seeds_give_equal_runs(toy_model: WorldModel, trained: bool, max_uncertainty: float | None) -> None:
    results = []
    for model in (copy.deepcopy(toy_model), copy.deepcopy(toy_model)):
        trainer = OnlineTrainer(model) if trained else None
        callback = make_callback(model, trainer, train_every=20, max_uncertainty=max_uncertainty)
        agent = make_agent(SAC, toy()).learn(25, callback)
        results.append((agent.policy.state_dict(), agent.replay_buffer.imagined.observations))
    assert all(results[0][0][name].equal(results[1][0][name]) for name in results[0][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])
    full, size = 2 * ROLLOUTS * HORIZON, agent.replay_buffer.imagined.size()
    assert size == full if max_uncertainty is None else 0 < size < full


@pytest.mark.parametrize("algorithm", [SAC, TD3, DQN])
def test_n_step_returns_use_the_replay_buffers_arguments(
    toy_model: WorldModel, algorithm: type[OffPolicyAlgorithm]
) -> None:
    discrete = algorithm is DQN
    table = {"action_table": TABLE} if discrete else {}
    returns = {"imagined_size": 200, "n_steps": 3, "gamma": 0.9}
    envs = toy(2, DiscreteToy if discrete else None)
    agent = make_agent(algorithm, envs, gamma=0.9, replay_buffer_kwargs=returns)
    agent.learn(30, make_callback(toy_model, **table))
    discounts = agent.replay_buffer.sample(300).discounts
    np.testing.assert_allclose(np.unique(discounts), [0.9**3, 0.9**2, 0.9], rtol=1e-6)


def test_n_step_returns_that_sb3_would_ignore_raise_an_error(toy_model: WorldModel) -> None:
    with pytest.warns(UserWarning, match="`n_steps=3` is ignored"):
        agent = make_agent(SAC, toy(), n_steps=3)
    with pytest.raises(ConfigError, match=r'n_steps=3 .* got n_steps=1 .*replay_buffer_kwargs={"n_steps": 3, "gamma"'):
        agent.learn(1, make_callback(toy_model))
    other_gamma = make_agent(SAC, toy(), gamma=0.9, replay_buffer_kwargs={"n_steps": 3})
    with pytest.raises(ConfigError, match=r"gamma=0.9, got n_steps=3 and gamma=0.99"):
        other_gamma.learn(1, make_callback(toy_model))


def test_world_models_for_other_environments_raise_errors(toy_model: WorldModel, tiny_checkpoint: Path) -> None:
    other = WorldModel.from_pretrained(tiny_checkpoint)
    learned = make_vec_env("WorldModel-MetaWorld-v0", checkpoint=tiny_checkpoint)
    with pytest.raises(ConfigError, match=r"world model's frames \(32, 32, 3\), got frames \(64, 64, 3\)"):
        make_agent(SAC, learned).learn(1, make_callback(toy_model))
    with pytest.raises(ConfigError, match=r"world model's frames \(64, 64, 3\), got frames \(32, 32, 3\)"):
        make_agent(SAC, toy()).learn(1, make_callback(other))
    wider = gym.wrappers.TransformAction(
        gym.make("WorldModel-MetaWorld-v0", checkpoint=tiny_checkpoint),
        lambda action: action[:4],
        gym.spaces.Box(-1, 1, (5,), np.float32),
    )
    with pytest.raises(ConfigError, match=r"world model's 4 continuous actions, got Box\(-1.0, 1.0, \(5,\)"):
        make_agent(SAC, VecTransposeImage(DummyVecEnv([lambda: wider]))).learn(1, make_callback(other))


def test_wrong_action_tables_raise_errors(toy_model: WorldModel) -> None:
    with pytest.raises(ConfigError, match="action_table: expected None for continuous actions"):
        make_agent(SAC, toy()).learn(1, make_callback(toy_model, action_table=TABLE))
    agent = make_agent(DQN, toy(1, DiscreteToy))
    for table in (None, TABLE[:3], TABLE * np.nan, TABLE * 2):
        with pytest.raises(ConfigError, match=r"action_table: expected float \[4, 2\] in \[-1, 1\], .* 4 discrete act"):
            agent.learn(1, make_callback(toy_model, action_table=table))


def test_algorithms_that_do_not_fit_raise_errors(toy_model: WorldModel) -> None:
    with pytest.raises(ConfigError, match=r"replay_buffer_class=MixedReplayBuffer, got PPO with NoneType"):
        PPO("MlpPolicy", toy(), n_steps=4, batch_size=4).learn(4, make_callback(toy_model))
    plain = make_agent(SAC, toy(), replay_buffer_class=None, replay_buffer_kwargs=None)
    with pytest.raises(ConfigError, match=r"got SAC with ReplayBuffer"):
        plain.learn(1, make_callback(toy_model))
    with pytest.raises(ConfigError, match=r'one batch of rollouts, 12 transitions, got 5: raise .*"imagined_size"'):
        make_agent(SAC, toy(), replay_buffer_kwargs={"imagined_size": 5}).learn(1, make_callback(toy_model))


def test_wrong_arguments_raise_errors(toy_model: WorldModel, tiny_checkpoint: Path) -> None:
    for name in ("rollout_every", "rollouts", "horizon", "train_every", "updates", "batch_size"):
        with pytest.raises(ConfigError, match=f"{name}: expected at least 1, got 0"):
            make_callback(toy_model, **{name: 0})
    for value in (0, float("nan")):
        with pytest.raises(ConfigError, match="max_uncertainty: expected None or a number above 0"):
            make_callback(toy_model, max_uncertainty=value)
    with pytest.raises(ConfigError, match="trainer: expected one of the callback's world model, got one of another"):
        make_callback(toy_model, OnlineTrainer(WorldModel.from_pretrained(tiny_checkpoint)))


def test_segments_that_the_trainer_cannot_use_raise_an_error_at_once(toy_model: WorldModel) -> None:
    trainer = OnlineTrainer(toy_model)
    assert (trainer.segment_lengths.start, trainer.segment_lengths.stop) == (7, 11)
    for length in (2, 6, 11):
        with pytest.raises(ConfigError, match=f"segment_length: the trainer needs .* 7 to 10 frames, got {length}"):
            make_callback(toy_model, trainer, segment_length=length)
        make_callback(toy_model, segment_length=length)  # is not used without a trainer


def test_segments_longer_than_episodes_raise_an_error(toy_model: WorldModel) -> None:
    callback = make_callback(toy_model, OnlineTrainer(toy_model), segment_length=10)
    short = make_vec_env("Simulator-Toy-v0", seed=0, max_episode_steps=8)
    with pytest.raises(ConfigError, match=r"episodes of at least 9 steps, .* got max_episode_steps=8"):
        make_agent(SAC, VecFrameStack(short, 3)).learn(30, callback)

    class Terminating(gym.Wrapper):
        """Ends every episode after four steps, which no time limit says."""

        def reset(self, **arguments: Any) -> Any:
            self.count = 0
            return super().reset(**arguments)

        def step(self, action: Any) -> Any:
            self.count += 1
            frame, reward, _, truncated, info = super().step(action)
            return frame, reward, self.count == 4, truncated, info

    with pytest.raises(
        DataError, match=r"an episode with 9 successive steps .* raise learning_starts or lower segment"
    ):
        make_agent(SAC, toy(1, Terminating)).learn(30, callback)

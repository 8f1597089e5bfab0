"""The bridge against SB3 itself: its DummyVecEnv around single environments, its algorithms, its checks."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common import env_util
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecTransposeImage,
)
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from worldgym.agents.sb3 import BatchedVecEnv, ImaginationCallback, MixedReplayBuffer, make_vec_env
from worldgym.config import CompactTokenizerConfig, TransformerConfig, WorldModelConfig
from worldgym.envs.contract import Frame
from worldgym.errors import ConfigError, DataError, InvalidAction, InvalidOption
from worldgym.tokenizer import build_tokenizer
from worldgym.training.initial import fresh_world_model
from worldgym.training.online import OnlineConfig, OnlineTrainer
from worldgym.transformer.llama import Transformer
from worldgym.world_model import WorldModel

ID = "WorldModel-MetaWorld-v0"
SLOTS = 3
STEPS = 5


def make(checkpoint: Path, seed: int | None = 7, **arguments: Any) -> VecEnv:
    return make_vec_env(ID, SLOTS, seed, checkpoint=checkpoint, **{"max_episode_steps": STEPS, **arguments})


def reference(checkpoint: Path, seed: int | None = 7, **arguments: Any) -> VecEnv:
    """The same by SB3 alone: one single environment a slot."""
    arguments = {"checkpoint": checkpoint, "max_episode_steps": STEPS, **arguments}
    return env_util.make_vec_env(ID, SLOTS, seed, env_kwargs=arguments)


def actions(steps: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).uniform(-1, 1, (steps, SLOTS, 4)).astype(np.float32))


def assert_frames_alike(one: Frame, two: Frame) -> None:
    assert one.dtype == two.dtype == np.uint8
    assert one.shape == two.shape
    np.testing.assert_allclose(one.astype(int), two.astype(int), atol=1)  # last bits depend on the batch size


def assert_infos_alike(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    for ours, theirs in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert type(value) is type(theirs[name]), name
            if name == "terminal_observation":
                assert_frames_alike(value, theirs[name])
            elif name == "episode":
                assert value.keys() == theirs[name].keys() == {"r", "l", "t"}
                assert value["l"] == theirs[name]["l"]
                assert value["r"] == pytest.approx(theirs[name]["r"], abs=1e-4)
                assert value["t"] > 0
            elif isinstance(value, float):
                assert value == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name
            else:
                assert value == theirs[name], name


def assert_in_step(ours: VecEnv, theirs: VecEnv, steps: int) -> int:
    """Reset and step both alike; how many episodes ended."""
    assert_frames_alike(ours.reset(), theirs.reset())
    assert_infos_alike(ours.reset_infos, theirs.reset_infos)
    ended = 0
    for action in actions(steps):
        (frames, rewards, dones, infos), wanted = ours.step(action), theirs.step(action)
        assert_frames_alike(frames, wanted[0])
        assert rewards.dtype == wanted[1].dtype
        np.testing.assert_allclose(rewards, wanted[1], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(dones, wanted[2])
        assert_infos_alike(infos, wanted[3])
        assert_infos_alike(ours.reset_infos, theirs.reset_infos)
        ended += dones.sum()
    return ended


def test_equal_to_sb3_around_single_environments(tiny_checkpoint: Path) -> None:
    ours, theirs = make(tiny_checkpoint), reference(tiny_checkpoint)
    assert isinstance(ours, BatchedVecEnv)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    np.testing.assert_array_equal(ours.action_space.sample(), theirs.action_space.sample())
    assert assert_in_step(ours, theirs, 12) == 2 * SLOTS
    assert assert_in_step(ours, theirs, 6) == SLOTS  # an early reset begins the statistics anew


def test_the_frame_of_the_end_is_kept_and_the_next_episode_shown(tiny_checkpoint: Path) -> None:
    short, long = make(tiny_checkpoint), make(tiny_checkpoint, max_episode_steps=-1)
    short.reset(), long.reset()
    for action in actions(STEPS):
        frames, _, dones, infos = short.step(action)
        real, *_ = long.step(action)
    assert dones.all()
    for slot, info in enumerate(infos):
        assert info["TimeLimit.truncated"]
        np.testing.assert_array_equal(info["terminal_observation"], real[slot])
        assert not np.array_equal(info["terminal_observation"], frames[slot])
        assert "start" in short.reset_infos[slot]


def test_seeds_count_at_the_next_reset_and_once(tiny_checkpoint: Path) -> None:
    envs, same = make(tiny_checkpoint, seed=None), make(tiny_checkpoint, seed=None)
    assert envs.seed(3) == same.seed(3) == [3, 4, 5]
    first = envs.reset()
    assert envs.get_attr("np_random_seed") == [3, 4, 5]
    np.testing.assert_array_equal(first, same.reset())
    more = [envs.reset() for _ in range(5)]
    assert any(not np.array_equal(first, frames) for frames in more)
    np.testing.assert_array_equal(more[0], same.reset())
    envs.seed(3)
    np.testing.assert_array_equal(first, envs.reset())


def test_without_a_seed_episodes_differ(tiny_checkpoint: Path) -> None:
    seeds = [tuple(make(tiny_checkpoint, seed=None)._seeds) for _ in range(2)]
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize(
    "options", [{"start": 1}, [{"start": 0}, {"start": 3}, {}], [{}, {"start": 3}, {"start": 3}]], ids=str
)
def test_options_count_at_the_next_reset_and_once(tiny_checkpoint: Path, options: Any) -> None:
    ours, theirs = make(tiny_checkpoint, task="hammer"), reference(tiny_checkpoint, task="hammer")
    for envs in (ours, theirs):
        envs.set_options(options)
    assert_in_step(ours, theirs, 3)
    for slot, wanted in enumerate([options] * SLOTS if isinstance(options, dict) else options):
        assert ours.reset_infos[slot]["start"] == wanted.get("start", ours.reset_infos[slot]["start"])
    assert ours._options == [{}] * SLOTS


def test_frames_to_start_from_need_no_bank(tiny_checkpoint: Path, real_frames: Frame) -> None:
    (model,) = make_vec_env(ID, checkpoint=tiny_checkpoint).get_attr("world_model")
    envs = make_vec_env(ID, 2, checkpoint=model)
    envs.set_options({"frames": real_frames})
    np.testing.assert_array_equal(envs.reset(), real_frames[[-1, -1]])
    envs.set_options([{"frames": real_frames}, {"frames": real_frames[::-1]}])
    np.testing.assert_array_equal(envs.reset(), real_frames[::-1])


def test_one_batched_pass_a_step(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    envs = make(tiny_checkpoint)
    model, rows = envs.get_attr("world_model")[0], []
    step = model.step
    monkeypatch.setattr(
        model, "step", lambda state, *rest, **named: rows.append(len(state)) or step(state, *rest, **named)
    )
    envs.reset()
    envs.step(actions(1)[0])
    assert rows == [SLOTS]


def test_attributes_as_of_single_environments(tiny_checkpoint: Path) -> None:
    ours, theirs = make(tiny_checkpoint), reference(tiny_checkpoint)
    ours.reset(), theirs.reset()
    for name in ("observation_space", "action_space", "render_mode", "world_model", "np_random_seed"):
        for indices in (None, 1, [2, 0], -1):
            assert ours.get_attr(name, indices) == theirs.get_attr(name, indices), name
    assert ours.render_mode == theirs.render_mode == "rgb_array"
    assert ours.metadata["render_fps"] == theirs.metadata["render_fps"]
    assert ours.has_attr("world_model")
    assert not ours.has_attr("nonsense")
    for name in (Monitor, gym.Wrapper):
        assert ours.env_is_wrapped(name, [0, 1]) == theirs.env_is_wrapped(name, [0, 1]) == [True, True]
    assert ours.env_is_wrapped(gym.wrappers.FrameStackObservation) == [False] * SLOTS
    ours.set_attr("label", "x")
    assert ours.get_attr("label", [0]) == ["x"]
    with pytest.raises(IndexError):
        ours.get_attr("label", SLOTS)


def test_pictures_as_of_single_environments(tiny_checkpoint: Path) -> None:
    ours, theirs = make(tiny_checkpoint), reference(tiny_checkpoint)
    ours.reset(), theirs.reset()
    ours.step(actions(1)[0]), theirs.step(actions(1)[0])
    assert_frames_alike(ours.render(), theirs.render())  # tiled
    assert ours.render().shape == (128, 128, 3)
    for picture, wanted in zip(ours.env_method("render", indices=[2, 0]), theirs.get_images()[::-2], strict=True):
        assert_frames_alike(picture, wanted)
    blind = make(tiny_checkpoint, render_mode=None)
    blind.reset()
    assert blind.get_images() == [None] * SLOTS


def test_what_slots_share_is_not_changed_for_some(tiny_checkpoint: Path) -> None:
    envs = make(tiny_checkpoint)
    envs.reset()
    with pytest.raises(InvalidOption, match="3 slots share the attribute 'label'"):
        envs.set_attr("label", "x", indices=[0, 1])
    with pytest.raises(InvalidOption, match="share the method 'close_extras'"):
        envs.env_method("close_extras", indices=0)
    for name in ("reset", "step"):
        with pytest.raises(InvalidOption, match=rf"call {name}\(\) of the VecEnv"):
            envs.env_method(name)
    assert envs.env_method("close_extras") == [None] * SLOTS


def test_bad_arguments_are_named(tiny_checkpoint: Path) -> None:
    for env_id in (ID, "Simulator-MetaWorld-v0"):
        with pytest.raises(InvalidOption, match="n_envs must be at least 1, got 0"):
            make_vec_env(env_id, 0)
    with pytest.raises(gym.error.NameNotFound, match="WorldModel-Metaworld"):
        make_vec_env("WorldModel-Metaworld-v0")
    with pytest.raises(InvalidOption, match="SB3 needs autoreset_mode"):
        BatchedVecEnv(gym.make_vec(ID, checkpoint=tiny_checkpoint, autoreset_mode=AutoresetMode.NEXT_STEP))
    envs = make(tiny_checkpoint)
    envs.reset()
    with pytest.raises(InvalidAction, match="slot 1"):
        envs.step(np.where(np.arange(SLOTS)[:, None] == 1, np.nan, np.zeros((SLOTS, 4))))


def test_an_id_may_name_the_module_that_registers_it(tiny_checkpoint: Path) -> None:
    assert make_vec_env(f"worldgym:{ID}", 2, checkpoint=tiny_checkpoint).reset().shape == (2, 64, 64, 3)


def test_sb3_finds_no_fault_with_the_single_environment(tiny_checkpoint: Path) -> None:
    check_env(gym.make(ID, checkpoint=tiny_checkpoint))


def test_ppo_trains_on_pictures(tiny_checkpoint: Path) -> None:
    envs = make(tiny_checkpoint)
    agent = PPO("CnnPolicy", envs, n_steps=8, batch_size=12, n_epochs=1, seed=0)
    before = [weight.clone() for weight in agent.policy.parameters()]
    agent.learn(2 * SLOTS * 8)
    assert agent.num_timesteps == 2 * SLOTS * 8
    assert any(not weight.equal(old) for weight, old in zip(agent.policy.parameters(), before, strict=True))
    assert len(agent.ep_info_buffer) == SLOTS * (16 // STEPS)
    returns, lengths = evaluate_policy(agent, envs, SLOTS, return_episode_rewards=True)  # warns of what it misses
    assert lengths == [STEPS] * SLOTS
    assert np.isfinite(returns).all()


def test_equal_seeds_train_equal_agents(tiny_checkpoint: Path) -> None:
    weights = []
    for _ in range(2):
        agent = PPO("CnnPolicy", make(tiny_checkpoint, seed=None), n_steps=4, batch_size=12, n_epochs=1, seed=5)
        weights.append(agent.learn(SLOTS * 4).policy.state_dict())
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def test_sac_trains_on_stacks(tiny_checkpoint: Path) -> None:
    envs = VecFrameStack(make(tiny_checkpoint), 3)
    assert envs.observation_space.shape == (64, 64, 9)
    agent = SAC("CnnPolicy", envs, buffer_size=60, learning_starts=18, batch_size=4, seed=0)
    before = [weight.clone() for weight in agent.actor.parameters()]
    agent.learn(30)
    assert any(not weight.equal(old) for weight, old in zip(agent.actor.parameters(), before, strict=True))
    buffer = agent.replay_buffer
    np.testing.assert_array_equal(np.flatnonzero(buffer.dones[:, 0]), [4, 9])
    np.testing.assert_array_equal(buffer.timeouts, buffer.dones)
    # The stack stored as the last one holds the frame of the end, not the next episode's first.
    np.testing.assert_array_equal(buffer.next_observations[4, :, :6], buffer.observations[4, :, 3:])
    assert not np.array_equal(buffer.next_observations[4, :, 6:], buffer.observations[5, :, 6:])


def test_a_second_monitor_is_noticed(tiny_checkpoint: Path) -> None:
    with pytest.warns(UserWarning, match="already wrapped with a `Monitor`"):
        VecMonitor(make(tiny_checkpoint))


@pytest.mark.simulator
@pytest.mark.parametrize("subprocess", [False, True])
def test_simulators_by_the_same_call(subprocess: bool) -> None:
    arguments = {"task": "hammer", "max_episode_steps": 2}
    envs = make_vec_env("Simulator-MetaWorld-v0", 1, 3, subprocess=subprocess, **arguments)
    assert type(envs) is (SubprocVecEnv if subprocess else DummyVecEnv)
    single = gym.make("Simulator-MetaWorld-v0", **arguments)
    frame, _ = single.reset(seed=3)
    np.testing.assert_array_equal(envs.reset(), frame[None])
    for action in actions(2):
        frame, reward, *_ = single.step(action[0])
        frames, rewards, dones, infos = envs.step(action[:1])
        np.testing.assert_allclose(rewards, [reward], rtol=1e-6)
    assert dones.all()
    assert infos[0]["TimeLimit.truncated"]
    assert infos[0]["episode"]["l"] == 2
    np.testing.assert_array_equal(infos[0]["terminal_observation"], frame)
    assert not np.array_equal(frames[0], frame)
    assert envs.render().shape == (64, 64, 3)
    envs.close()
    single.close()


def test_without_sb3_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['stable_baselines3'] = None\nimport worldgym.agents\nimport worldgym.agents.sb3"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "DependencyNotInstalled" in done.stderr.splitlines()[-1]
    assert "pip install worldgym[sb3]" in done.stderr.splitlines()[-1]


SIDE = 12
LENGTHS = (7, 5, 9)
"""Of episodes, in turn, in every slot of :func:`filled`."""


def stack_space(channels_first: bool, stack: int) -> gym.spaces.Box:
    shape = (3 * stack, SIDE, SIDE) if channels_first else (SIDE, SIDE, 3 * stack)
    return gym.spaces.Box(0, 255, shape, np.uint8)


def named_frame(slot: int, episode: int, step: int) -> Frame:
    """A picture that says which one it is."""
    return np.full((SIDE, SIDE, 3), (slot, episode, step), np.uint8)


def named_stack(space: gym.spaces.Box, slot: int, episode: int, step: int) -> np.ndarray:
    """What VecFrameStack shows at a step: black where the episode had not begun."""
    count = min(space.shape) // 3
    frames = [named_frame(slot, episode, at) * (at >= 0) for at in range(step - count + 1, step + 1)]
    stacked = np.concatenate(frames, axis=-1)
    return stacked if space.shape[0] == SIDE else np.moveaxis(stacked, -1, 0)


def filled(steps: int, channels_first: bool = True, stack: int = 3, **arguments: Any) -> MixedReplayBuffer:
    """A buffer of 40 rows and two slots out of step with each other, as SB3 fills it."""
    space = stack_space(channels_first, stack)
    buffer = MixedReplayBuffer(80, space, gym.spaces.Box(-1, 1, (2,), np.float32), "cpu", n_envs=2, **arguments)
    where = [[0, 0], [0, 3]]  # episode and step of each slot
    for _ in range(steps):
        obs = np.stack([named_stack(space, slot, *at) for slot, at in enumerate(where)])
        following = np.stack([named_stack(space, slot, at[0], at[1] + 1) for slot, at in enumerate(where)])
        action = np.array([[at[0] / 100, at[1] / 100] for at in where], np.float32)
        done = np.array([at[1] + 1 == LENGTHS[at[0] % 3] for at in where])
        infos = [{"TimeLimit.truncated": bool(end)} for end in done]
        buffer.add(obs, following, action, action.sum(1), done, infos)
        where = [[at[0] + 1, 0] if end else [at[0], at[1] + 1] for at, end in zip(where, done, strict=True)]
    return buffer


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("steps", [17, 40, 101])
def test_segments_are_stretches_of_one_episode(channels_first: bool, stack: int, steps: int) -> None:
    buffer = filled(steps, channels_first, stack)
    assert buffer.frame_shape == (SIDE, SIDE, 3)
    frames, actions, rewards = buffer.segments(np.random.default_rng(0), 500, 6)
    assert frames.shape == (500, 6, SIDE, SIDE, 3)
    assert frames.dtype == np.uint8
    names = frames[:, :, 0, 0]
    np.testing.assert_array_equal(frames, np.broadcast_to(names[:, :, None, None], frames.shape))
    np.testing.assert_array_equal(names[:, :, :2], np.broadcast_to(names[:, :1, :2], (500, 6, 2)))
    np.testing.assert_array_equal(np.diff(names[:, :, 2].astype(int), axis=1), 1)
    np.testing.assert_allclose(actions, names[:, :-1, 1:] / 100, rtol=1e-6)
    np.testing.assert_allclose(rewards, actions.sum(2), rtol=1e-6)
    assert {tuple(name) for name in names[:, 0]} == possible_starts(steps, 5)


def possible_starts(steps: int, length: int) -> set[tuple[int, int, int]]:
    """Where stretches of so many steps begin among the last 40 that :func:`filled` has stored."""
    found = set()
    for slot, offset in enumerate((0, 3)):
        places = [(episode, step) for episode in range(30) for step in range(LENGTHS[episode % 3])]
        held = places[offset:][:steps][-40:]
        for start, (episode, step) in enumerate(held):
            if held[start : start + length] == [(episode, step + more) for more in range(length)]:
                found.add((slot, episode, step))
    return found


@pytest.mark.parametrize("channels_first", [True, False])
def test_starts_come_with_the_frames_before_them(channels_first: bool) -> None:
    buffer = filled(101, channels_first)
    observations, frames = buffer.starts(np.random.default_rng(0), 300, 2)
    for observation, names in zip(observations, frames[:, :, 0, 0].astype(int), strict=True):
        slot, episode, step = names[1]
        np.testing.assert_array_equal(observation, named_stack(buffer.observation_space, slot, episode, step))
        assert names[0].tolist() == [slot, episode, step - 1]


def test_an_environment_reset_in_between_ends_the_episode() -> None:
    buffer = filled(4)
    buffer.segments(np.random.default_rng(0), 1, 5)
    buffer.cut()
    more = filled(4)
    for row in range(4):
        rest = [part[row] for part in (more.observations, more.next_observations, more.actions, more.rewards)]
        buffer.add(*rest, more.dones[row], [{}, {}])
    names = buffer.segments(np.random.default_rng(0), 100, 4)[0][:, :, 0, 0]
    np.testing.assert_array_equal(np.diff(names[:, :, 2].astype(int), axis=1), 1)


def test_training_again_resets_the_environment(toy_model: WorldModel) -> None:
    agent = agent_of(SAC, toy()).learn(14, callback_of(toy_model)).learn(3, callback_of(toy_model))
    np.testing.assert_array_equal(np.flatnonzero(agent.replay_buffer._ends[:17]), [9, 13])


def test_too_short_episodes_are_named() -> None:
    for steps in (0, 3, 101):
        with pytest.raises(DataError, match="no episode of the replay holds 10 successive steps"):
            filled(steps).segments(np.random.default_rng(0), 1, 11)


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("stack", [1, 3])
def test_stacks_move_on_as_vec_frame_stack_moves_them(channels_first: bool, stack: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 2, SIDE, SIDE, 3), np.uint8)
    as_shown = np.moveaxis(frames, -1, 2) if channels_first else frames
    single = stack_space(channels_first, 1)
    theirs = StackedObservations(2, stack, single)
    buffer = MixedReplayBuffer(9, theirs.stacked_observation_space, gym.spaces.Box(-1, 1, (2,)), "cpu")
    ours = theirs.reset(as_shown[0]).copy()
    for shown, frame in zip(as_shown[1:], frames[1:], strict=True):
        ours = buffer.pushed(ours, frame)
        np.testing.assert_array_equal(ours, theirs.update(shown, np.zeros(2, np.bool_), [{}, {}])[0])
        np.testing.assert_array_equal(buffer.newest(ours), frame)


def imagined(buffer: MixedReplayBuffer, count: int, value: float) -> tuple[np.ndarray, ...]:
    pictures = np.full((2, count, *buffer.obs_shape), value, np.uint8)
    return pictures[0], pictures[1], np.full((count, 2), value / 256, np.float32), np.full(count, value, np.float32)


@pytest.mark.parametrize(("ratio", "real"), [(0.5, 32), (0.25, 16), (0.0, 0), (1.0, 64)])
def test_batches_mix_real_and_imagined(ratio: float, real: int) -> None:
    buffer = filled(20, real_ratio=ratio, imagined_size=10)
    assert (buffer.sample(64).rewards < 1).all()  # nothing imagined yet
    buffer.add_imagined(*imagined(buffer, 4, 200))
    batch = buffer.sample(64)
    assert batch.rewards.shape == batch.dones.shape == (64, 1)
    assert batch.observations.shape == batch.next_observations.shape == (64, 9, SIDE, SIDE)
    made_up = batch.rewards[:, 0] == 200
    np.testing.assert_array_equal(made_up, np.arange(64) >= real)
    np.testing.assert_array_equal((batch.observations == 200).all(dim=(1, 2, 3)), made_up)
    np.testing.assert_array_equal((batch.actions == 200 / 256).all(dim=1), made_up)
    assert not batch.dones.any()


def test_the_oldest_imagined_transitions_give_way() -> None:
    buffer = filled(20, imagined_size=10, real_ratio=0.0)
    for value, left in ((100, {100}), (101, {100, 101}), (102, {100, 101, 102}), (103, {101, 102, 103})):
        buffer.add_imagined(*imagined(buffer, 4 - (value == 102), value))
        assert set(buffer.sample(300).rewards.unique().tolist()) == left
    assert buffer.imagined.size() == 10
    assert (buffer.imagined.rewards[:, 0] == 101).sum() == 3
    buffer.reset()
    assert buffer.imagined.size() == buffer.size() == 0


def test_what_is_not_finite_is_refused_and_not_stored() -> None:
    buffer = filled(3)
    pictures = buffer.observations[0]
    good, nothing = np.zeros((2, 2), np.float32), np.zeros(2, np.float32)
    for store in (lambda *rest: buffer.add(*rest, np.zeros(2), [{}, {}]), buffer.add_imagined):
        with pytest.raises(InvalidAction, match="finite"):
            store(pictures, pictures, good * np.nan, nothing)
        with pytest.raises(DataError, match=r"expected finite rewards, got .*inf"):
            store(pictures, pictures, good, nothing + np.inf)
    assert buffer.size() == 3
    assert buffer.imagined.size() == 0


def test_buffers_that_cannot_be() -> None:
    space, actions = stack_space(True, 3), gym.spaces.Box(-1, 1, (2,))
    for bad in (gym.spaces.Box(-1, 1, (9,)), gym.spaces.Box(0, 255, (4, SIDE, SIDE), np.uint8), gym.spaces.Discrete(3)):
        with pytest.raises(ConfigError, match="expected observations of uint8 frames"):
            MixedReplayBuffer(9, bad, actions)
    for arguments in ({"imagined_size": 0}, {"real_ratio": 1.5}, {"real_ratio": float("nan")}):
        with pytest.raises(ConfigError, match="imagined_size of at least 1 and a real_ratio in"):
            MixedReplayBuffer(9, space, actions, **arguments)
    with pytest.raises(ConfigError, match="leave optimize_memory_usage out"):
        MixedReplayBuffer(9, space, actions, optimize_memory_usage=True, handle_timeout_termination=False)


MOVES = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)


class ToyMoves(gym.ActionWrapper):
    """The toy with four actions in place of a vector."""

    action_space = gym.spaces.Discrete(4)

    def action(self, action: int) -> np.ndarray:
        return MOVES[action]


def toy(slots: int = 1, discrete: bool = False) -> VecEnv:
    """The toy in episodes of 10 steps, in stacks of three frames."""
    name, arguments = "Simulator-Toy-v0", {"max_episode_steps": 10}
    if discrete:
        envs = env_util.make_vec_env(lambda: ToyMoves(gym.make(name, **arguments)), slots, seed=0)
    else:
        envs = make_vec_env(name, slots, 0, **arguments)
    return VecFrameStack(envs, 3)


@pytest.fixture
def toy_model() -> WorldModel:
    """A world model of the toy with random weights."""
    tokenizer = CompactTokenizerConfig(32, 2, 8, 1, 4, 4, latent_channels=4, context_codes=16, dynamics_codes=16)
    transformer = TransformerConfig(1, 2, 1, hidden_size=16, mlp_size=32, max_positions=tokenizer.layout.length(8))
    config = WorldModelConfig(tokenizer, transformer, action_dim=2, reward=True)
    torch.manual_seed(0)
    parts = build_tokenizer(tokenizer), Transformer(transformer, config.layout, config.action_dim, config.reward)
    for weight in parts[1].parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return WorldModel(config, *parts)


def agent_of(algorithm: type[OffPolicyAlgorithm], envs: VecEnv, **arguments: Any) -> OffPolicyAlgorithm:
    buffer = arguments.pop("replay_buffer_kwargs", {"imagined_size": 200})
    small: dict[str, Any] = {
        "buffer_size": 400,
        "learning_starts": 20,
        "batch_size": 8,
        "policy_kwargs": {"net_arch": [8]},
    }
    named = {"replay_buffer_class": MixedReplayBuffer, "replay_buffer_kwargs": buffer, "seed": 0, **small, **arguments}
    return algorithm("MlpPolicy", envs, **named)


def callback_of(model: WorldModel, trainer: OnlineTrainer | None = None, **arguments: Any) -> ImaginationCallback:
    small = {"every": 10, "rollout_batch": 4, "horizon": 3, "refresh_every": 10, "updates": 5, "batch_size": 2}
    return ImaginationCallback(model, trainer, **{**small, "segment_length": 7, **arguments})


def rollouts(buffer: MixedReplayBuffer, batch: int = 4, horizon: int = 3) -> dict[str, np.ndarray]:
    """What was imagined, ``[rounds, horizon, batch, ...]``."""
    part, rounds = buffer.imagined, buffer.imagined.pos // (batch * horizon)
    names = ("observations", "next_observations", "actions", "rewards")
    held = {name: getattr(part, name)[: part.pos, 0] for name in names}
    return {name: values.reshape(rounds, horizon, batch, *values.shape[1:]) for name, values in held.items()}


def test_rollouts_go_on_from_real_states(toy_model: WorldModel) -> None:
    agent = agent_of(SAC, toy(2)).learn(40, callback_of(toy_model))
    buffer = agent.replay_buffer
    assert buffer.observation_space.shape == (9, 32, 32)
    held = rollouts(buffer)
    real = {observation.tobytes() for observation in buffer.observations[: buffer.pos].reshape(-1, 9, 32, 32)}
    for start in held["observations"][:, 0].reshape(-1, 9, 32, 32):
        assert start.tobytes() in real
    np.testing.assert_array_equal(held["observations"][:, 1:], held["next_observations"][:, :-1])
    np.testing.assert_array_equal(held["next_observations"][:, :, :, :6], held["observations"][:, :, :, 3:])
    assert np.abs(held["actions"]).max() <= 1
    assert len(np.unique(held["actions"])) == held["actions"].size  # the policy explores in every rollout
    assert np.isfinite(held["rewards"]).all()
    assert held["rewards"].std() > 0


def promising(model: WorldModel, reward: float) -> WorldModel:
    """A copy whose rewards lie around this one."""
    model = copy.deepcopy(model)
    head = model.transformer.reward_linear
    torch.nn.init.normal_(head.weight, std=1e-3)
    torch.nn.init.constant_(head.bias, reward)
    return model


def test_frames_and_rewards_are_the_world_models(toy_model: WorldModel) -> None:
    model = promising(toy_model, 0.13)
    agent = agent_of(SAC, toy(), learning_starts=30).learn(30, callback_of(model, every=30, seed=5))
    buffer, held = agent.replay_buffer, rollouts(agent.replay_buffer)
    observations, context = buffer.starts(np.random.default_rng(5), 4, 2)
    np.testing.assert_array_equal(held["observations"][0, 0], observations)
    drawn = torch.Generator().manual_seed(5)
    actions = torch.from_numpy(held["actions"][0]).movedim(0, 1)
    wanted = model.rollout(context, actions, generator=drawn)
    np.testing.assert_array_equal(buffer.newest(held["next_observations"][0]), wanted.frames.numpy().swapaxes(0, 1))
    np.testing.assert_allclose(held["rewards"][0], wanted.rewards.numpy().T, rtol=1e-5)
    assert len(np.unique(held["rewards"])) == held["rewards"].size


def test_rewards_beyond_the_real_ones_are_not_believed(toy_model: WorldModel) -> None:
    for promised, bound in ((100.0, np.max), (-100.0, np.min)):
        agent = agent_of(SAC, toy(), learning_starts=30).learn(
            30, callback_of(promising(toy_model, promised), every=30)
        )
        buffer = agent.replay_buffer
        assert (rollouts(buffer)["rewards"] == bound(buffer.rewards[: buffer.pos])).all()


class Rounds(BaseCallback):
    """Notes after how many real steps the replay holds how many imagined transitions."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, int] = {}

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.seen[self.num_timesteps] = self.model.replay_buffer.imagined.size()


def test_rollouts_keep_up_with_real_steps(toy_model: WorldModel) -> None:
    rounds = Rounds()
    agent_of(SAC, toy(2), learning_starts=24).learn(60, [callback_of(toy_model), rounds])
    assert {steps: count // 12 for steps, count in rounds.seen.items() if steps >= 22} == {
        steps: steps // 10 if steps >= 24 else 0 for steps in range(22, 62, 2)
    }


def test_of_many_environments_each_takes_as_many_steps_as_a_segment_has_before_anything_is_due(
    toy_model: WorldModel,
) -> None:
    rounds, model = Rounds(), copy.deepcopy(toy_model)
    trainer = OnlineTrainer(model, OnlineConfig(future_frames=2))
    callback = callback_of(model, trainer, updates=1, segment_length=5)
    agent_of(SAC, toy(10), learning_starts=10).learn(60, [callback, rounds])
    assert {steps: count // 12 for steps, count in rounds.seen.items()} == {10: 0, 20: 0, 30: 0, 40: 4, 50: 5, 60: 6}
    assert trainer.updates["transformer"] == 6


def test_nothing_is_imagined_by_a_model_that_its_trainer_has_taught_nothing_yet(toy_model: WorldModel) -> None:
    rounds, model = Rounds(), fresh_world_model(toy_model.config)
    trainer = OnlineTrainer(model, OnlineConfig(future_frames=2))
    callback = callback_of(model, trainer, updates=1, segment_length=5, every=10, refresh_every=30)
    agent_of(SAC, toy(), learning_starts=10).learn(40, [callback, rounds])
    assert {steps: rounds.seen[steps] // 12 for steps in (20, 29, 30, 40)} == {20: 0, 29: 0, 30: 1, 40: 2}


def test_rollouts_after_whole_episodes(toy_model: WorldModel) -> None:
    rounds, callback = Rounds(), callback_of(toy_model, every=5)
    agent = agent_of(SAC, toy(), train_freq=(1, "episode"), learning_starts=0).learn(20, [callback, rounds])
    assert rounds.seen == {10: 24, 20: 48}
    agent.learn(20, [callback_of(toy_model, every=5), rounds])  # begins to count anew, and goes on with its replay
    assert rounds.seen == {10: 72, 20: 96}


def test_noise_explores_for_deterministic_policies(toy_model: WorldModel) -> None:
    for slots, kind, sigma in ((2, NormalActionNoise, 0.1), (1, OrnsteinUhlenbeckActionNoise, 1.0)):
        noise, callback = kind(np.zeros(2), np.full(2, sigma)), callback_of(toy_model)
        agent = agent_of(TD3, toy(slots), action_noise=noise, learning_rate=0.0).learn(34, callback)
        held = rollouts(agent.replay_buffer)
        planned = agent.predict(held["observations"].reshape(-1, 9, 32, 32))[0].reshape(held["actions"].shape)
        assert 0.02 < (held["actions"] - planned).std() < 0.3
        assert np.abs(held["actions"]).max() <= 1
    assert noise.noise_prev.all()
    assert not any(fresh.noise_prev.any() for fresh in callback._exploration_noise().noises)


def test_discrete_actions_by_a_table(toy_model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, step = [], toy_model.step
    monkeypatch.setattr(
        toy_model, "step", lambda state, action, *rest: taken.append(action) or step(state, action, *rest)
    )
    trainer = OnlineTrainer(toy_model)
    agent = agent_of(DQN, toy(2, discrete=True), exploration_final_eps=0.5)
    agent.learn(30, callback_of(toy_model, trainer, actions=MOVES))
    held = rollouts(agent.replay_buffer)
    assert held["actions"].shape == (3, 3, 4, 1)
    assert set(held["actions"].flat) <= {0, 1, 2, 3}
    np.testing.assert_array_equal(MOVES[held["actions"][..., 0]].reshape(9, 4, 2), np.stack(taken))
    assert trainer.updates["transformer"] == 15


def test_the_world_model_learns_on(toy_model: WorldModel) -> None:
    before = {name: weight.clone() for name, weight in toy_model.transformer.state_dict().items()}
    trainer, drawn = OnlineTrainer(toy_model), torch.Generator()
    callback = callback_of(toy_model, trainer, refresh_every=20)
    agent = agent_of(SAC, toy()).learn(40, callback)
    assert trainer.updates == {"tokenizer": 2 * 2, "transformer": 2 * 5}
    after = toy_model.transformer.state_dict()
    assert any(not after[name].equal(weight) for name, weight in before.items())
    assert np.isfinite(agent.logger.name_to_value["world_model/transformer_loss"])
    drawn.set_state(torch.get_rng_state())
    callback._refresh(trainer)
    assert torch.get_rng_state().equal(drawn.get_state())  # the policy's exploration does not follow the training


def test_equal_seeds_give_equal_runs(toy_model: WorldModel) -> None:
    state = [part.state_dict() for part in (toy_model.tokenizer, toy_model.transformer)]
    state = [{name: weight.clone() for name, weight in part.items()} for part in state]
    ends = []
    for _ in range(2):
        toy_model.tokenizer.load_state_dict(state[0])
        toy_model.transformer.load_state_dict(state[1])
        agent = agent_of(SAC, toy()).learn(25, callback_of(toy_model, OnlineTrainer(toy_model), refresh_every=20))
        ends.append((agent.policy.state_dict(), agent.replay_buffer.imagined.observations.copy()))
    assert all(ends[0][0][name].equal(ends[1][0][name]) for name in ends[0][0])
    np.testing.assert_array_equal(ends[0][1], ends[1][1])


def test_world_models_that_do_not_fit(toy_model: WorldModel, tiny_checkpoint: Path) -> None:
    other = WorldModel.from_pretrained(tiny_checkpoint)
    small = SAC("CnnPolicy", make(tiny_checkpoint), buffer_size=9, replay_buffer_class=MixedReplayBuffer)
    with pytest.raises(ConfigError, match=r"imagines frames \(32, 32, 3\), the environment shows \(64, 64, 3\)"):
        small.learn(1, callback_of(toy_model))
    with pytest.raises(ConfigError, match=r"imagines frames \(64, 64, 3\), the environment shows \(32, 32, 3\)"):
        agent_of(SAC, toy()).learn(1, callback_of(other))
    wider = gym.wrappers.TransformAction(
        gym.make(ID, checkpoint=tiny_checkpoint), lambda action: action[:4], gym.spaces.Box(-1, 1, (5,), np.float32)
    )
    with pytest.raises(ConfigError, match=r"takes 4 continuous actions, the environment Box\(-1.0, 1.0, \(5,\)"):
        agent_of(SAC, VecTransposeImage(DummyVecEnv([lambda: wider]))).learn(1, callback_of(other))
    with pytest.raises(ConfigError, match="a table of actions is for discrete ones"):
        agent_of(SAC, toy()).learn(1, callback_of(toy_model, actions=MOVES))
    for table in (None, MOVES[:3], MOVES * np.nan, MOVES * 2):
        with pytest.raises(ConfigError, match=r"4 discrete actions: .* float \[4, 2\]"):
            agent_of(DQN, toy(discrete=True)).learn(1, callback_of(toy_model, actions=table))


def test_algorithms_that_do_not_fit(toy_model: WorldModel) -> None:
    with pytest.raises(ConfigError, match=r"replay_buffer_class=MixedReplayBuffer, got PPO with NoneType"):
        PPO("MlpPolicy", toy(), n_steps=4, batch_size=4).learn(4, callback_of(toy_model))
    with pytest.raises(ConfigError, match=r"got SAC with ReplayBuffer"):
        agent_of(SAC, toy(), replay_buffer_class=None, replay_buffer_kwargs=None).learn(1, callback_of(toy_model))
    with pytest.raises(ConfigError, match=r'one batch of rollouts is 12 transitions.*"imagined_size"\] above 5'):
        agent_of(SAC, toy(), replay_buffer_kwargs={"imagined_size": 5}).learn(1, callback_of(toy_model))
    with pytest.raises(DataError, match="no episode of the replay holds 11 successive steps"):
        agent_of(SAC, toy()).learn(30, callback_of(toy_model, OnlineTrainer(toy_model), segment_length=12))


def test_callbacks_that_cannot_be(toy_model: WorldModel, tiny_checkpoint: Path) -> None:
    for name in ("every", "rollout_batch", "horizon", "refresh_every", "updates", "batch_size"):
        with pytest.raises(ConfigError, match=f"{name}.* must be positive"):
            callback_of(toy_model, **{name: 0})
    with pytest.raises(ConfigError, match="context of 2, got segment_length 2"):
        callback_of(toy_model, segment_length=2)
    with pytest.raises(ConfigError, match="the trainer keeps another world model"):
        callback_of(toy_model, OnlineTrainer(WorldModel.from_pretrained(tiny_checkpoint)))

"""``make_vec_env`` and ``BatchedVecEnv`` against SB3's DummyVecEnv around single environments."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO, SAC
from stable_baselines3.common import env_util
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecMonitor

from worldgym.agents.sb3 import BatchedVecEnv, make_vec_env
from worldgym.envs.contract import Frame
from worldgym.errors import InvalidAction, InvalidOption

ID = "WorldModel-MetaWorld-v0"
SLOTS = 3
STEPS = 5


def make(checkpoint: Path, seed: int | None = 7, **arguments: Any) -> VecEnv:
    return make_vec_env(ID, SLOTS, seed, checkpoint=checkpoint, **{"max_episode_steps": STEPS, **arguments})


def reference(checkpoint: Path, seed: int | None = 7, **arguments: Any) -> VecEnv:
    """The same environments in SB3's DummyVecEnv."""
    arguments = {"checkpoint": checkpoint, "max_episode_steps": STEPS, **arguments}
    return env_util.make_vec_env(ID, SLOTS, seed, env_kwargs=arguments)


def actions(steps: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).uniform(-1, 1, (steps, SLOTS, 4)).astype(np.float32))


def assert_frames_close(one: Frame, two: Frame) -> None:
    assert one.dtype == two.dtype == np.uint8
    assert one.shape == two.shape
    np.testing.assert_allclose(one.astype(int), two.astype(int), atol=1)  # last bits depend on the batch size


def assert_infos_close(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    for ours, theirs in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert type(value) is type(theirs[name]), name
            if name == "terminal_observation":
                assert_frames_close(value, theirs[name])
            elif name == "episode":
                assert value.keys() == theirs[name].keys() == {"r", "l", "t"}
                assert value["l"] == theirs[name]["l"]
                assert value["r"] == pytest.approx(theirs[name]["r"], abs=1e-4)
                assert value["t"] > 0
            elif isinstance(value, float):
                assert value == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name
            else:
                assert value == theirs[name], name


def assert_steps_close(ours: VecEnv, theirs: VecEnv, steps: int) -> int:
    """Reset and step both: how many episodes ended."""
    assert_frames_close(ours.reset(), theirs.reset())
    assert_infos_close(ours.reset_infos, theirs.reset_infos)
    ended = 0
    for action in actions(steps):
        (frames, rewards, dones, infos), expected = ours.step(action), theirs.step(action)
        assert_frames_close(frames, expected[0])
        assert rewards.dtype == expected[1].dtype
        np.testing.assert_allclose(rewards, expected[1], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(dones, expected[2])
        assert_infos_close(infos, expected[3])
        assert_infos_close(ours.reset_infos, theirs.reset_infos)
        ended += dones.sum()
    return ended


def test_results_equal_sb3_with_single_environments(tiny_checkpoint: Path) -> None:
    ours, theirs = make(tiny_checkpoint), reference(tiny_checkpoint)
    assert isinstance(ours, BatchedVecEnv)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    np.testing.assert_array_equal(ours.action_space.sample(), theirs.action_space.sample())
    assert assert_steps_close(ours, theirs, 12) == 2 * SLOTS
    assert assert_steps_close(ours, theirs, 6) == SLOTS  # an early reset restarts the statistics


def test_infos_have_the_last_frame_and_observations_the_next_first_one(tiny_checkpoint: Path) -> None:
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


def test_seeds_apply_to_the_next_reset_only(tiny_checkpoint: Path) -> None:
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
def test_options_apply_to_the_next_reset_only(tiny_checkpoint: Path, options: Any) -> None:
    ours, theirs = make(tiny_checkpoint, task="hammer"), reference(tiny_checkpoint, task="hammer")
    for _ in range(2):  # with the first seeds, then without
        for envs in (ours, theirs):
            envs.set_options(options)
        assert_steps_close(ours, theirs, 3)
        for slot, expected in enumerate([options] * SLOTS if isinstance(options, dict) else options):
            assert ours.reset_infos[slot]["start"] == expected.get("start", ours.reset_infos[slot]["start"])
        assert ours._options == [{}] * SLOTS


@pytest.mark.parametrize("options", [5, [{}, {}], [{}, {}, 5]], ids=str)
def test_wrong_options_raise_an_error(tiny_checkpoint: Path, options: Any) -> None:
    with pytest.raises(InvalidOption, match=r"expected options as a dict, or a list of 3 dicts, got"):
        make(tiny_checkpoint).set_options(options)


def test_frames_to_start_from_need_no_start_states(tiny_checkpoint: Path, real_frames: Frame) -> None:
    (model,) = make_vec_env(ID, checkpoint=tiny_checkpoint).get_attr("world_model")
    envs = make_vec_env(ID, 2, checkpoint=model)
    envs.set_options({"frames": real_frames})
    np.testing.assert_array_equal(envs.reset(), real_frames[[-1, -1]])
    envs.set_options([{"frames": real_frames}, {"frames": real_frames[::-1]}])
    np.testing.assert_array_equal(envs.reset(), real_frames[::-1])


def test_a_step_is_one_batched_pass(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    envs = make(tiny_checkpoint)
    model, rows = envs.get_attr("world_model")[0], []
    step = model.step
    monkeypatch.setattr(
        model, "step", lambda state, *rest, **named: rows.append(len(state)) or step(state, *rest, **named)
    )
    envs.reset()
    envs.step(actions(1)[0])
    assert rows == [SLOTS]


def test_attributes_equal_those_of_single_environments(tiny_checkpoint: Path) -> None:
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


def test_rendered_frames_equal_those_of_single_environments(tiny_checkpoint: Path) -> None:
    ours, theirs = make(tiny_checkpoint), reference(tiny_checkpoint)
    ours.reset(), theirs.reset()
    ours.step(actions(1)[0]), theirs.step(actions(1)[0])
    assert_frames_close(ours.render(), theirs.render())  # tiled
    assert ours.render().shape == (128, 128, 3)
    for picture, expected in zip(ours.env_method("render", indices=[2, 0]), theirs.get_images()[::-2], strict=True):
        assert_frames_close(picture, expected)
    hidden = make(tiny_checkpoint, render_mode=None)
    hidden.reset()
    assert hidden.get_images() == [None] * SLOTS


def test_shared_attributes_are_not_changed_for_some_slots(tiny_checkpoint: Path) -> None:
    envs = make(tiny_checkpoint)
    envs.reset()
    with pytest.raises(InvalidOption, match=r"all 3 slots, because they share the attribute 'label', got \[0, 1\]"):
        envs.set_attr("label", "x", indices=[0, 1])
    with pytest.raises(InvalidOption, match="share the method 'close_extras'"):
        envs.env_method("close_extras", indices=0)
    for name in ("reset", "step"):
        with pytest.raises(InvalidOption, match=rf"call {name}\(\) of the VecEnv"):
            envs.env_method(name)
    assert envs.env_method("close_extras") == [None] * SLOTS


def test_bad_arguments_raise_errors(tiny_checkpoint: Path) -> None:
    for env_id in (ID, "Simulator-MetaWorld-v0"):
        with pytest.raises(InvalidOption, match="expected n_envs of at least 1, got 0"):
            make_vec_env(env_id, 0)
    with pytest.raises(gym.error.NameNotFound, match="WorldModel-Metaworld"):
        make_vec_env("WorldModel-Metaworld-v0")
    with pytest.raises(InvalidOption, match=r"autoreset_mode \S*SAME_STEP, got \S*NEXT_STEP"):
        BatchedVecEnv(gym.make_vec(ID, checkpoint=tiny_checkpoint, autoreset_mode=AutoresetMode.NEXT_STEP))
    envs = make(tiny_checkpoint)
    envs.reset()
    with pytest.raises(InvalidAction, match="slot 1"):
        envs.step(np.where(np.arange(SLOTS)[:, None] == 1, np.nan, np.zeros((SLOTS, 4))))


def test_tensors_as_output_raise_an_error(tiny_checkpoint: Path) -> None:
    with pytest.raises(InvalidOption, match='returns NumPy arrays, got Tensor: make it with output="numpy"'):
        make(tiny_checkpoint, output="torch").reset()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda envs: pickle.loads(pickle.dumps(envs))])
def test_copies_continue_in_the_middle_of_an_episode(
    tiny_checkpoint: Path, duplicate: Callable[[VecEnv], VecEnv]
) -> None:
    envs = make(tiny_checkpoint)
    envs.reset()
    moves = actions(STEPS + 1)
    envs.step(moves[0])
    other = duplicate(envs)
    for move in moves[1:]:
        (frames, rewards, dones, infos), expected = other.step(move), envs.step(move)
        np.testing.assert_array_equal(frames, expected[0])
        np.testing.assert_array_equal(rewards, expected[1])
        np.testing.assert_array_equal(dones, expected[2])
        assert [info.get("episode", {}).get("l") for info in infos] == [STEPS if done else None for done in dones]


def test_results_do_not_depend_on_the_callers_torch_settings(
    tiny_checkpoint: Path, caller_settings: Callable[[], AbstractContextManager[None]]
) -> None:
    plain, envs = make(tiny_checkpoint), make(tiny_checkpoint)
    expected = [plain.reset(), *plain.step(actions(1)[0])[:3]]
    with caller_settings():
        results = [envs.reset(), *envs.step(actions(1)[0])[:3]]
    for array, other in zip(results, expected, strict=True):
        assert array.dtype == other.dtype
        np.testing.assert_array_equal(array, other)


def test_an_id_can_name_the_module_that_registers_it(tiny_checkpoint: Path) -> None:
    assert make_vec_env(f"worldgym:{ID}", 2, checkpoint=tiny_checkpoint).reset().shape == (2, 64, 64, 3)


def test_single_environments_pass_sb3s_checks(tiny_checkpoint: Path) -> None:
    check_env(gym.make(ID, checkpoint=tiny_checkpoint))


def test_ppo_trains_on_frames(tiny_checkpoint: Path) -> None:
    envs = make(tiny_checkpoint)
    agent = PPO("CnnPolicy", envs, n_steps=8, batch_size=12, n_epochs=1, seed=0)
    before = [weight.clone() for weight in agent.policy.parameters()]
    agent.learn(2 * SLOTS * 8)
    assert agent.num_timesteps == 2 * SLOTS * 8
    assert any(not weight.equal(old) for weight, old in zip(agent.policy.parameters(), before, strict=True))
    assert len(agent.ep_info_buffer) == SLOTS * (16 // STEPS)
    returns, lengths = evaluate_policy(agent, envs, SLOTS, return_episode_rewards=True)  # warns if Monitor is missing
    assert lengths == [STEPS] * SLOTS
    assert np.isfinite(returns).all()


def test_equal_seeds_train_equal_agents(tiny_checkpoint: Path) -> None:
    weights = []
    for _ in range(2):
        agent = PPO("CnnPolicy", make(tiny_checkpoint, seed=None), n_steps=4, batch_size=12, n_epochs=1, seed=5)
        weights.append(agent.learn(SLOTS * 4).policy.state_dict())
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def test_sac_trains_on_stacked_frames(tiny_checkpoint: Path) -> None:
    envs = VecFrameStack(make(tiny_checkpoint), 3)
    assert envs.observation_space.shape == (64, 64, 9)
    agent = SAC("CnnPolicy", envs, buffer_size=60, learning_starts=18, batch_size=4, seed=0)
    before = [weight.clone() for weight in agent.actor.parameters()]
    agent.learn(30)
    assert any(not weight.equal(old) for weight, old in zip(agent.actor.parameters(), before, strict=True))
    buffer = agent.replay_buffer
    np.testing.assert_array_equal(np.flatnonzero(buffer.dones[:, 0]), [4, 9])
    np.testing.assert_array_equal(buffer.timeouts, buffer.dones)
    # The last observation of an episode has its last frame, not the first one of the next episode.
    np.testing.assert_array_equal(buffer.next_observations[4, :, :6], buffer.observations[4, :, 3:])
    assert not np.array_equal(buffer.next_observations[4, :, 6:], buffer.observations[5, :, 6:])


def test_a_second_monitor_raises_a_warning(tiny_checkpoint: Path) -> None:
    with pytest.warns(UserWarning, match="already wrapped with a `Monitor`"):
        VecMonitor(make(tiny_checkpoint))


@pytest.mark.simulator
@pytest.mark.parametrize("subprocess", [False, True])
def test_simulators_are_made_by_the_same_call(subprocess: bool) -> None:
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


def test_without_sb3_the_error_names_the_extra_to_install() -> None:
    code = "import sys; sys.modules['stable_baselines3'] = None\nimport worldgym.agents\nimport worldgym.agents.sb3"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "DependencyNotInstalled" in done.stderr.splitlines()[-1]
    assert "pip install worldgym[sb3]" in done.stderr.splitlines()[-1]

"""``MixedReplayBuffer``, filled as SB3 fills it with frames that name their slot, episode and step."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from worldgym.agents.sb3 import MixedReplayBuffer
from worldgym.envs.contract import Frame
from worldgym.errors import ConfigError, DataError, InvalidAction

SIDE = 12
LENGTHS = (7, 5, 9)
"""Of successive episodes, in every slot of :func:`filled`."""


def stack_space(channels_first: bool, stack: int) -> gym.spaces.Box:
    shape = (3 * stack, SIDE, SIDE) if channels_first else (SIDE, SIDE, 3 * stack)
    return gym.spaces.Box(0, 255, shape, np.uint8)


def named_frame(slot: int, episode: int, step: int) -> Frame:
    """A frame of one colour, which is its slot, episode and step."""
    return np.full((SIDE, SIDE, 3), (slot, episode, step), np.uint8)


def named_stack(space: gym.spaces.Box, slot: int, episode: int, step: int) -> np.ndarray:
    """The observation of VecFrameStack at a step: black before the episode's first frame."""
    count = min(space.shape) // 3
    frames = [named_frame(slot, episode, at) * (at >= 0) for at in range(step - count + 1, step + 1)]
    stacked = np.concatenate(frames, axis=-1)
    return stacked if space.shape[0] == SIDE else np.moveaxis(stacked, -1, 0)


def filled(steps: int, channels_first: bool = True, stack: int = 3, **arguments: Any) -> MixedReplayBuffer:
    """A buffer of 40 rows, whose two slots end their episodes at different steps."""
    space = stack_space(channels_first, stack)
    buffer = MixedReplayBuffer(80, space, gym.spaces.Box(-1, 1, (2,), np.float32), "cpu", n_envs=2, **arguments)
    places = [[0, 0], [0, 3]]  # episode and step of each slot
    for _ in range(steps):
        obs = np.stack([named_stack(space, slot, *at) for slot, at in enumerate(places)])
        following = np.stack([named_stack(space, slot, at[0], at[1] + 1) for slot, at in enumerate(places)])
        action = np.array([[at[0] / 100, at[1] / 100] for at in places], np.float32)
        done = np.array([at[1] + 1 == LENGTHS[at[0] % 3] for at in places])
        infos = [{"TimeLimit.truncated": bool(end)} for end in done]
        buffer.add(obs, following, action, action.sum(1), done, infos)
        places = [[at[0] + 1, 0] if end else [at[0], at[1] + 1] for at, end in zip(places, done, strict=True)]
    return buffer


def test_segments_know_terminations_and_not_the_ends_by_time_limits() -> None:
    space = stack_space(True, 1)
    buffer = MixedReplayBuffer(20, space, gym.spaces.Box(-1, 1, (2,), np.float32), "cpu")
    frame = np.zeros((1, *space.shape), np.uint8)
    for step in range(1, 9):
        done, late = step in (2, 4, 6), step == 4
        buffer.add(frame, frame, np.zeros((1, 2)), np.array([step]), np.array([done]), [{"TimeLimit.truncated": late}])
    batch = buffer.segments(np.random.default_rng(0), 50, 3)
    assert batch.terminations is not None
    assert set(batch.rewards[batch.terminations].tolist()) == {2, 6}
    assert set(batch.rewards[~batch.terminations].tolist()) == {1, 3, 4, 5, 7, 8}


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("steps", [17, 40, 101])
def test_segments_are_successive_steps_of_one_episode(channels_first: bool, stack: int, steps: int) -> None:
    buffer = filled(steps, channels_first, stack)
    assert buffer.frame_shape == (SIDE, SIDE, 3)
    batch = buffer.segments(np.random.default_rng(0), 500, 6)
    frames, actions, rewards = (part.numpy() for part in (batch.frames, batch.actions, batch.rewards))
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
    """Where segments of so many steps can begin in the last 40 rows of :func:`filled`."""
    found = set()
    for slot, offset in enumerate((0, 3)):
        steps_of = [(episode, step) for episode in range(30) for step in range(LENGTHS[episode % 3])]
        held = steps_of[offset:][:steps][-40:]
        for start, (episode, step) in enumerate(held):
            if held[start : start + length] == [(episode, step + more) for more in range(length)]:
                found.add((slot, episode, step))
    return found


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize(("stack", "context"), [(1, 1), (1, 2), (3, 1), (3, 2), (2, 4)])
def test_starts_are_stacks_with_enough_real_frames(channels_first: bool, stack: int, context: int) -> None:
    buffer = filled(101, channels_first, stack)
    assert buffer.stack == stack
    history = buffer.starts(np.random.default_rng(0), 300, context)
    assert history.shape == (300, max(stack, context), SIDE, SIDE, 3)
    observations = buffer.stacked(history)
    found = set()
    for observation, frames in zip(observations, history[:, :, 0, 0].astype(int), strict=True):
        slot, episode, step = frames[-1]
        np.testing.assert_array_equal(observation, named_stack(buffer.observation_space, slot, episode, step))
        assert frames[-context:].tolist() == [[slot, episode, at] for at in range(step - context + 1, step + 1)]
        found.add((slot, episode, step - context + 1))
    assert found <= possible_starts(101, context)
    assert len(found) > 20


def test_a_reset_of_the_environment_ends_the_episodes() -> None:
    buffer = filled(4)
    buffer.segments(np.random.default_rng(0), 1, 5)
    buffer.end_episodes()
    more = filled(4)
    for row in range(4):
        rest = [part[row] for part in (more.observations, more.next_observations, more.actions, more.rewards)]
        done = more.dones[row]
        buffer.add(*rest, done, [{"TimeLimit.truncated": bool(end)} for end in done])
    names = buffer.segments(np.random.default_rng(0), 100, 4).frames[:, :, 0, 0].numpy()
    np.testing.assert_array_equal(np.diff(names[:, :, 2].astype(int), axis=1), 1)
    assert not buffer.sample(100).dones.any()  # the last state still has a value


def test_too_short_episodes_raise_an_error() -> None:
    for steps in (0, 3, 101):
        with pytest.raises(DataError, match=r"an episode with 10 successive steps .* got none in \d+ steps"):
            filled(steps).segments(np.random.default_rng(0), 1, 11)


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("stack", [1, 3])
def test_rollouts_are_stacked_as_by_vec_frame_stack(channels_first: bool, stack: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 9, SIDE, SIDE, 3), np.uint8)
    channels = np.moveaxis(frames, -1, 2) if channels_first else frames
    expected = StackedObservations(2, stack, stack_space(channels_first, 1))
    buffer = MixedReplayBuffer(9, expected.stacked_observation_space, gym.spaces.Box(-1, 1, (2,)), "cpu")
    actions = np.arange(16, dtype=np.float32).reshape(2, 4, 2) / 16
    buffer.add_rollouts(frames, actions, actions.sum(2), np.array([4, 2]))
    expected.reset(channels[:, 0])
    for step in range(1, 5):
        expected.update(channels[:, step], np.zeros(2, np.bool_), [{}, {}])
    part = buffer.imagined
    assert part.size() == 6
    for step in range(4):
        rows = [step, 4 + step][: 2 if step < 2 else 1]
        np.testing.assert_array_equal(part.observations[rows, 0], expected.stacked_obs[: len(rows)])
        expected.update(channels[:, 5 + step], np.zeros(2, np.bool_), [{}, {}])
        np.testing.assert_array_equal(part.next_observations[rows, 0], expected.stacked_obs[: len(rows)])
        np.testing.assert_array_equal(
            buffer.newest_frames(part.next_observations[rows, 0]), frames[: len(rows), 5 + step]
        )
        np.testing.assert_array_equal(part.actions[rows, 0], actions[: len(rows), step])
        np.testing.assert_array_equal(part.rewards[rows, 0], actions[: len(rows), step].sum(1))
    np.testing.assert_array_equal(part.timeouts[:6, 0], [0, 0, 0, 1, 0, 1])


def test_rollouts_that_ended_before_their_first_step_are_not_stored() -> None:
    buffer = filled(20)
    frames, actions, rewards, _ = rollout(buffer, 3, 100)
    buffer.add_rollouts(*(np.repeat(part, 2, axis=0) for part in (frames, actions, rewards)), np.array([0, 0]))
    assert buffer.imagined.size() == 0


def rollout(buffer: MixedReplayBuffer, steps: int, value: float) -> tuple[np.ndarray, ...]:
    """One rollout whose frames, rewards and actions hold this value."""
    frames = np.full((1, buffer.stack + steps, *buffer.frame_shape), value, np.uint8)
    rewards = np.full((1, steps), value, np.float32)
    return frames, np.full((1, steps, 2), value / 256, np.float32), rewards, np.array([steps])


@pytest.mark.parametrize(("ratio", "real"), [(0.5, 32), (0.25, 16), (0.0, 0), (1.0, 64)])
def test_batches_mix_real_and_imagined(ratio: float, real: int) -> None:
    buffer = filled(20, real_ratio=ratio, imagined_size=10)
    assert (buffer.sample(64).rewards < 1).all()  # nothing imagined yet
    buffer.add_rollouts(*rollout(buffer, 4, 200))
    batch = buffer.sample(64)
    assert batch.rewards.shape == batch.dones.shape == (64, 1)
    assert batch.observations.shape == batch.next_observations.shape == (64, 9, SIDE, SIDE)
    imagined = batch.rewards[:, 0] == 200
    np.testing.assert_array_equal(imagined, np.arange(64) >= real)
    np.testing.assert_array_equal((batch.observations == 200).all(dim=(1, 2, 3)), imagined)
    np.testing.assert_array_equal((batch.actions == 200 / 256).all(dim=1), imagined)
    assert not batch.dones.any()


def test_the_oldest_imagined_transitions_are_removed() -> None:
    buffer = filled(20, imagined_size=10, real_ratio=0.0)
    for value, left in ((100, {100}), (101, {100, 101}), (102, {100, 101, 102}), (103, {101, 102, 103})):
        buffer.add_rollouts(*rollout(buffer, 4 - (value == 102), value))
        assert set(buffer.sample(300).rewards.unique().tolist()) == left
    assert buffer.imagined.size() == 10
    assert (buffer.imagined.rewards[:, 0] == 101).sum() == 3
    buffer.reset()
    assert buffer.imagined.size() == buffer.size() == 0


def test_n_step_returns_end_with_the_episode_or_rollout() -> None:
    buffer = filled(40, n_steps=3, gamma=0.5, real_ratio=0.5, imagined_size=100)
    buffer.add_rollouts(*rollout(buffer, 4, 200))
    buffer.add_rollouts(*rollout(buffer, 2, 100))
    batch = buffer.sample(2000)
    halves = slice(1000), slice(1000, None)  # real, imagined
    real, imagined = ({name: part[rows].numpy() for name, part in batch._asdict().items()} for rows in halves)
    assert np.unique(imagined["rewards"]).tolist() == [100, 150, 200, 300, 350]
    for reward, discount in ((100, 0.5), (150, 0.25), (200, 0.5), (300, 0.25), (350, 0.125)):
        assert (imagined["discounts"][imagined["rewards"] == reward] == discount).all()
    assert not imagined["dones"].any()
    assert set(np.unique(imagined["next_observations"])) == {100, 200}
    first, last = (real[name][:, -3:, 0, 0].astype(int) for name in ("observations", "next_observations"))
    np.testing.assert_array_equal(first[:, :2], last[:, :2])  # of one slot and episode
    steps = last[:, 2] - first[:, 2]
    assert set(steps) == {1, 2, 3}
    np.testing.assert_allclose(real["discounts"][:, 0], 0.5**steps)
    rewards = (first[:, 1:2] + first[:, 2:] + np.arange(3)) / 100 * 0.5 ** np.arange(3)
    expected = (rewards * (np.arange(3) < steps[:, None])).sum(1)
    np.testing.assert_allclose(real["rewards"][:, 0], expected, rtol=1e-5)


def test_one_step_samples_are_those_of_sb3() -> None:
    buffer = filled(40)
    plain = ReplayBuffer(80, buffer.observation_space, buffer.action_space, "cpu", n_envs=2)
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts", "pos", "full"):
        setattr(plain, name, getattr(buffer, name))
    np.random.seed(0)  # noqa: NPY002  (SB3 samples with NumPy's global generator)
    batch = buffer.sample(64)
    np.random.seed(0)  # noqa: NPY002
    expected = plain.sample(64)
    assert batch.discounts is expected.discounts is None
    for name in ("observations", "next_observations", "actions", "rewards", "dones"):
        assert getattr(batch, name).equal(getattr(expected, name)), name


@pytest.mark.parametrize("imagined", [False, True])
def test_values_that_are_not_finite_raise_errors_and_are_not_stored(imagined: bool) -> None:
    buffer = filled(3)

    def store(action: float, reward: float) -> None:
        if imagined:
            frames, actions, rewards, lengths = rollout(buffer, 2, 1)
            buffer.add_rollouts(frames, actions + action, rewards + reward, lengths)
        else:
            frames, zeros = buffer.observations[0], np.zeros(2, np.float32)
            buffer.add(frames, frames, np.full((2, 2), action, np.float32), zeros + reward, zeros, [{}, {}])

    with pytest.raises(InvalidAction, match=r"expected finite actions, got .*nan"):
        store(np.nan, 0)
    with pytest.raises(DataError, match=r"expected finite rewards, got .*inf"):
        store(0, np.inf)
    assert buffer.size() == 3
    assert buffer.imagined.size() == 0


def test_wrong_arguments_raise_errors() -> None:
    space, actions = stack_space(True, 3), gym.spaces.Box(-1, 1, (2,))
    for bad in (gym.spaces.Box(-1, 1, (9,)), gym.spaces.Box(0, 255, (4, SIDE, SIDE), np.uint8), gym.spaces.Discrete(3)):
        with pytest.raises(ConfigError, match="expected observations of uint8 frames"):
            MixedReplayBuffer(9, bad, actions)
    for arguments in ({"imagined_size": 0}, {"n_steps": 0}, {"real_ratio": 1.5}, {"real_ratio": float("nan")}):
        (named,) = arguments.items()
        with pytest.raises(ConfigError, match=rf"expected imagined_size and n_steps .*{named[0]}={named[1]}"):
            MixedReplayBuffer(9, space, actions, **arguments)
    with pytest.raises(ConfigError, match="expected optimize_memory_usage=False"):
        MixedReplayBuffer(9, space, actions, optimize_memory_usage=True, handle_timeout_termination=False)

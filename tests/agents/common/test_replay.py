"""The replay against a naive one, its files and its mixture with imagined steps."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.wrappers import FrameStackObservation, TimeLimit
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from worldgym.agents.common.mixed_replay import MixedReplay
from worldgym.agents.common.replay import ReplayBuffer
from worldgym.agents.common.replay_ring import REAL
from worldgym.agents.common.schedules import Linear
from worldgym.agents.common.transitions import Transitions
from worldgym.data.episode import Episode
from worldgym.envs.simulators.toy import SimulatorToy
from worldgym.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    InvalidAction,
    InvalidFrames,
    ResetNeeded,
    StorageError,
    WorldGymError,
)

SHAPE = (1, 2, 3)
ACTIONS = 2
GAMMA = 0.9


def picture(number: int) -> NDArray[np.uint8]:
    """A frame that encodes its number, up to 2^16."""
    return np.array([number % 256, number // 256, 7] * 2, np.uint8).reshape(SHAPE)


def action(step: int) -> NDArray[np.float32]:
    return np.array([step, -step], np.float32) / 65536


def reward(step: int) -> float:
    return float(step % 7 - 3)


class NaiveEpisode:
    def __init__(self, frames: list[int], context: int, made_at: int) -> None:
        self.frames, self.context, self.made_at = frames, context, made_at
        self.rewards: list[float] = []
        self.terminated = False
        self.gone = 0  # of its oldest steps

    def stack(self, index: int, size: int) -> list[int]:
        return [self.frames[max(0, index - back)] for back in reversed(range(size))]


class NaiveReplay:
    """A list of episodes in plain Python; frames are numbered in the order in which they came."""

    def __init__(self, capacity: int, places: int, stack: int, n_step: int) -> None:
        self.capacity, self.places, self.stack, self.n_step = capacity, places, stack, n_step
        self.episodes: list[NaiveEpisode] = []
        self.open: NaiveEpisode | None = None
        self.count = 0

    def frame(self) -> int:
        self.count += 1
        return self.count - 1

    def begin(self) -> int:
        self.open = NaiveEpisode([self.frame()], 1, REAL)
        self.episodes.append(self.open)
        self.forget()
        return self.count - 1

    def step(self, terminated: bool, truncated: bool) -> int:
        assert self.open is not None
        self.open.rewards.append(reward(self.open.frames[-1]))
        self.open.frames.append(self.frame())
        self.open.terminated = terminated
        if terminated or truncated:
            self.open = None
        self.forget()
        return self.count - 1

    def whole(self, count: int, steps: int, context: int, made_at: int) -> list[list[int]]:
        self.open = None
        added = []
        # Of more episodes than the ring holds only the newest are stored at all.
        for _ in range(min(count, self.places // (context + steps))):
            episode = NaiveEpisode([self.frame() for _ in range(context + steps)], context, made_at)
            episode.rewards = [reward(frame) for frame in episode.frames[context - 1 : -1]]
            self.episodes.append(episode)
            added.append(episode.frames)
        self.forget()
        return added

    def evict_before(self, made_at: int) -> None:
        self.episodes = [each for each in self.episodes if each.made_at >= made_at]

    def forget(self) -> None:
        """First the steps whose stack has lost a frame to the ring, then the oldest beyond the capacity."""
        for episode in self.episodes:
            while episode.gone < len(episode.rewards):
                needed = episode.stack(episode.gone + episode.context - 1, self.stack)
                if min(needed) >= self.count - self.places:
                    break
                episode.gone += 1
        excess = len(self.steps()) - self.capacity
        for episode in self.episodes:
            taken = min(max(excess, 0), len(episode.rewards) - episode.gone)
            episode.gone += taken
            excess -= taken

    def steps(self) -> list[tuple[NaiveEpisode, int]]:
        """Every step that can be drawn: its episode and the index of the frame it leads from."""
        return [
            (episode, index + episode.context - 1)
            for episode in self.episodes
            for index in range(episode.gone, len(episode.rewards))
        ]

    def transition(self, episode: NaiveEpisode, index: int) -> tuple[list[int], int, float, float, list[int]]:
        """Stack, frame that names the action, return, discount and next stack."""
        total, discount, now = 0.0, 1.0, index
        while now < len(episode.frames) - 1 and now < index + self.n_step:
            total += discount * episode.rewards[now - episode.context + 1]
            discount *= GAMMA
            now += 1
        if episode.terminated and now == len(episode.frames) - 1:
            discount = 0.0
        stacks = episode.stack(index, self.stack), episode.stack(now, self.stack)
        return stacks[0], episode.frames[index], total, discount, stacks[1]


def numbers(frames: torch.Tensor) -> list[Any]:
    """The numbers of frames ``[..., H, W, 3]``."""
    pixels = frames.int()[..., 0, 0, :]
    found: list[Any] = (pixels[..., 0] + 256 * pixels[..., 1]).tolist()
    return found


def seen(batch: Transitions) -> dict[int, tuple[Any, ...]]:
    """What a batch says of each step, by the frame that the step leads from."""
    parts = (numbers(batch.frames), *(part.tolist() for part in batch[1:4]), numbers(batch.next_frames))
    found: dict[int, tuple[Any, ...]] = {}
    for one in zip(*parts, strict=True):
        assert found.setdefault(one[0][-1], one) == one
    return found


class ReplayMachine(RuleBasedStateMachine):
    """Anything that can be done to a replay, done to it and to the naive one."""

    folder = ""  # for files

    @initialize(
        capacity=st.integers(1, 40),
        stack=st.integers(1, 4),
        n_step=st.integers(1, 5),
        few=st.none() | st.integers(0, 12),
    )
    def make(self, capacity: int, stack: int, n_step: int, few: int | None) -> None:
        place = ReplayBuffer(SHAPE, ACTIONS, 1).settings.place_bytes
        limit = None if few is None else (stack + 1 + few) * place
        self.replay = ReplayBuffer(
            SHAPE, ACTIONS, capacity, capacity_bytes=limit, frame_stack=stack, n_step=n_step, discount=GAMMA
        )
        assert limit is None or self.replay.nbytes <= limit
        self.naive = NaiveReplay(capacity, self.replay.settings.places, stack, n_step)
        self.rng = np.random.default_rng(0)

    @rule()
    def start(self) -> None:
        self.replay.start(picture(self.naive.begin()))

    @precondition(lambda self: self.naive.open is not None)
    @rule(
        steps=st.integers(1, 12),
        end=st.sampled_from([(), ("terminated",), ("truncated",), ("terminated", "truncated")]),
    )
    def add(self, steps: int, end: tuple[str, ...]) -> None:
        for left in reversed(range(steps)):
            ends = not left and "terminated" in end, not left and "truncated" in end
            new = self.naive.step(*ends)
            self.replay.add(action(new - 1), reward(new - 1), picture(new), *ends)

    @rule(
        count=st.integers(0, 5),
        steps=st.integers(1, 6),
        context=st.integers(1, 4),
        made_at=st.integers(0, 5) | st.just(REAL),
    )
    def add_episodes(self, count: int, steps: int, context: int, made_at: int) -> None:
        length = context + steps
        if length > self.naive.places:
            with pytest.raises(DataError, match="raise its capacity"):
                self.replay.add_episodes(*self.arrays([list(range(length))], context, length), context=context)
            return
        kept = self.naive.whole(count, steps, context, made_at)
        lost = [list(range(length))] * (count - len(kept))
        self.replay.add_episodes(*self.arrays(lost + kept, context, length), context=context, made_at=made_at)

    @staticmethod
    def arrays(episodes: list[list[int]], context: int, length: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        steps, leading = length - context, [each for row in episodes for each in row[context - 1 : -1]]
        return (
            np.array([picture(each) for row in episodes for each in row], np.uint8).reshape(-1, length, *SHAPE),
            np.array([action(each) for each in leading], np.float32).reshape(-1, steps, ACTIONS),
            np.array([reward(each) for each in leading], np.float32).reshape(-1, steps),
        )

    @rule(made_at=st.integers(0, 6))
    def evict(self, made_at: int) -> None:
        self.replay.evict_before(made_at)
        self.naive.evict_before(made_at)

    @rule()
    def save_and_load(self) -> None:
        path, before = Path(self.folder) / "replay.safetensors", self.replay
        before.save(path)
        self.replay = ReplayBuffer.load(path)
        if len(before):
            assert_same_draws(before, self.replay)

    @invariant()
    def same_steps(self) -> None:
        steps = self.naive.steps()
        assert len(self.replay) == len(steps) <= self.naive.capacity
        if not steps:
            with pytest.raises(DataError, match="got 0 steps"):
                self.replay.sample(self.rng, 1)
            with pytest.raises(DataError, match="an empty one"):
                self.replay.reward_range()
            return
        rewards = [reward(episode.frames[index]) for episode, index in steps]
        assert self.replay.reward_range() == pytest.approx((min(rewards), max(rewards)))
        known = {episode.frames[index]: self.naive.transition(episode, index) for episode, index in steps}
        for key, (stack, act, total, discount, following) in seen(self.replay.sample(self.rng, 3 * len(steps))).items():
            wanted = known[key]
            assert (stack, following) == (wanted[0], wanted[4])
            assert act == action(wanted[1]).tolist()
            assert (total, discount) == pytest.approx(wanted[2:4], rel=1e-5, abs=1e-5)

    @invariant()
    def same_segments(self) -> None:
        begins = {
            episode.frames[index]: episode.frames[index : index + 3]
            for episode, index in self.naive.steps()
            if index + 3 <= len(episode.frames)
        }
        if not begins:
            with pytest.raises(DataError, match="at least 3 frames"):
                self.replay.segments(self.rng, 1, 3)
            return
        frames, actions, rewards = self.replay.segments(self.rng, 8, 3)[:3]
        for row, acts, rews in zip(numbers(frames), actions.tolist(), rewards.tolist(), strict=True):
            assert row == begins[row[0]]
            assert acts == [action(each).tolist() for each in row[:-1]]
            assert rews == [reward(each) for each in row[:-1]]


def assert_same_draws(one: ReplayBuffer, other: ReplayBuffer) -> None:
    batches = (each.sample(np.random.default_rng(7), 20) for each in (one, other))
    for expected, got in zip(*batches, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_replay_agrees_with_a_naive_one(tmp_path: Path) -> None:
    class Machine(ReplayMachine):
        folder = str(tmp_path)

    slow = settings(max_examples=30, stateful_step_count=20, deadline=None)
    run_state_machine_as_test(Machine, settings=slow)


def filled(lengths: tuple[int, ...] = (5, 1, 9), capacity: int = 100, **options: Any) -> ReplayBuffer:
    """Episodes of these lengths, the last one open; frames, actions and rewards tell the number of their frame."""
    replay, new = ReplayBuffer(SHAPE, ACTIONS, capacity, **options), 0
    for index, length in enumerate(lengths):
        replay.start(picture(new))
        for left in reversed(range(length)):
            new += 1
            replay.add(action(new - 1), reward(new - 1), picture(new), False, not left and index < len(lengths) - 1)
        new += 1
    return replay


def imagined(episodes: int, steps: int = 4, **options: Any) -> ReplayBuffer:
    """Episodes whose actions are all 1."""
    replay = ReplayBuffer(SHAPE, ACTIONS, 100, **options)
    frames = np.zeros((episodes, 3 + steps, *SHAPE), np.uint8)
    replay.add_episodes(frames, np.ones((episodes, steps, ACTIONS)), np.zeros((episodes, steps)), context=3)
    return replay


def test_sampled_step_has_frame_stacks_return_and_discount() -> None:
    replay = ReplayBuffer(SHAPE, ACTIONS, 100, frame_stack=3, n_step=2, discount=0.5)
    replay.start(picture(10))
    for new in (11, 12, 13):
        replay.add([0.25, -0.5], float(new), picture(new), terminated=new == 13, truncated=False)
    batch = replay.sample(np.random.default_rng(0), 64)
    assert seen(batch) == {
        10: ([10, 10, 10], [0.25, -0.5], 11 + 0.5 * 12, 0.25, [10, 11, 12]),
        11: ([10, 10, 11], [0.25, -0.5], 12 + 0.5 * 13, 0.0, [11, 12, 13]),
        12: ([10, 11, 12], [0.25, -0.5], 13, 0.0, [11, 12, 13]),
    }
    kinds = [(part.dtype, tuple(part.shape)) for part in batch]
    stacks, numbers = (torch.uint8, (64, 3, *SHAPE)), (torch.float32, (64,))
    assert kinds == [stacks, (torch.float32, (64, 2)), numbers, numbers, stacks]
    assert all(part.is_contiguous() for part in batch)


def test_last_steps_of_a_truncated_episode_bootstrap_from_its_last_frame() -> None:
    found = seen(filled((4, 0), n_step=3, discount=0.5).sample(np.random.default_rng(0), 64))
    assert [found[step][3] for step in range(4)] == [0.125, 0.125, 0.25, 0.5]
    assert [found[step][4][-1] for step in range(4)] == [3, 4, 4, 4]


@pytest.mark.parametrize("n_step", [1, 3])
def test_frame_stacks_equal_those_of_gymnasium(n_step: int) -> None:
    env = FrameStackObservation(TimeLimit(SimulatorToy(), 20), 3)
    replay, rng = ReplayBuffer((32, 32, 3), 2, 50, n_step=n_step), np.random.default_rng(0)
    steps: dict[bytes, tuple[bytes, bytes]] = {}  # the stacks before and after each, by action
    for episode in range(5):
        stacks, actions, truncated = [env.reset(seed=episode)[0]], [], False
        replay.start(stacks[0][-1])
        while not truncated:
            actions.append(rng.uniform(-1, 1, 2).astype(np.float32))
            stack, earned, terminated, truncated, _ = env.step(actions[-1])
            replay.add(actions[-1], float(earned), stack[-1], terminated, truncated)
            stacks.append(stack)
        for index, act in enumerate(actions):
            steps[act.tobytes()] = stacks[index].tobytes(), stacks[min(index + n_step, 20)].tobytes()
    assert len(replay) == 50 < len(steps)
    for frames, act, _, _, following in zip(*replay.sample(rng, 200), strict=True):
        assert (frames.numpy().tobytes(), following.numpy().tobytes()) == steps[act.numpy().tobytes()]


@pytest.mark.parametrize("capacity", [100, 9])  # with 9 steps the ring has overwritten the oldest episodes
def test_every_step_is_equally_likely(capacity: int) -> None:
    replay, draws = filled(capacity=capacity), 30_000
    batch = replay.sample(np.random.default_rng(0), draws)
    _, counts = np.unique([row[-1] for row in numbers(batch.frames)], return_counts=True)
    assert len(counts) == len(replay) == min(capacity, 15)
    assert_even(counts, draws)


def test_every_segment_and_every_start_is_equally_likely() -> None:
    replay, draws = filled(), 30_000
    frames = replay.segments(np.random.default_rng(0), draws, 4).frames
    begins, counts = np.unique([row[0] for row in numbers(frames)], return_counts=True)
    assert begins.tolist() == [0, 1, 2, *range(8, 15)]
    assert_even(counts, draws)
    stacks = torch.from_numpy(replay.starts(np.random.default_rng(0), draws).frames)
    begins, counts = np.unique([row[-1] for row in numbers(stacks)], return_counts=True)
    assert begins.tolist() == [*range(5), 6, *range(8, 17)]
    assert_even(counts, draws)


def test_starts_hold_what_went_before() -> None:
    replay = filled()
    starts = replay.starts(np.random.default_rng(0), 200, length=6, steps=4)
    rows = numbers(torch.from_numpy(starts.frames))
    for frames, actions, known in zip(rows, starts.actions, starts.known, strict=True):
        newest = frames[-1]
        first = max(begin for begin in (0, 6, 8) if begin <= newest)  # of the episode
        assert known == min(newest - first, 4)
        assert frames == [max(first, number) for number in range(newest - 5, newest + 1)]
        assert (actions[: 4 - known] == 0).all()
        taken = [action(number) for number in range(newest - known, newest)]
        assert np.array_equal(actions[4 - known :], np.reshape(taken, (known, ACTIONS)))


@pytest.mark.parametrize(("length", "begins"), [(4, [8, 11, 14]), (9, [8]), (11, []), (1, list(range(8, 18)))])
def test_newest_episode_is_returned_whole(length: int, begins: list[int]) -> None:
    frames, actions, rewards = filled().newest(length)[:3]
    assert numbers(frames) == [list(range(begin, begin + length)) for begin in begins]
    assert actions.shape[:2] == rewards.shape == (len(begins), length - 1)


def test_empty_replay_has_no_newest_episode() -> None:
    assert ReplayBuffer((64, 64, 3), 4, 10).newest(2).frames.shape == (0, 2, 64, 64, 3)


def assert_even(counts: NDArray[np.int64], draws: int) -> None:
    """Each count is within five standard deviations of an equal share."""
    share = 1 / len(counts)
    assert np.abs(counts - draws * share).max() < 5 * np.sqrt(draws * share * (1 - share))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_batches_do_not_depend_on_the_callers_pytorch_defaults(dtype: torch.dtype) -> None:
    expected = filled().sample(np.random.default_rng(0), 8), filled().segments(np.random.default_rng(0), 8, 3)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            found = filled().sample(np.random.default_rng(0), 8), filled().segments(np.random.default_rng(0), 8, 3)
    finally:
        torch.set_default_dtype(before)
    for got, wanted in zip([*found[0], *found[1][:3]], [*expected[0], *expected[1][:3]], strict=True):
        assert got.device.type == "cpu"
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)


def test_equal_generators_draw_equal_batches() -> None:
    assert_same_draws(filled(), filled())


def test_eviction_removes_old_rollouts_and_keeps_real_steps(make_episode: Callable[..., Episode]) -> None:
    replay = ReplayBuffer((64, 64, 3), 4, 200)
    replay.add_demonstration(make_episode("hammer", "expert", 0))
    for made_at in (1, 2, 3):
        replay.add_episodes(
            np.zeros((2, 8, 64, 64, 3), np.uint8), np.zeros((2, 5, 4)), np.zeros((2, 5)), context=3, made_at=made_at
        )
    assert len(replay) == 12 + 30
    replay.evict_before(3)
    assert len(replay) == 12 + 10
    replay.evict_before(4)
    assert len(replay) == 12


def test_demonstration_is_stored_with_clipped_actions(make_episode: Callable[..., Episode]) -> None:
    episode = make_episode("hammer", "expert", 0)
    replay = ReplayBuffer((64, 64, 3), 4, 200)
    replay.add_demonstration(replace(episode, actions=3 * episode.actions))
    frames, actions, rewards = replay.segments(np.random.default_rng(0), 1, len(episode) + 1)[:3]
    np.testing.assert_array_equal(frames[0], episode.frames)
    np.testing.assert_array_equal(actions[0], np.clip(3 * episode.actions, -1, 1))
    np.testing.assert_array_equal(rewards[0], episode.rewards)


def test_episodes_of_16_or_more_steps_fill_the_capacity() -> None:
    assert [len(filled((length,) * 12, capacity=100)) for length in (16, 25, 100)] == [100, 100, 100]
    assert len(filled((4,) * 100, capacity=100)) < 100


def test_bytes_limit_steps() -> None:
    place = 1 * 2 * 3 + 4 * ACTIONS + 4 + 5 * 8
    replay = filled((50,), capacity=100, capacity_bytes=20 * place)
    assert len(replay) == 20 - 3
    assert replay.nbytes <= 20 * place


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"frame_shape": (4, 4)}, "frame_shape"),
        ({"frame_shape": (3, 4, 4)}, "frame_shape"),
        ({"action_dim": 0}, "action_dim: expected at least 1, got 0"),
        ({"capacity": 0}, "capacity: expected at least 1"),
        ({"n_step": 0}, "n_step: expected at least 1"),
        ({"frame_stack": 0}, "frame_stack: expected at least 1"),
        ({"discount": 1.1}, "discount"),
        ({"discount": float("nan")}, "discount"),
        ({"capacity_bytes": 231}, "expected at least 232, for one step of 4 frames, got 231"),
        ({"capacity": 10**17}, "GB: set capacity_bytes"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], expected: str) -> None:
    given = {"frame_shape": SHAPE, "action_dim": ACTIONS, "capacity": 10}
    with pytest.raises(ConfigError, match=expected):
        ReplayBuffer(**(given | options))


GOOD = picture(1)
EPISODES: dict[str, Any] = {
    "frames": np.zeros((2, 4, *SHAPE), np.uint8),
    "actions": np.zeros((2, 3, ACTIONS), np.float32),
    "rewards": np.zeros((2, 3), np.float32),
}


def kept(replay: ReplayBuffer, folder: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """All that a file keeps of a replay."""
    replay.save(folder / "kept")
    with safe_open(folder / "kept", "np") as file:
        return file.metadata(), {name: file.get_tensor(name).tobytes() for name in sorted(file.keys())}


@pytest.mark.parametrize(
    ("use", "error", "expected"),
    [
        (lambda replay: replay.start(GOOD.astype(np.float32)), InvalidFrames, r"frames uint8 \[1, 2, 3\], got float32"),
        (lambda replay: replay.start(GOOD[:, :1]), InvalidFrames, r"got uint8 \[1, 1, 3\]"),
        (lambda replay: replay.add([0, np.nan], 0, GOOD, False, False), InvalidAction, r"nan at index \(1,\)"),
        (lambda replay: replay.add([0, 1e300], 0, GOOD, False, False), InvalidAction, r"1e\+300 at index \(1,\)"),
        (lambda replay: replay.add(["a", "b"], 0, GOOD, False, False), InvalidAction, r"float32 \[2\], got <U1 \[2\]"),
        (lambda replay: replay.add([0, 0], 1j, GOOD, False, False), DataError, "got complex128"),
        (
            lambda replay: replay.add_episodes(**EPISODES | {"rewards": EPISODES["rewards"][..., None]}),
            DataError,
            r"rewards float32 \[2, 3\], got float32 \[2, 3, 1\]",
        ),
        (
            lambda replay: replay.add([0], 0, GOOD, False, False),
            InvalidAction,
            r"actions float32 \[2\], got int64 \[1\]",
        ),
        (lambda replay: replay.add([0, 0], np.inf, GOOD, False, False), DataError, "finite in float32, got inf"),
        (lambda replay: replay.add([0, 0], 1e300, GOOD, False, False), DataError, r"finite in float32, got 1e\+300"),
        (
            lambda replay: replay.add([0, 0], [0.0], GOOD, False, False),
            DataError,
            r"rewards float32 \[\], got float64",
        ),
        (lambda replay: replay.add([0, 0], 0, GOOD[None], False, True), InvalidFrames, r"got uint8 \[1, 1, 2, 3\]"),
        (
            lambda replay: replay.add_episodes(**EPISODES | {"frames": EPISODES["frames"][:1]}),
            InvalidFrames,
            "got uint8",
        ),
        (lambda replay: replay.add_episodes(**EPISODES, context=2), InvalidFrames, r"\[2, 5, 1, 2, 3\]"),
        (lambda replay: replay.add_episodes(**EPISODES, context=0), InvalidAction, "after 0"),
        (
            lambda replay: replay.add_episodes(**EPISODES | {"actions": np.zeros((2, 3, 4))}),
            InvalidAction,
            r"\[2, 3, 2\]",
        ),
        (lambda replay: replay.add_episodes(**EPISODES | {"actions": np.zeros((2, 0, 2))}), InvalidAction, "1 step"),
        (
            lambda replay: replay.add_episodes(**EPISODES | {"rewards": [[0, 0, 0], [0, np.nan, 0]]}),
            DataError,
            r"\(1, 1\)",
        ),
        (
            lambda replay: replay.segments(np.random.default_rng(0), 1, 0),
            ConfigError,
            "at least 1 frame, got 0",
        ),
        (
            lambda replay: replay.segments(np.random.default_rng(0), 1, 11),
            DataError,
            "at least 11 frames in the replay, got 15 steps in 3 episodes",
        ),
    ],
)
def test_refused_input_changes_nothing(
    use: Callable[[ReplayBuffer], None], error: type[WorldGymError], expected: str, tmp_path: Path
) -> None:
    replay = filled()
    before = kept(replay, tmp_path)
    with pytest.raises(error, match=expected):
        use(replay)
    assert kept(replay, tmp_path) == before


def test_steps_need_an_open_episode() -> None:
    replay = ReplayBuffer(SHAPE, ACTIONS, 10)
    with pytest.raises(ResetNeeded, match=r"call start\(frame\)"):
        replay.add([0, 0], 0, GOOD, False, False)
    replay.start(GOOD)
    replay.add([0, 0], 0, GOOD, False, True)
    with pytest.raises(ResetNeeded):
        replay.add([0, 0], 0, GOOD, False, False)


# Files


def test_loaded_replay_continues_like_the_saved_one(tmp_path: Path) -> None:
    replay = filled((30, 5), capacity=20)
    replay.save(tmp_path / "replay.safetensors")
    loaded, restored = ReplayBuffer.load(tmp_path / "replay.safetensors"), filled((2,), capacity=20)
    restored.restore(tmp_path / "replay.safetensors")
    for each in (replay, loaded, restored):  # its episode is still open
        each.add(action(100), 1.0, picture(100), True, False)
        each.start(picture(101))
        each.add(action(101), 1.0, picture(102), False, False)
    assert_same_draws(replay, loaded)
    assert_same_draws(replay, restored)


def test_only_filled_places_are_written(tmp_path: Path) -> None:
    filled((5,), capacity=10_000).save(tmp_path / "replay.safetensors")
    assert load_file(tmp_path / "replay.safetensors")["frames"].shape == (6, *SHAPE)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_truncated_file_is_refused_and_changes_nothing(share: float, tmp_path: Path) -> None:
    path, replay = tmp_path / "cut.safetensors", filled()
    filled((9,)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    for read in (ReplayBuffer.load, replay.restore):
        with pytest.raises(CheckpointError, match=r"cut\.safetensors is damaged or not a saved replay"):
            read(path)
    assert_same_draws(replay, filled())


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.safetensors is missing: expected a saved replay"):
        ReplayBuffer.load(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"frame_stack": 2}, "frame_stack: expected 3, got 2"),
        ({"capacity": 50, "n_step": 1}, "capacity: expected 100, got 50; n_step: expected 3, got 1"),
    ],
)
def test_replay_of_other_settings_is_refused(options: dict[str, Any], expected: str, tmp_path: Path) -> None:
    filled(**options).save(tmp_path / "other")
    replay = filled()
    with pytest.raises(CheckpointError, match=f"other holds a replay of other settings. {expected}"):
        replay.restore(tmp_path / "other")
    assert_same_draws(replay, filled())


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        (
            "frames",
            lambda values: values[:-1],
            r"expected frames of \('U8', \[18, 1, 2, 3\]\), got \('U8', \[17, 1, 2, 3\]\)",
        ),
        ("frames", lambda values: values.astype(np.float32), "expected frames"),
        ("actions", lambda values: values[:, :1], "expected actions"),
        ("rewards", lambda values: values[:1], "expected rewards"),
        ("episodes", lambda values: values[:, :4], "expected episodes"),
        ("episodes", lambda values: values[:-1], "expected episodes within its 18 frames"),
        ("episodes", lambda values: values[:0], "expected episodes within its 18 frames"),
        ("episodes", lambda values: values[::-1].copy(), "expected episodes within its 18 frames"),
        ("episodes", lambda values: values + 1, "expected episodes within its 18 frames"),
        ("episodes", lambda values: values - 1, "expected episodes within its 18 frames"),
        ("episodes", lambda values: None, "damaged or not a saved replay.*episodes"),
    ],
)
def test_damaged_tensors_are_refused(
    name: str, change: Callable[[NDArray[Any]], NDArray[Any] | None], expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "replay.safetensors"
    filled().save(path)
    with safe_open(path, "np") as file:
        about = file.metadata()
    tensors = load_file(path)
    tensors[name] = change(tensors[name])
    save_file({key: value for key, value in tensors.items() if value is not None}, path, about)
    with pytest.raises(CheckpointError, match=expected):
        ReplayBuffer.load(path)


@pytest.mark.parametrize(
    "about",
    [
        {"format": "other"},
        {"settings": "{}"},
        {"settings": "no JSON"},
        {"head": "x"},
        {"head": "-1"},
        {"head": "17"},
    ],
)
def test_damaged_metadata_is_refused(about: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "replay.safetensors"
    filled().save(path)
    with safe_open(path, "np") as file:
        save_file(load_file(path), tmp_path / "changed", file.metadata() | about)
    with pytest.raises(CheckpointError, match="changed"):
        ReplayBuffer.load(tmp_path / "changed")


def test_unwritable_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="could not write"):
        filled().save(tmp_path / "file" / "replay.safetensors")


# Real and imagined


def real_share(batch: Transitions) -> float:
    return float((batch.actions[:, 0] != 1).float().mean())


def test_batch_contains_its_share_of_real_steps() -> None:
    mixed = MixedReplay(filled(), imagined(3))
    for ratio in (0.0, 0.25, 0.5, 1.0):
        batch = mixed.sample(np.random.default_rng(0), 256, ratio)
        assert real_share(batch) == ratio
        assert all(part.is_contiguous() and len(part) == 256 for part in batch)


def test_small_batches_contain_their_share_on_average() -> None:
    mixed, rng = MixedReplay(filled(), imagined(3)), np.random.default_rng(0)
    shares = [3 * real_share(mixed.sample(rng, 3, 0.4)) for _ in range(1000)]
    assert {round(share) for share in shares} == {1, 2}
    assert np.mean(shares) == pytest.approx(1.2, abs=5 * np.sqrt(0.2 * 0.8 / 1000))


def test_both_parts_of_a_batch_are_uniform() -> None:
    real, made = filled((5, 0)), filled((4, 0))
    batch = MixedReplay(real, made).sample(np.random.default_rng(0), 20_000, 0.5)
    newest = np.array([row[-1] for row in numbers(batch.frames)])
    for part, steps in ((newest[:10_000], 5), (newest[10_000:], 4)):
        found, counts = np.unique(part, return_counts=True)
        assert found.tolist() == list(range(steps))
        assert_even(counts, 10_000)


@pytest.mark.parametrize(("made", "ratio"), [(None, 0.5), (0, 0.5), (0, 0.0), (3, 1.0)])
def test_without_imagined_steps_all_are_real(made: int | None, ratio: float) -> None:
    mixed = MixedReplay(filled(), None if made is None else imagined(made))
    got = mixed.sample(np.random.default_rng(3), 32, ratio)
    for one, other in zip(got, filled().sample(np.random.default_rng(3), 32), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_mixed_replay_refuses_other_sizes_and_ratios() -> None:
    MixedReplay(filled(), imagined(1, capacity_bytes=10_000))
    with pytest.raises(ConfigError, match="differ in their capacity alone"):
        MixedReplay(filled(), imagined(0, frame_stack=2))
    with pytest.raises(ConfigError, match=r"real_ratio: expected a number in \[0, 1\], got 1.5"):
        MixedReplay(filled()).sample(np.random.default_rng(0), 8, 1.5)
    empty = MixedReplay(ReplayBuffer(SHAPE, ACTIONS, 100), imagined(1))
    assert real_share(empty.sample(np.random.default_rng(0), 8, 0.0)) == 0
    with pytest.raises(DataError, match="got 0 steps"):
        empty.sample(np.random.default_rng(0), 8, 0.5)


def test_linear_schedule() -> None:
    schedule = Linear(1.0, 0.1, 90)
    assert [schedule(step) for step in (-5, 0, 45, 90, 1000)] == pytest.approx([1.0, 1.0, 0.55, 0.1, 0.1])
    assert Linear(0.5, 0.3, 7)(7) == 0.3
    with pytest.raises(ConfigError, match="steps: expected at least 1"):
        Linear(1.0, 0.0, 0)

"""Learned environments that branch off a real episode: its frames and actions are given to ``reset``."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from worldgym.data.recordings import Recordings, Segment
from worldgym.envs.learned.session import Session, Start
from worldgym.errors import InvalidFrames, InvalidOption

ID = "WorldModel-MetaWorld-v0"
CONTEXT, KNOWN, WINDOW = 2, 3, 4


@pytest.fixture
def real(synthetic_recordings: Path) -> Segment:
    return Recordings(synthetic_recordings).segment(0, 0, CONTEXT + KNOWN + 1)


def options(real: Segment, known: int = KNOWN) -> dict[str, Any]:
    return {"frames": real.frames[: CONTEXT + known], "actions": real.actions[CONTEXT - 1 : CONTEXT - 1 + known]}


def test_an_episode_continues_behind_the_real_frames(tiny_checkpoint: Path, real: Segment) -> None:
    env: Any = gym.make(ID, checkpoint=tiny_checkpoint, top_k=1)
    first, info = env.reset(seed=0, options=options(real))
    np.testing.assert_array_equal(first, real.frames[CONTEXT + KNOWN - 1])
    assert info["start"] == -1
    frame, reward, *_ = env.step(real.actions[CONTEXT - 1 + KNOWN])
    model = env.unwrapped.world_model
    given = options(real)
    state = model.start(given["frames"][None], given["actions"][None])
    _, expected, earned = model.step(state, real.actions[CONTEXT - 1 + KNOWN][None], top_k=1)
    np.testing.assert_array_equal(frame, expected[0].numpy())
    assert reward == pytest.approx(float(earned[0]))


def test_slots_with_frames_of_their_own_are_as_single_environments(
    tiny_checkpoint: Path, synthetic_recordings: Path
) -> None:
    recordings = Recordings(synthetic_recordings)
    segments = [recordings.segment(index, index, CONTEXT + KNOWN + 1) for index in range(3)]
    each = [options(segment) for segment in segments]
    envs = gym.make_vec(ID, num_envs=3, checkpoint=tiny_checkpoint, top_k=1)
    envs.reset(seed=0, options={name: np.stack([part[name] for part in each]) for name in ("frames", "actions")})
    actions = np.stack([segment.actions[-1] for segment in segments])
    frames, rewards, *_ = envs.step(actions)
    for slot, segment in enumerate(segments):
        env = gym.make(ID, checkpoint=tiny_checkpoint, top_k=1)
        env.reset(seed=0, options=each[slot])
        frame, reward, *_ = env.step(segment.actions[-1])
        np.testing.assert_array_equal(frames[slot], frame)
        assert rewards[slot] == pytest.approx(reward, rel=1e-4)


def test_rows_with_different_numbers_of_known_frames_start_together(tiny_checkpoint: Path, real: Segment) -> None:
    session = Session(None, tiny_checkpoint, "cpu", "float32", 1.0, 1)
    starts = []
    for known in (0, 3, 1, 3):
        given = options(real, known)
        starts.append(Start(given["frames"], "", actions=given["actions"] if known else None))
    together = session.start(starts)
    for row, start in enumerate(starts):
        alone = session.start([start])
        assert together.select([row]).frames.equal(alone.frames)
        action = torch.from_numpy(real.actions[-1:])
        _, made, _ = session.model.step(together.select([row]), action, top_k=1)
        assert made.equal(session.model.step(alone, action, top_k=1)[1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"frames": None}, InvalidOption, "'actions': expected 'frames' beside it"),
        ({"start": 0}, InvalidOption, "expected one of 'frames' and 'start'"),
        ({"actions": np.zeros((2, 4), np.float32)}, InvalidFrames, "a frame for each of the 2 actions, got"),
        ({"actions": np.zeros((3, 5), np.float32)}, InvalidOption, "reset option 'actions': .*shape"),
        ({"actions": np.full((3, 4), np.nan, np.float32)}, InvalidOption, "reset option 'actions': .*finite"),
        ({"actions": 3}, InvalidOption, "reset option 'actions'"),
    ],
)
def test_bad_options_are_named(
    tiny_checkpoint: Path, real: Segment, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    env = gym.make(ID, checkpoint=tiny_checkpoint)
    given = {name: value for name, value in (options(real) | change).items() if value is not None}
    with pytest.raises(error, match=message):
        env.reset(options=given)


def test_more_frames_than_a_window_that_does_not_slide_are_an_error(
    tiny_checkpoint: Path, synthetic_recordings: Path
) -> None:
    longer = Recordings(synthetic_recordings).segment(0, 0, CONTEXT + WINDOW + 2)
    env = gym.make(ID, checkpoint=tiny_checkpoint)
    with pytest.raises(InvalidOption, match="5 frames behind the context, but the position window holds 4"):
        env.reset(options=options(longer, WINDOW + 1))

"""Segments that branch off recorded episodes."""

from pathlib import Path

import numpy as np
import pytest

from worldgym.data.branches import read_branches, sample_branches
from worldgym.data.recordings import Recordings
from worldgym.errors import DataError

CONTEXT, HORIZON, SHOWN = 2, 3, 4


@pytest.mark.parametrize(("frame", "count"), [(0, 0), (2, 2), (4, 4), (7, 4)])
def test_a_branch_has_the_first_frame_then_what_was_shown_then_the_future(
    synthetic_recordings: Path, frame: int, count: int
) -> None:
    recordings = Recordings(synthetic_recordings)
    whole = recordings.episodes[5].load()
    batch, tasks, shown = read_branches(recordings, [(5, frame)], CONTEXT, HORIZON, SHOWN)
    assert shown is not None
    assert (tasks, shown.counts.tolist()) == ([whole.info.task], [count])
    assert shown.frames.shape[1] == shown.actions.shape[1] == SHOWN
    np.testing.assert_array_equal(batch.frames[0, :CONTEXT], np.stack([whole.frames[0]] * CONTEXT))
    np.testing.assert_array_equal(shown.frames[0, SHOWN - count :], whole.frames[frame - count + 1 : frame + 1])
    np.testing.assert_array_equal(shown.actions[0, SHOWN - count :], whole.actions[frame - count : frame])
    np.testing.assert_array_equal(batch.frames[0, CONTEXT:], whole.frames[frame + 1 : frame + 1 + HORIZON])
    np.testing.assert_array_equal(batch.actions[0, CONTEXT - 1 :], whole.actions[frame : frame + HORIZON])
    np.testing.assert_array_equal(batch.rewards[0, CONTEXT - 1 :], whole.rewards[frame : frame + HORIZON])


def test_branches_differ_and_lie_in_the_first_steps(synthetic_recordings: Path) -> None:
    recordings = Recordings(synthetic_recordings)
    found, again = (sample_branches(recordings, CONTEXT, HORIZON, 20, count=3, steps=5) for _ in range(2))
    assert found.shown is not None
    assert again.shown is not None
    for episode, counts in enumerate(found.shown.counts.reshape(-1, 3).tolist()):  # all real frames are shown
        assert counts == [0, 1, 2], episode
    assert found.batch.frames.equal(again.batch.frames)
    assert len(found.tasks) == 3 * len(recordings.episodes)


def test_episodes_that_are_too_short_are_an_error(synthetic_recordings: Path) -> None:
    with pytest.raises(DataError, match="expected an episode with 40 steps in its first 60, got"):
        sample_branches(Recordings(synthetic_recordings), CONTEXT, 40, SHOWN, count=1, steps=60)

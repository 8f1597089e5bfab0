"""Segments that branch off recorded episodes: what a model is shown of an episode before it imagines the rest."""

from collections.abc import Sequence

import numpy as np
import torch

from worldgym.data.recordings import Recordings, Segment, Segments, Shown, to_batch
from worldgym.errors import DataError

Branch = tuple[int, int]
"""Index of an episode, and of its frame from which on it is imagined."""


def sample_branches(
    recordings: Recordings, context: int, horizon: int, shown: int, count: int, steps: int, seed: int = 0
) -> Segments:
    """Sample different branches of every episode; fewer of an episode that has fewer.

    Args:
        recordings: the episodes.
        context: frames of the context, C.
        horizon: frames to imagine, T.
        shown: real frames behind the context that the model is shown at most, K.
        count: branches of each episode.
        steps: the branches lie in the first so many steps of an episode.
        seed: equal seeds sample equal branches.

    Returns:
        The branches, in the order of episodes; see :func:`read_branches`.

    Raises:
        DataError: if all episodes are too short.
    """
    rng = np.random.default_rng(seed)
    branches: list[Branch] = []
    for index, episode in enumerate(recordings.episodes):
        possible = max(0, min(episode.shape[0] - 1, steps) - horizon + 1)
        chosen = np.sort(rng.choice(possible, min(count, possible), replace=False)) if possible else ()
        branches += [(index, int(frame)) for frame in chosen]
    if not branches:
        raise DataError(
            f"{recordings.folder}: expected an episode with {horizon} steps in its first {steps}, got "
            f"{max(len(episode) for episode in recordings.episodes)} steps at most; ask for fewer"
        )
    return read_branches(recordings, branches, context, horizon, shown)


def read_branches(
    recordings: Recordings, branches: Sequence[Branch], context: int, horizon: int, shown: int
) -> Segments:
    """Read segments whose context is the episode's first frame, repeated, as after a reset.

    Behind it the model is shown the newest real frames up to the one from which it imagines, at most K of them.

    Args:
        recordings: the episodes.
        branches: N branches with T frames behind each.
        context: frames of the context, C.
        horizon: frames to imagine, T.
        shown: K.

    Returns:
        Segments of C + T frames, and what is shown between context and future.
    """
    segments, befores, counts = [], [], []
    for index, frame in branches:
        number = min(shown, frame)
        segments.append(recordings.window(index, 1 - context, context, frame, horizon))
        before = recordings.segment(index, frame - number, number + 1)
        blank = shown - number
        frames = np.pad(before.frames[1:], [(blank, 0), (0, 0), (0, 0), (0, 0)])
        actions = np.pad(before.actions, [(blank, 0), (0, 0)])
        befores.append(Segment(frames, actions, np.zeros(shown, np.float32)))
        counts.append(number)
    read = to_batch(befores)
    names = [recordings.episodes[index].info.task for index, _ in branches]
    return Segments(to_batch(segments), names, Shown(read.frames, read.actions, torch.tensor(counts)))

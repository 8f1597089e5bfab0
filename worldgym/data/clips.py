"""A clip of any recording for a world model: context frames, the frames after them, and the actions between."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldgym.config import WorldModelConfig
from worldgym.data.convert.formats import EPISODES, looks_like, open_source
from worldgym.data.convert.source import RawEpisode
from worldgym.data.episode import SUFFIX, EpisodeFile
from worldgym.data.pictures import resized, to_picture
from worldgym.data.recordings import Recordings
from worldgym.errors import ConfigError, DataError, WorldGymError

MOST_FRAMES = 16  # of a clip whose horizon is not given: the paper's sequences
WITHOUT_CAMERAS = ("video", "something-something")


@dataclass(frozen=True)
class Cut:
    """Which part of a recording.

    Attributes:
        episode: index of the episode, where there are several.
        start: index of the first frame.
        step_size: one in so many frames is taken.
        horizon: frames after the context; None takes as many as there are, up to 16 frames in all.
        image_key: the camera, where there are several.
    """

    episode: int = 0
    start: int = 0
    step_size: int = 1
    horizon: int | None = None
    image_key: str | None = None


class Clip(NamedTuple):
    """A part of a recording, in the form that a world model takes.

    Attributes:
        context: uint8 ``[C, H, W, 3]``; for a goal-conditioned model the goal, then C - 1 frames.
        future: uint8 ``[T, H, W, 3]``, what followed; the goal is the frame after it.
        actions: float32 ``[T, A]``, ``actions[t]`` led to ``future[t]``; None for an action-free model.
        rewards: float32 ``[T]`` of these steps; None where they are unknown.
        size: height and width of the recorded frames, before they were resized.
    """

    context: NDArray[np.uint8]
    future: NDArray[np.uint8]
    actions: NDArray[np.float32] | None
    rewards: NDArray[np.float32] | None
    size: tuple[int, int]


def read_clip(path: Path, cut: Cut, config: WorldModelConfig) -> Clip:
    """Read a part of a recording.

    Args:
        path: an episode of ours, a folder of such, or a file or folder of any format that ``worldgym convert`` reads.
        cut: which part.
        config: of the model that the clip is for; it decides on context length, size, goal and actions.

    Raises:
        DataError: if the recording cannot be read, is too short, or has not the actions that the model takes.
        ConfigError: for a step size where actions are needed: those of the steps between cannot be joined.
    """
    if config.action_dim and cut.step_size > 1:
        raise ConfigError(
            f"step_size: expected 1 for a model that takes actions, because those of the frames that are left out "
            f"cannot be joined; got {cut.step_size}"
        )
    try:
        raw = _read_episode(path, cut)
        frames = _frames(raw.frames, path, cut, config)
    except WorldGymError:
        raise
    except Exception as error:  # whatever readers and decoders raise for damaged files
        raise DataError(f"{path}: not readable ({type(error).__name__}: {error})") from error
    size = frames[0].shape[0], frames[0].shape[1]
    shown = np.stack([resized(frame, config.resolution) for frame in frames])
    first = config.context_length - int(config.goal_conditioned)  # frames before the first that is imagined
    context, future = shown[:first], shown[first : first + len(shown) - config.context_length]
    if config.goal_conditioned:
        context = np.concatenate([shown[-1:], context])
    steps = slice(cut.start + first - 1, cut.start + first - 1 + len(future))
    known = raw.rewards is not None and cut.step_size == 1
    rewards = np.asarray(raw.rewards, np.float32).reshape(-1)[steps] if known else None
    return Clip(context, future, _actions(raw, steps, path, config.action_dim), rewards, size)


def _read_episode(path: Path, cut: Cut) -> RawEpisode:
    if path.suffix == SUFFIX:
        return _own(EpisodeFile(path))
    if path.is_dir() and next(path.glob(EPISODES.patterns[0]), None) is not None:
        episodes = Recordings(path).episodes
        return _own(episodes[_checked_index(cut.episode, len(episodes), path)])
    formats = looks_like(path)
    if not formats:
        raise DataError(f"{path}: expected a recording: npz, MP4, an episode of worldgym or a data set to convert")
    camera = None if formats[0] in WITHOUT_CAMERAS else cut.image_key
    source = open_source(formats[0], path, camera)
    members = source.members()
    return source.read(members[_checked_index(cut.episode, len(members), path)])


def _own(file: EpisodeFile) -> RawEpisode:
    frames = (file.frames(index, index + 1)[0] for index in range(file.shape[0]))  # only those that are asked for
    return RawEpisode(frames, file.info.task, file.actions if file.actions.shape[1] else None, file.rewards)


def _checked_index(index: int, count: int, path: Path) -> int:
    if index >= count:
        raise DataError(f"{path}: expected an episode from 0 to {count - 1}, got {index}; there are {count}")
    return index


def _frames(found: Iterable[NDArray[Any]], path: Path, cut: Cut, config: WorldModelConfig) -> list[NDArray[np.uint8]]:
    """The frames of the clip, as they were recorded."""
    least = config.context_length + (cut.horizon or 1)
    most = max(least, config.context_length + cut.horizon if cut.horizon else MOST_FRAMES)
    taken = islice(found, cut.start, cut.start + cut.step_size * (most - 1) + 1, cut.step_size)
    frames = [to_picture(frame) for frame in taken]
    if len(frames) < least:
        raise DataError(
            f"{path}: expected at least {least} frames from frame {cut.start} on, {cut.step_size} apart "
            f"({config.context_length} of context and {cut.horizon or 1} to imagine), got {len(frames)}; ask for a "
            "shorter horizon, a smaller step size or an earlier start"
        )
    return frames


def _actions(raw: RawEpisode, steps: slice, path: Path, action_dim: int) -> NDArray[np.float32] | None:
    if not action_dim:
        return None
    if raw.actions is None:
        raise DataError(
            f"{path}: expected actions of length {action_dim}, which this model takes, found none; give a recording "
            "with actions, or an action-free checkpoint"
        )
    actions = np.asarray(raw.actions, np.float32)
    actions = actions[:, None] if actions.ndim == 1 else actions
    if actions.ndim != 2 or actions.shape[1] != action_dim:
        raise DataError(
            f"{path}: expected actions of length {action_dim}, which this model takes, got shape "
            f"{list(actions.shape)}; give recordings of the robot that it was trained on"
        )
    return actions[steps]

"""Writing what was played: recordings of the project, and a video."""

import dataclasses
import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldgym.data.episode import SUFFIX, Episode, EpisodeInfo
from worldgym.data.names import file_name
from worldgym.reports.video import beside, compared, enlarge, write_mp4

BEHAVIOUR = "played"
FPS = 20
PANE = 256
"""Least height in pixels of a picture in a video, which is enlarged by a whole factor."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """One step of an episode that is played; the first has no action, and no rewards.

    Attributes:
        frame: imagined, uint8 ``[H, W, 3]``.
        real: the simulator's frame; None where there is none.
        action: of the action space.
        vector: the action as a vector, float32 ``[A]``.
        reward: imagined.
        real_reward: the simulator's; None where there is none.
        success: whether the model counts the task as solved.
        real_success: whether the simulator does.
        terminated: whether the model ended the episode with this step.
        real_ended: whether the simulator did, also by its time limit.
        real_terminated: whether the simulator did, other than by a time limit.
        info: further entries of the model's ``info``.
    """

    frame: NDArray[np.uint8]
    real: NDArray[np.uint8] | None = None
    action: Any = None
    vector: NDArray[np.float32] | None = None
    reward: float = 0.0
    real_reward: float | None = None
    success: bool = False
    real_success: bool | None = None
    terminated: bool = False
    real_ended: bool = False
    real_terminated: bool = False
    info: dict[str, Any] = dataclasses.field(default_factory=dict)


def save_recording(out: Path, moments: Sequence[Moment], imagined: EpisodeInfo, simulated: EpisodeInfo) -> list[Path]:
    """Write consecutive moments as episodes and as a video.

    Each file appears whole or not at all. Imagined and simulated episodes have folders of their own, so that imagined
    ones are never trained on by mistake.

    Args:
        out: the folder; ``imagined/``, ``simulated/`` and ``videos/`` are made in it.
        moments: at least two.
        imagined: what the imagined episode says of itself.
        simulated: what the simulator's episode says of itself.

    Returns:
        The files.

    Raises:
        StorageError: if a file cannot be written; those before it are kept.
    """
    number = _free_number(out, imagined.task)
    name = f"{BEHAVIOUR}-{number:08d}"
    files = [out / "imagined" / file_name(imagined.task) / f"{name}{SUFFIX}"]
    ended = dataclasses.replace(imagined, terminated=moments[-1].terminated)
    rewards, successes = [m.reward for m in moments[1:]], [m.success for m in moments[1:]]
    _episode([m.frame for m in moments], moments, rewards, successes, ended).save(files[0])
    real = [m for m in moments if m.real is not None]
    if len(real) > 1 and moments[0].real is not None:  # the simulator may end first
        files.append(out / "simulated" / file_name(simulated.task) / f"{name}{SUFFIX}")
        ended = dataclasses.replace(simulated, terminated=real[-1].real_terminated)
        rewards, successes = [m.real_reward or 0.0 for m in real[1:]], [bool(m.real_success) for m in real[1:]]
        _episode([m.real for m in real], real, rewards, successes, ended).save(files[1])
    files.append(out / "videos" / file_name(imagined.task) / f"{name}.mp4")
    write_mp4(files[-1], video(moments), FPS)
    return files


def video(moments: Sequence[Moment]) -> NDArray[np.uint8]:
    """The clip of moments: the simulator, the imagination and their difference, or the imagination alone.

    Returns:
        uint8 ``[T, height, width, 3]``.
    """
    frames = np.stack([m.frame for m in moments])
    clip = frames
    if moments[0].real is not None:  # its last frame stays where the simulator ended first
        shown = moments[0].real
        kept = [shown := m.real if m.real is not None else shown for m in moments]
        clip = compared(np.stack(kept), frames)
    return enlarge(clip, max(1, PANE // frames.shape[1]))


def grid(pictures: Sequence[NDArray[np.uint8]], panes: int) -> NDArray[np.uint8]:
    """Pictures of equal size side by side, with white in place of missing ones: uint8 ``[H, W, 3]``."""
    blank = [np.full_like(pictures[0], 255)] * (panes - len(pictures))
    picture: NDArray[np.uint8] = beside(*(each[None] for each in (*pictures, *blank)))[0]
    return picture


def _episode(
    frames: Sequence[Any],
    moments: Sequence[Moment],
    rewards: Sequence[float],
    successes: Sequence[bool],
    info: EpisodeInfo,
) -> Episode:
    vectors = np.stack([m.vector for m in moments[1:] if m.vector is not None])
    return Episode(np.stack(frames), vectors, np.array(rewards, np.float32), np.array(successes, np.bool_), info)


def _free_number(out: Path, task: str) -> int:
    """The first number that no file of the task has."""
    taken = {path.stem.rpartition("-")[2] for path in out.glob(f"*/{glob.escape(file_name(task))}/{BEHAVIOUR}-*")}
    return max((int(number) for number in taken if number.isdecimal()), default=-1) + 1

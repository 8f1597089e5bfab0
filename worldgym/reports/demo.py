"""The demonstration: recorded episodes next to the model's imagination of them, as videos and pictures."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from worldgym.data.arrays import checked_actions, checked_frames, checked_rewards
from worldgym.errors import DataError
from worldgym.reports.plots import RewardPlot, plot_rewards
from worldgym.reports.video import Frames, below, beside, compared, enlarge, write_gif, write_mp4, write_png
from worldgym.world_model import WorldModel

FRAMES_PER_SECOND = 8
COLUMNS = 2  # of clips in a video
SHEET_STEPS = 6  # steps shown in the sheet of frames
TITLE_HEIGHT = 22
PLOT_HEIGHT = 210
TEXT_COLOUR, BACKGROUND = (40, 40, 40), (255, 255, 255)


@dataclass(frozen=True)
class RecordedClip:
    """A part of a recorded episode.

    Attributes:
        title: name of the clip in videos and plots.
        context: uint8 ``[C, H, W, 3]``, the frames from which the world model starts.
        frames: uint8 ``[T, H, W, 3]``, the frames after them.
        actions: float32 ``[T, A]``; ``actions[t]`` led to ``frames[t]``.
        rewards: float32 ``[T]``; ``rewards[t]`` came with ``frames[t]``.

    Raises:
        DataError: for arrays of other shapes or dtypes.
    """

    title: str
    context: NDArray[np.uint8]
    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]

    def __post_init__(self) -> None:
        where, steps = f"clip {self.title!r}", len(self.frames)
        checked = {
            "context": checked_frames(self.context, where=where),
            "frames": checked_frames(self.frames, where=where),
            "actions": checked_actions(self.actions, steps=steps, where=where),
            "rewards": checked_rewards(self.rewards, steps=steps, where=where),
        }
        for name, array in checked.items():
            object.__setattr__(self, name, array)  # because the class is frozen

    def truncate(self, steps: int) -> "RecordedClip":
        """The first steps of the clip."""
        return dataclasses.replace(
            self, frames=self.frames[:steps], actions=self.actions[:steps], rewards=self.rewards[:steps]
        )


class ImaginedClips(NamedTuple):
    """The imagination of B clips.

    Attributes:
        frames: uint8 ``[B, T, H, W, 3]``.
        rewards: float32 ``[B, T]``.
        steps_per_second: imagined steps of all clips in a second of wall time.
    """

    frames: NDArray[np.uint8]
    rewards: NDArray[np.float32]
    steps_per_second: float


class DemoFiles(NamedTuple):
    """The files that :func:`write_demo` writes.

    Attributes:
        mp4: the video.
        gif: the same video, smaller.
        sheet: frames at a few steps.
        rewards: plot of the rewards.
    """

    mp4: Path
    gif: Path
    sheet: Path
    rewards: Path


def truncate_to_shortest(clips: Sequence[RecordedClip], steps: int) -> list[RecordedClip]:
    """Truncate clips to one length.

    Args:
        clips: the clips.
        steps: the length, unless a clip is shorter.

    Returns:
        Clips of ``steps`` steps, or of as many as the shortest one has.

    Raises:
        DataError: if there are no clips, or no steps.
    """
    length = min([steps, *(len(clip.frames) for clip in clips)])
    if not clips or length < 1:
        raise DataError(f"expected clips of at least 1 step, got {len(clips)} clips of {length} steps; choose others")
    return [clip.truncate(length) for clip in clips]


def imagine_clips(model: WorldModel, clips: Sequence[RecordedClip], seed: int = 0) -> ImaginedClips:
    """Imagine clips from their contexts under their recorded actions, as one batch.

    Args:
        model: the world model.
        clips: clips of one length, see :func:`truncate_to_shortest`.
        seed: of the sampled tokens.

    Returns:
        The imagined frames and rewards, with the speed.
    """
    sampling, generator = model.config.sampling, torch.Generator("cpu").manual_seed(seed)
    actions = np.stack([clip.actions for clip in clips])
    frames, rewards = [], []
    begin = time.perf_counter()
    state = model.start(np.stack([clip.context for clip in clips]))
    for step in tqdm(range(actions.shape[1]), desc="imagine", unit="step"):
        state, frame, reward = model.step(
            state, actions[:, step], sampling.temperature, sampling.top_k, generator=generator
        )
        frames.append(frame.numpy(force=True))
        rewards.append(reward.numpy(force=True))
    seconds = time.perf_counter() - begin
    return ImaginedClips(np.stack(frames, axis=1), np.stack(rewards, axis=1), len(clips) * actions.shape[1] / seconds)


def write_demo(clips: Sequence[RecordedClip], imagined: ImaginedClips, folder: Path) -> DemoFiles:
    """Write the video, the sheet of frames and the plot of the rewards.

    Args:
        clips: what was recorded.
        imagined: what the world model made of it.
        folder: where to write; it is made if it is missing.

    Returns:
        The files.

    Raises:
        StorageError: if a file cannot be written.
    """
    files = DemoFiles(*(folder / name for name in ("demo.mp4", "demo.gif", "sheet.png", "rewards.png")))
    write_mp4(files.mp4, demo_video(clips, imagined, factor=3), FRAMES_PER_SECOND)
    write_gif(files.gif, demo_video(clips, imagined, factor=2), FRAMES_PER_SECOND)
    write_png(files.sheet, _sheet(clips, imagined))
    write_png(files.rewards, _plot(clips, imagined, 1200, 480).picture)
    return files


def demo_video(clips: Sequence[RecordedClip], imagined: ImaginedClips, factor: int) -> Frames:
    """Show all clips in a grid, with their rewards below.

    Args:
        clips: what was recorded.
        imagined: what the world model made of it.
        factor: every pixel is enlarged by it.

    Returns:
        uint8 ``[T, H, W, 3]``.
    """
    panels = []
    for clip, frames in zip(clips, imagined.frames, strict=True):
        panel = enlarge(compared(clip.frames, frames, gap=1), factor)
        panels.append(_add_title(panel, f"{clip.title}: real | imagined | difference"))
    grid = _grid(panels)
    plot = _plot(clips, imagined, grid.shape[2], PLOT_HEIGHT)
    return below(grid, plot.with_cursor(len(grid)), gap=4)


def _plot(clips: Sequence[RecordedClip], imagined: ImaginedClips, width: int, height: int) -> RewardPlot:
    rewards = np.stack([clip.rewards for clip in clips])
    return plot_rewards([clip.title for clip in clips], rewards, imagined.rewards, width, height)


def _add_title(clip: Frames, text: str) -> Frames:
    """The clip with a line of text above it."""
    title = Image.new("RGB", (clip.shape[2], TITLE_HEIGHT), BACKGROUND)
    ImageDraw.Draw(title).text((4, 3), text, TEXT_COLOUR, font=ImageFont.load_default(14))
    return below(np.repeat(np.asarray(title)[None], len(clip), axis=0), clip, gap=0)


def _sheet(clips: Sequence[RecordedClip], imagined: ImaginedClips) -> Frames:
    """Frames at a few steps, uint8 ``[H, W, 3]``: a row of real frames above a row of imagined ones for each clip."""
    steps = np.unique(np.linspace(1, imagined.frames.shape[1], SHEET_STEPS).round().astype(int))
    rows = []
    for clip, frames in zip(clips, imagined.frames, strict=True):
        pair = [beside(*each[steps - 1, None]) for each in (clip.frames, frames)]
        text = f"{clip.title}: real above, imagined below, at step {', '.join(map(str, steps))}"
        rows.append(_add_title(enlarge(below(*pair), 2), text))
    sheet: Frames = _grid(rows)[0]
    return sheet


def _grid(clips: Sequence[Frames]) -> Frames:
    """Clips of one size in rows of two; an empty place is white."""
    columns = min(COLUMNS, len(clips))
    filled = [*clips, *([np.full_like(clips[0], 255)] * (-len(clips) % columns))]
    return below(*(beside(*filled[row : row + columns], gap=10) for row in range(0, len(clips), columns)), gap=4)

"""The demonstration: real episodes beside the model's imagination of them, as a video, a picture and a number.

It takes plain arrays; where they come from is the caller's business.
"""

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

from worldgym.errors import DataError
from worldgym.reports.video import Frames, below, beside, compared, enlarge, write_gif, write_mp4
from worldgym.storage.files import atomic_write
from worldgym.world_model import WorldModel

FRAMES_PER_SECOND = 8
COLUMNS = 2
SHEET_STEPS = 6
TITLE_HEIGHT = 22
PLOT_HEIGHT = 210
INK, PAPER, CURSOR = (40, 40, 40), (255, 255, 255), (200, 60, 60)


@dataclass(frozen=True)
class Scene:
    """What really happened.

    Attributes:
        title: written above it.
        context: uint8 ``[C, H, W, 3]``, the frames to start from.
        frames: uint8 ``[T, H, W, 3]``, the frames that followed.
        actions: float32 ``[T, A]``; ``actions[t]`` led to ``frames[t]``.
        rewards: float32 ``[T]``; ``rewards[t]`` came with ``frames[t]``.
    """

    title: str
    context: NDArray[np.uint8]
    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]

    def until(self, steps: int) -> "Scene":
        """The scene's first steps."""
        return dataclasses.replace(
            self, frames=self.frames[:steps], actions=self.actions[:steps], rewards=self.rewards[:steps]
        )


class Dream(NamedTuple):
    """The scenes as imagined: uint8 ``[B, T, H, W, 3]``, float32 ``[B, T]``, and the steps of all rows a second."""

    frames: NDArray[np.uint8]
    rewards: NDArray[np.float32]
    steps_per_second: float


class Files(NamedTuple):
    """What :func:`write` wrote."""

    mp4: Path
    gif: Path
    sheet: Path
    rewards: Path


def alike(scenes: Sequence[Scene], steps: int) -> list[Scene]:
    """The scenes cut to ``steps``, or to the shortest of them.

    Raises:
        DataError: where nothing is left.
    """
    length = min([steps, *(len(scene.frames) for scene in scenes)])
    if not scenes or length < 1:
        raise DataError(f"a demonstration needs scenes of at least 1 step, got {len(scenes)} scenes of {length}")
    return [scene.until(length) for scene in scenes]


def imagine(model: WorldModel, scenes: Sequence[Scene], seed: int = 0) -> Dream:
    """Replay the real actions of all scenes (of one length) in imagination, as one batch."""
    sampling, generator = model.config.sampling, torch.Generator().manual_seed(seed)
    context, actions = (np.stack([getattr(scene, name) for scene in scenes]) for name in ("context", "actions"))
    frames, rewards = [], []
    begin = time.perf_counter()
    state = model.start(context)
    for step in tqdm(range(actions.shape[1]), desc="imagine", unit="step"):
        state, frame, reward = model.step(
            state, actions[:, step], sampling.temperature, sampling.top_k, generator=generator
        )
        frames.append(frame.numpy(force=True))
        rewards.append(reward.numpy(force=True))
    seconds = time.perf_counter() - begin
    return Dream(np.stack(frames, axis=1), np.stack(rewards, axis=1), actions.shape[0] * actions.shape[1] / seconds)


def write(scenes: Sequence[Scene], dream: Dream, folder: Path) -> Files:
    """Write the video, a sheet of a few of its moments and the reward plot into ``folder``."""
    files = Files(*(folder / name for name in ("demo.mp4", "demo.gif", "sheet.png", "rewards.png")))
    write_mp4(files.mp4, _video(scenes, dream, factor=3), FRAMES_PER_SECOND)
    write_gif(files.gif, _video(scenes, dream, factor=2), FRAMES_PER_SECOND)
    _write_png(files.sheet, _sheet(scenes, dream))
    _write_png(files.rewards, _plot(scenes, dream, 1200, 480).picture)
    return files


def _video(scenes: Sequence[Scene], dream: Dream, factor: int) -> Frames:
    """All scenes in a grid, enlarged, and their rewards below: uint8 ``[T, H, W, 3]``."""
    panels = []
    for scene, imagined in zip(scenes, dream.frames, strict=True):
        panel = enlarge(compared(scene.frames, imagined, gap=1), factor)
        panels.append(_titled(panel, f"{scene.title}: real | imagined | difference"))
    grid = _grid(panels)
    plot = _plot(scenes, dream, grid.shape[2], PLOT_HEIGHT)
    return below(grid, plot.with_cursor(len(grid)), gap=4)


def _titled(clip: Frames, text: str) -> Frames:
    """The clip below a line of text."""
    title = Image.new("RGB", (clip.shape[2], TITLE_HEIGHT), PAPER)
    ImageDraw.Draw(title).text((4, 3), text, INK, font=ImageFont.load_default(14))
    return below(np.repeat(np.asarray(title)[None], len(clip), axis=0), clip, gap=0)


def _sheet(scenes: Sequence[Scene], dream: Dream) -> Frames:
    """A few moments, uint8 ``[H, W, 3]``: for each scene a row of real frames above a row of imagined ones."""
    length = dream.frames.shape[1]
    moments = np.unique(np.linspace(1, length, SHEET_STEPS).round().astype(int))
    rows = []
    for scene, imagined in zip(scenes, dream.frames, strict=True):
        pair = [beside(*clip[moments - 1, None]) for clip in (scene.frames, imagined)]
        steps = ", ".join(map(str, moments))
        rows.append(_titled(enlarge(below(*pair), 2), f"{scene.title}: real above, imagined below, at step {steps}"))
    sheet: Frames = _grid(rows)[0]
    return sheet


def _grid(clips: Sequence[Frames]) -> Frames:
    """Clips of one size in rows of two."""
    columns = min(COLUMNS, len(clips))
    filled = [*clips, *([np.full_like(clips[0], 255)] * (-len(clips) % columns))]
    return below(*(beside(*filled[row : row + columns], gap=10) for row in range(0, len(clips), columns)), gap=4)


class _Plot(NamedTuple):
    """A picture uint8 ``[H, W, 3]`` and, for each axes in it, its pixels: first and last column, top and bottom row."""

    picture: NDArray[np.uint8]
    axes: list[tuple[float, float, int, int]]

    def with_cursor(self, length: int) -> Frames:
        """The picture at each of ``length`` steps, a line marking the step."""
        clip = np.repeat(self.picture[None], length, axis=0)
        for step in range(length):
            for first, last, top, bottom in self.axes:
                column = round(first + (last - first) * (step / max(1, length - 1)))
                clip[step, top:bottom, column - 1 : column + 1] = CURSOR
        return clip


def _plot(scenes: Sequence[Scene], dream: Dream, width: int, height: int) -> _Plot:
    """Real and imagined rewards of each scene."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, height / 100), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    rows = 2 if len(scenes) > 3 else 1
    grid = figure.subplots(rows, -(-len(scenes) // rows), squeeze=False).flat
    steps = np.arange(1, dream.rewards.shape[1] + 1)
    for axes, scene, rewards in zip(grid, scenes, dream.rewards, strict=False):
        axes.plot(steps, scene.rewards, color="black", linewidth=1.2, label="real")
        axes.plot(steps, rewards, color="tab:orange", linewidth=1.2, label="imagined")
        axes.set_title(f"{scene.title}: reward", fontsize=8, pad=3)
        axes.tick_params(labelsize=7, pad=1)
    for axes in list(grid)[len(scenes) :]:
        axes.set_axis_off()
    figure.axes[0].legend(fontsize=7, frameon=False)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    shown = figure.axes[: len(scenes)]
    return _Plot(picture, [_pixels(axes, steps, picture.shape[0]) for axes in shown])


def _pixels(axes: object, steps: NDArray[np.int64], height: int) -> tuple[float, float, int, int]:
    transform, box = axes.transData, axes.get_window_extent()  # type: ignore[attr-defined]
    (first, _), (last, _) = transform.transform([(steps[0], 0), (steps[-1], 0)])
    return float(first), float(last), height - int(box.y1), height - int(box.y0)


def _write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    with atomic_write(path) as aside:
        Image.fromarray(picture).save(aside, format="PNG", optimize=True)

"""A plot of real and imagined rewards, still or with a line that moves over the steps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldgym.reports.video import Frames

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURSOR = (200, 60, 60)  # colour of the moving line


class _Area(NamedTuple):
    """Where a diagram lies in the picture, in pixels: columns of the first and last step, top and bottom row."""

    first: float
    last: float
    top: int
    bottom: int


class RewardPlot(NamedTuple):
    """A drawn plot.

    Attributes:
        picture: uint8 ``[H, W, 3]``.
        areas: where its diagrams lie.
    """

    picture: NDArray[np.uint8]
    areas: list[_Area]

    def with_cursor(self, steps: int) -> Frames:
        """Repeat the picture for every step, with a vertical line at the step.

        Args:
            steps: number of steps T.

        Returns:
            uint8 ``[T, H, W, 3]``.
        """
        clip = np.repeat(self.picture[None], steps, axis=0)
        for step in range(steps):
            for area in self.areas:
                column = round(area.first + (area.last - area.first) * (step / max(1, steps - 1)))
                clip[step, area.top : area.bottom, column - 1 : column + 1] = CURSOR
        return clip


def plot_rewards(
    titles: Sequence[str], real: NDArray[np.float32], imagined: NDArray[np.float32], width: int, height: int
) -> RewardPlot:
    """Draw a diagram of rewards over steps for each of N clips.

    Args:
        titles: N titles.
        real: rewards of the simulator, ``[N, T]``.
        imagined: rewards of the world model, ``[N, T]``.
        width: of the picture in pixels.
        height: of the picture in pixels.

    Returns:
        The plot.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, height / 100), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    rows = 2 if len(titles) > 3 else 1
    diagrams = list(figure.subplots(rows, -(-len(titles) // rows), squeeze=False).flat)
    steps = np.arange(1, real.shape[1] + 1)
    for axes, title, real_rewards, imagined_rewards in zip(diagrams, titles, real, imagined, strict=False):
        axes.plot(steps, real_rewards, color="black", linewidth=1.2, label="real")
        axes.plot(steps, imagined_rewards, color="tab:orange", linewidth=1.2, label="imagined")
        axes.set_title(f"{title}: reward", fontsize=8, pad=3, parse_math=False)
        axes.tick_params(labelsize=7, pad=1)
    for axes in diagrams[len(titles) :]:
        axes.set_axis_off()
    diagrams[0].legend(fontsize=7, frameon=False)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return RewardPlot(picture, [_area(axes, steps, picture.shape[0]) for axes in diagrams[: len(titles)]])


def _area(axes: "Axes", steps: NDArray[np.int64], height: int) -> _Area:
    box = axes.get_window_extent()
    (first, _), (last, _) = axes.transData.transform([(steps[0], 0), (steps[-1], 0)])
    return _Area(float(first), float(last), height - int(box.y1), height - int(box.y0))

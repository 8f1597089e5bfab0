"""``worldgym export-dataset``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from worldgym.cli.options import OptionalPositive, parse_options

EXAMPLE = """worldgym export-dataset --to lerobot data/train --out exported/plate-slide --fps 10
  worldgym export-dataset --to minari data/train --out exported/plate-slide-v0"""
FPS = 10


@dataclass(frozen=True)
class ExportDataset:
    """Write recordings in the format of another project.

    lerobot: LeRobot dataset v3.0. A row has an observation and the action taken on it, as recorded; an episode's last
    observation, on which nothing was done, is left out. Frames become H.264 video. Needs pyarrow.
    minari: Minari dataset in HDF5, with all frames as recorded and the environment's own actions. Needs h5py.
    The folder appears when all is written. An interrupted export leaves nothing there; run the same command again.
    """

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Folder of the recordings."""
    to: Literal["lerobot", "minari"]
    """The format."""
    out: Path
    """Folder of the dataset: a new or an empty one. For minari its name is the dataset's id, such as plate-slide-v0."""
    fps: OptionalPositive = None
    """Frames in a second that a LeRobot dataset declares (default: 10)."""

    def run(self) -> None:
        from worldgym.data.export import lerobot, minari
        from worldgym.data.recordings import Recordings
        from worldgym.errors import ConfigError

        if self.to == "minari" and self.fps is not None:
            raise ConfigError(f"--fps {self.fps}: Minari datasets have no frame rate, so leave it out")
        recordings = Recordings(self.data)
        if self.to == "lerobot":
            lerobot.export(recordings, self.out, self.fps or FPS)
        else:
            minari.export(recordings, self.out)
        steps = sum(map(len, recordings.episodes))
        print(f"{len(recordings.episodes)} episodes with {steps} steps are in {self.out}")


def parse(arguments: Sequence[str]) -> ExportDataset:
    """Parse the command's options."""
    return parse_options(ExportDataset, arguments, "export-dataset", EXAMPLE)

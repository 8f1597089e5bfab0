"""``worldgym convert``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from worldgym.cli.options import OptionalPositive, OptionalText, Positive, parse_options

if TYPE_CHECKING:
    from worldgym.data.convert.source import Source
    from worldgym.data.convert.writing import Target

EXAMPLE = """worldgym convert video clips --out data/clips --frame-skip 3
  worldgym convert npz episodes --out data/robot --image-key aux1_image
  worldgym convert lerobot lerobot/pusht --out data/pusht
  worldgym convert rlds bridge_dataset/1.0.0 --out data/bridge --image-key image_0 --dry-run
  worldgym convert bair softmotion30_44k/train --out data/bair --image-key main
  worldgym convert something-something labels/train.json --out data/something --frame-skip 2"""


@dataclass(frozen=True)
class Convert:
    """Convert recordings of other projects into episodes. Episodes that are already in the folder are kept.

    Formats:
      npz                  as iVideoGPT stores episodes
      video                MP4, WebM and GIF files
      lerobot              v2.1 and v3.0; a folder or a Hub id
      robomimic            HDF5; LIBERO and VP2 too
      rlds                 Open X-Embodiment's TFRecord shards
      minari               HDF5, Arrow or Parquet
      maniskill            trajectories (.h5) with rgb observations
      bair                 robot pushing, TFRecord files
      robonet              HDF5 with videos or JPEG files
      something-something  a list of clips (JSON) and their videos

    Frames are resized to squares. Unknown rewards become 0. An action whose result was not recorded is left out.
    Actions of lerobot are scaled to [-1, 1] by the dataset's smallest and largest values, those of minari by the
    bounds of their space; those of other formats stay as they are.
    """

    format: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FORMAT")]
    """One of those above."""
    src: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """File or folder of the recordings; for lerobot, a dataset on the Hugging Face Hub too."""
    out: Path
    """Folder of the episodes."""
    resolution: Positive = 64
    """Height and width of frames."""
    image_key: OptionalText = None
    """The camera, where there are several (default: the only one)."""
    frame_skip: Positive = 1
    """Take one in so many frames, of recordings without actions."""
    workers: OptionalPositive = None
    """Threads (default: one a core)."""
    dry_run: bool = False
    """List what would be converted, and write nothing."""

    def run(self) -> None:
        import os

        from worldgym.data.convert.formats import check_format, open_source
        from worldgym.data.convert.writing import Target, convert

        check_format(self.format)
        src, name = self._locate()
        source = open_source(self.format, src, self.image_key)
        target = Target(self.out, f"{self.format}:{name}", self.image_key or "", self.resolution, self.frame_skip)
        if self.dry_run:
            _list(source, target)
            return
        outcome = convert(source, target, self.workers or os.cpu_count() or 1)
        print(
            f"{outcome.written} episodes converted, {outcome.kept} there before, {len(outcome.left_out)} left out; "
            f"they are in {self.out}"
        )
        if outcome.largest_action > 1:
            print(
                f"worldgym: actions reach {outcome.largest_action:g}, but learned environments take them in [-1, 1]",
                file=sys.stderr,
            )

    def _locate(self) -> tuple[Path, str]:
        """The file or folder, downloaded if it is a dataset on the Hub, and its name."""
        src = Path(self.src).expanduser()
        if self.format == "lerobot" and not src.exists():
            from worldgym.data.convert.lerobot import download

            return download(self.src, metadata_only=self.dry_run), self.src
        return src, src.absolute().name


def _list(source: "Source", target: "Target") -> None:
    members = source.members()
    for member in members:
        path = target.path(member)
        print(f"{path}{' (there already)' if path.exists() else ''}")
    print(f"{len(members)} episodes would be in {target.folder}")


def parse(arguments: Sequence[str]) -> Convert:
    """Parse the command's options."""
    return parse_options(Convert, arguments, "convert", EXAMPLE)

"""``worldgym curves``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from worldgym.cli.options import parse_options

EXAMPLE = "worldgym curves runs/mbpo-0 runs/mbpo-1 runs/drqv2-0 runs/drqv2-1 --out outputs/curves.png"


@dataclass(frozen=True)
class Curves:
    """Plot success and return of runs against simulator steps, and write the numbers beside the plot.

    Runs of one task and method are averaged: give several seeds of each.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs of mbpo and drqv2."""
    out: Path = Path("outputs/curves.png")
    """File of the plot; a .json file is written beside it."""

    def run(self) -> None:
        from worldgym.agents.curves import curves, write_curves
        from worldgym.errors import ConfigError

        if not self.runs:
            raise ConfigError("expected at least one folder of a run of mbpo or drqv2")
        for path in write_curves(curves(self.runs), self.out):
            print(path)


def parse(arguments: Sequence[str]) -> Curves:
    """Parse the command's options."""
    return parse_options(Curves, arguments, "curves", EXAMPLE)

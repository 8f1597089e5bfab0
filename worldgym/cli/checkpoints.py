"""``worldgym checkpoints``."""

from collections.abc import Sequence
from dataclasses import dataclass

from worldgym.cli.options import parse_options

EXAMPLE = "worldgym checkpoints"


@dataclass(frozen=True)
class Checkpoints:
    """List the checkpoints that ship with worldgym."""

    def run(self) -> None:
        from worldgym.checkpoints import shipped
        from worldgym.reports.card import checkpoint_table

        known = shipped()
        print(checkpoint_table(known.values()) if known else "none: make one with worldgym train and worldgym export")


def parse(arguments: Sequence[str]) -> Checkpoints:
    """Parse the command's options."""
    return parse_options(Checkpoints, arguments, "checkpoints", EXAMPLE)

"""``worldgym mbpo``."""

from collections.abc import Sequence
from dataclasses import dataclass

from worldgym.cli.agent import SCRATCH, AgentOptions, family, parse_agent_options
from worldgym.cli.options import OptionalText

EXAMPLE = "worldgym mbpo --task plate-slide --demos 5 --preset cpu --out runs/mbpo --agent.batch-size 128"


@dataclass(frozen=True, kw_only=True)
class Mbpo(AgentOptions):
    """Train an agent in a simulator and in a world model that learns with it (MBPO; paper, Algorithm 1)."""

    world_model: OptionalText = None
    """A shipped name, a folder, or scratch for fresh weights (default: the shipped checkpoint of the task's simulator,
    else scratch)."""

    def run(self) -> int:
        name = self.world_model or family(self.task).checkpoint or SCRATCH
        return self.train(f"MBPO ({name})", name)


def parse(arguments: Sequence[str]) -> Mbpo:
    """Parse the command's options."""
    return parse_agent_options(Mbpo, arguments, "mbpo", EXAMPLE)

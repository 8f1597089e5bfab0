"""``worldgym drqv2``."""

from collections.abc import Sequence
from dataclasses import dataclass

from worldgym.cli.agent import AgentOptions, parse_agent_options

EXAMPLE = "worldgym drqv2 --task plate-slide --demos 5 --preset cpu --out runs/drqv2 --agent.batch-size 128"


@dataclass(frozen=True, kw_only=True)
class DrQv2Command(AgentOptions):
    """Train DrQ-v2, a model-free agent, in one environment: a simulator, or with --env a learned one.

    It is the baseline of mbpo. The options of mbpo's world model and rollouts are listed too, and have no effect here.
    """

    def run(self) -> int:
        return self.train("DrQ-v2", None)


def parse(arguments: Sequence[str]) -> DrQv2Command:
    """Parse the command's options."""
    return parse_agent_options(DrQv2Command, arguments, "drqv2", EXAMPLE)

"""``worldgym collect``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.constructors import PrimitiveConstructorSpec

from worldgym.cli.options import Natural, OptionalPositive, OptionalText, Texts, parse_options

EXAMPLE = "worldgym collect --out data/train --tasks plate-slide --episodes expert=10,random=5"
EPISODES = "expert=40,noisy=44,smooth=20,random=16"


def _counts(text: str) -> dict[str, int]:
    """``expert=2,random=1`` as a dictionary."""
    counts = {}
    for part in text.split(","):
        name, _, count = part.partition("=")
        if not name or not count.isdecimal():
            raise ValueError(f"expected BEHAVIOUR=COUNT,..., such as {EPISODES}; got {part!r}")
        counts[name] = int(count)
    return counts


def _is_counts(value: Any) -> bool:
    return isinstance(value, dict)


Counts = Annotated[
    dict[str, int],
    PrimitiveConstructorSpec[dict[str, int]](
        nargs=1,
        metavar="BEHAVIOUR=COUNT,...",
        instance_from_str=lambda texts: _counts(texts[0]),
        is_instance=_is_counts,
        str_from_instance=lambda counts: [",".join(f"{name}={count}" for name, count in counts.items())],
    ),
]


@dataclass(frozen=True)
class Collect:
    """Record episodes of a simulator. Episodes that are already in the folder are kept and not repeated."""

    out: Path
    """Folder of the recordings."""
    env: OptionalText = None
    """Id of the simulator, such as Simulator-Toy-v0 (default: the one that has the tasks)."""
    tasks: Texts = ()
    """Tasks to record (default: all that the simulator's checkpoint is trained on)."""
    episodes: Counts = field(default_factory=lambda: _counts(EPISODES))
    """Episodes a task by behaviour: expert, noisy (the expert with noise), straying (the expert, constant actions and a
    random walk in turns), smooth (a random walk), random."""
    seed: Natural = 0
    """Of each behaviour's first episode; the others count up from it."""
    workers: OptionalPositive = None
    """Processes (default: one a core)."""
    look: OptionalText = None
    """How the simulator draws (default: its fastest way)."""

    def run(self) -> None:
        import os

        from worldgym.data.recordings import Recordings
        from worldgym.envs.collect import collect

        workers = self.workers or os.cpu_count() or 1
        paths = collect(self.out, self._tasks(), self.episodes, self.seed, workers, look=self.look)
        recordings = Recordings(self.out)
        print(f"{len(paths)} episodes requested, {len(recordings.episodes)} in {self.out}")

    def _tasks(self) -> list[str]:
        """Plain names of the tasks to record."""
        from worldgym.checkpoints import DEFAULT
        from worldgym.envs.registry import find_spec, find_task, specs
        from worldgym.errors import ConfigError, nearest

        if self.env is None:
            default = next(spec.tasks for spec in specs().values() if spec.checkpoint == DEFAULT)
            return [find_task(task)[1] for task in self.tasks] or list(default)
        spec = find_spec(self.env)
        if spec is None:
            known = [spec.simulator_id for spec in specs().values()]
            raise ConfigError(f"unknown simulator {self.env!r}; {nearest(self.env, known)}")
        return [spec.check_task(task) for task in self.tasks] or list(spec.tasks)


def parse(arguments: Sequence[str]) -> Collect:
    """Parse the command's options."""
    return parse_options(Collect, arguments, "collect", EXAMPLE)

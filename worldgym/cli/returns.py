"""``worldgym returns``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldgym.checkpoints import DEFAULT
from worldgym.cli.options import Natural, OptionalText, Positive, Texts, parse_options

EXAMPLE = "worldgym returns --checkpoint metaworld-64 --tasks plate-slide --behaviours random expert"


@dataclass(frozen=True)
class Returns:
    """Compare the returns of whole episodes in a learned environment and in its simulator.

    Both start at the same first frames and take the same actions, which the behaviour chooses in the simulator.
    """

    checkpoint: str = DEFAULT
    """A shipped name or a folder."""
    tasks: Texts = ()
    """Tasks to compare (default: all of the checkpoint)."""
    behaviours: Texts = ()
    """Who acts: expert, noisy, clumsy, straying, smooth, sticky, random (default: random, and expert where there is
    one, else sticky)."""
    episodes: Positive = 12
    """Episodes of each task and behaviour."""
    seed: Natural = 3_000_000
    """Of the simulator's first reset; the others count up from it."""
    dtype: str = "float32"
    """Precision of the learned environment."""
    out: Path = Path("outputs/returns.json")
    """File of the figures."""
    device: OptionalText = None
    """Such as cpu or cuda:1 (default: the GPU if there is one)."""

    def run(self) -> None:
        import gymnasium as gym

        from worldgym.devices import checked_device
        from worldgym.envs.registry import find_task
        from worldgym.pretrained import locate, read_config
        from worldgym.reports.provenance import provenance
        from worldgym.reports.returns import compare_returns, returns_table
        from worldgym.storage.files import atomic_json

        device = checked_device(self.device)
        tasks = self.tasks or read_config(locate(self.checkpoint)).tasks
        seeds = range(self.seed, self.seed + self.episodes)
        options: dict[str, Any] = {"checkpoint": self.checkpoint, "device": str(device), "dtype": self.dtype}
        figures: dict[str, dict[str, Any]] = {}
        for task in tasks:
            spec, name = find_task(task)
            simulator = gym.make(spec.simulator_id, task=name)
            learned = gym.make_vec("WorldModel-v0", self.episodes, task=task, max_episode_steps=-1, **options)
            further = "expert" if hasattr(simulator.unwrapped, "expert_action") else "sticky"
            for behaviour in self.behaviours or ("random", further):
                found = compare_returns(learned, simulator, seeds, _policies(behaviour))
                figures.setdefault(task, {})[behaviour] = found.figures()
            learned.close()
            simulator.close()
        atomic_json(self.out, {**provenance(device), "returns": figures})
        print(returns_table(figures), self.out, sep="\n\n")


def _policies(name: str) -> Callable[[Any, int], Any]:
    from worldgym.envs.behaviours import behaviour_rng, find_behaviour

    behaviour = find_behaviour(name)
    return lambda env, seed: behaviour(env, behaviour_rng(name, seed))


def parse(arguments: Sequence[str]) -> Returns:
    """Parse the command's options."""
    return parse_options(Returns, arguments, "returns", EXAMPLE)

"""``worldgym starts``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldgym.cli.options import Natural, OptionalText, Positive, Texts, parse_options
from worldgym.errors import ConfigError

EXAMPLE = "worldgym starts --checkpoint my-model --count 200"


@dataclass(frozen=True)
class Starts:
    """Record the first frames of a simulator's episodes into a checkpoint; learned environments start from them."""

    checkpoint: Path
    """Folder of the checkpoint."""
    env: OptionalText = None
    """Id of the simulator (default: the one that the checkpoint was trained on)."""
    tasks: Texts = ()
    """Tasks to record (default: all of the checkpoint)."""
    count: Positive = 200
    """First frames of each task."""
    seed: Natural = 2_000_000
    """Of the first reset; the others count up from it. Training and evaluation use other seeds."""

    def run(self) -> None:
        import numpy as np
        from tqdm import tqdm

        from worldgym.cli.environments import make_env
        from worldgym.data.first_frames import write_first_frames
        from worldgym.pretrained import FIRST_FRAMES, read_config

        config = read_config(self.checkpoint)
        seeds = np.arange(self.seed, self.seed + self.count)
        for task in self.tasks or config.tasks:
            env = make_env(self.env or _environment(config.training_data), task=task)
            frames = [env.reset(seed=int(seed))[0] for seed in tqdm(seeds, desc=task, unit="frame")]
            env.close()
            path = write_first_frames(self.checkpoint / FIRST_FRAMES, task, np.stack(frames), seeds)
            print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def _environment(training_data: Any) -> str:
    try:
        return str(training_data["trained_on"]["environment"])
    except (LookupError, TypeError) as error:
        raise ConfigError(
            "expected the simulator's id in the checkpoint's training_data, found none: give --env"
        ) from error


def parse(arguments: Sequence[str]) -> Starts:
    """Parse the command's options."""
    return parse_options(Starts, arguments, "starts", EXAMPLE)

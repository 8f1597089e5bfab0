"""Batches of real and imagined steps."""

import numpy as np

from worldgym.agents.common.replay import ReplayBuffer
from worldgym.agents.common.transitions import Transitions
from worldgym.errors import ConfigError


class MixedReplay:
    """Two replays that are sampled together.

    Args:
        real: steps of the environment.
        imagined: steps of a world model; None if there are none.

    Raises:
        ConfigError: if the two differ in more than their capacities.
    """

    def __init__(self, real: ReplayBuffer, imagined: ReplayBuffer | None = None) -> None:
        sizes = {"capacity": 0, "capacity_bytes": None}
        if imagined is not None and vars(real.settings) | sizes != vars(imagined.settings) | sizes:
            raise ConfigError(
                f"expected replays that differ in their capacity alone, got {real.settings} and {imagined.settings}"
            )
        self.real, self.imagined = real, imagined

    def sample(self, rng: np.random.Generator, batch_size: int, real_ratio: float) -> Transitions:
        """A batch: first the real steps, then the imagined ones, each uniform over its replay.

        Args:
            rng: samples the steps, and whether a fraction of a real step becomes a whole one, so that small batches
                also contain ``real_ratio`` of real steps on average.
            batch_size: B.
            real_ratio: share of real steps in [0, 1]; all steps are real while no step is imagined.

        Raises:
            ConfigError: for a ratio outside [0, 1].
            DataError: if real steps are needed and there are none.
        """
        if not 0 <= real_ratio <= 1:
            raise ConfigError(f"real_ratio: expected a number in [0, 1], got {real_ratio}")
        if not self.imagined or real_ratio == 1:  # an empty replay counts as none
            return self.real.sample(rng, batch_size)
        count = int(real_ratio * batch_size + rng.random())
        batch = self.real.empty_batch(batch_size)
        if count:
            self.real.sample_into(rng, Transitions(*(part[:count] for part in batch)))
        if count < batch_size:
            self.imagined.sample_into(rng, Transitions(*(part[count:] for part in batch)))
        return batch

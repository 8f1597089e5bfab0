"""Random numbers as functions of what they are used for, so that a resumed run repeats them without saved state."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What random numbers are used for: each purpose has its own stream at every step."""

    RESET, COLLECT, TOKENIZER, TRANSFORMER, IMAGINE, UPDATE, REWARD_HEAD, MODEL_EVAL, PIXEL_REWARDS, CLONE = range(10)


@dataclass
class RandomStreams:
    """Generators that depend on the seed, the progress of the run, the purpose and an index, and on nothing else.

    Attributes:
        seed: of the run.
        step: environment steps done.
        warmup: warm-up units done.
    """

    seed: int
    step: int = 0
    warmup: int = 0

    def rng(self, purpose: Purpose, index: int = 0) -> np.random.Generator:
        """A NumPy generator for a purpose at the current step."""
        return np.random.default_rng([self.seed, self.step, self.warmup, purpose, index])

    def generator(self, purpose: Purpose) -> torch.Generator:
        """A PyTorch generator on the CPU for a purpose at the current step."""
        return torch.Generator("cpu").manual_seed(int(self.rng(purpose, index=1).integers(2**63)))

    def episode_seed(self, episode: int) -> int:
        """The seed to reset an environment with: a function of the run's seed and the episode's number."""
        rng = np.random.default_rng([self.seed, episode, Purpose.RESET])
        return int(rng.integers(2**31))

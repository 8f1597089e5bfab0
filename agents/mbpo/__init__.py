"""Model-based policy optimisation (paper, Algorithm 1)."""

from worldgym.agents.mbpo.config import MBPOConfig
from worldgym.agents.mbpo.learner import MBPO

__all__ = ["MBPO", "MBPOConfig"]

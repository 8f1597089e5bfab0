"""Model-based policy optimisation (paper, Algorithm 1)."""

from worldgym.agents.mbpo.learner import MBPO, MBPOConfig

__all__ = ["MBPO", "MBPOConfig"]

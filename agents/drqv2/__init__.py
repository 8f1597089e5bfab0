"""DrQ-v2 (Yarats et al. 2021): an agent that learns to act from pixels."""

from worldgym.agents.drqv2.agent import DrQv2
from worldgym.agents.drqv2.config import DrQv2Config

__all__ = ["DrQv2", "DrQv2Config"]

"""Where the rewards of imagined rollouts come from.

The paper takes the world model's own reward head. Other sources replace or limit what the head predicts.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from worldgym.agents.common.pixel_rewards import PixelRewardModel


class RewardSource(Protocol):
    """Computes the rewards of one imagined step."""

    def __call__(self, frames: Tensor, predicted: Tensor) -> Tensor:
        """Rewards, float32 ``[B]``.

        Args:
            frames: the frames just imagined, uint8 ``[B, H, W, 3]``.
            predicted: the rewards that the world model's head predicts, float32 ``[B]``.
        """


class HeadRewards:
    """The world model's reward head, as in the paper."""

    def __call__(self, frames: Tensor, predicted: Tensor) -> Tensor:
        return predicted


@dataclass(frozen=True)
class PixelRewards:
    """A network that predicts rewards from the imagined frames."""

    model: PixelRewardModel

    def __call__(self, frames: Tensor, predicted: Tensor) -> Tensor:
        return self.model.predict(frames)


@dataclass(frozen=True)
class ClippedRewards:
    """Another source's rewards, clipped to a range.

    A head that has seen no reward above ``high`` may still predict one, and an agent finds out where.
    """

    source: RewardSource
    low: float
    high: float

    def __call__(self, frames: Tensor, predicted: Tensor) -> Tensor:
        return self.source(frames, predicted).clamp(self.low, self.high)

"""How rewards are learned: as one transformed number (paper, appendix A.5), or as a distribution over bins.

A head of one number that cannot know whether a step earns little or much predicts a value between the two under the
transform, which is far below their mean. With bins it predicts probabilities, and the reward is their mean.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from worldgym.symlog import symexp, symlog


@dataclass(frozen=True)
class RewardScale:
    """The outputs of a reward head, their targets and their meaning.

    Attributes:
        transform: under which rewards are learned, "symlog" or "identity".
        bins: centres of the bins under the transform, ascending; empty for one number.
    """

    transform: str
    bins: tuple[float, ...] = ()

    @property
    def outputs(self) -> int:
        """Number of outputs of the head, K."""
        return max(1, len(self.bins))

    @cached_property
    def centres(self) -> Tensor:
        """The rewards that the bins stand for, float64 ``[K]``."""
        return self._inverse(torch.tensor(self.bins, dtype=torch.float64, device="cpu"))

    @classmethod
    def of(cls, rewards: Tensor, transform: str, count: int) -> "RewardScale":
        """The scale with ``count`` bins over the range of some rewards; without bins if all are equal."""
        scale = cls(transform)
        values = scale.transformed(rewards.double())
        low, high = float(values.min()), float(values.max())
        if count < 2 or not low < high:
            return scale
        return cls(transform, tuple(torch.linspace(low, high, count, dtype=torch.float64, device="cpu").tolist()))

    def transformed(self, rewards: Tensor) -> Tensor:
        """Rewards of any shape under the transform."""
        return rewards if self.transform == "identity" else symlog(rewards)

    def targets(self, rewards: Tensor) -> Tensor:
        """What the head is trained to predict.

        Args:
            rewards: ``[...]``.

        Returns:
            The transformed rewards ``[...]``; with bins probabilities ``[..., K]`` of the two bins around each reward,
            whose mean is the reward. Rewards beyond the bins count as the outermost bin.
        """
        if not self.bins:
            return self.transformed(rewards)
        centres = self.centres.to(rewards.device)
        values = rewards.double().clamp(centres[0], centres[-1])
        upper = torch.searchsorted(centres, values.contiguous()).clamp(1, len(centres) - 1)
        share = (values - centres[upper - 1]) / (centres[upper] - centres[upper - 1])
        pair = torch.stack([1 - share, share], dim=-1)
        empty = torch.zeros(*values.shape, len(centres), dtype=torch.float64, device=rewards.device)
        return empty.scatter_(-1, torch.stack([upper - 1, upper], dim=-1), pair).to(rewards.dtype)

    def errors(self, predicted: Tensor, rewards: Tensor) -> Tensor:
        """The error of each prediction: squared, or with bins the cross-entropy.

        Args:
            predicted: outputs of the head, ``[...]`` or ``[..., K]``.
            rewards: ``[...]``.

        Returns:
            ``[...]``.
        """
        targets = self.targets(rewards)
        if not self.bins:
            return (predicted - targets).square()
        return -(targets * F.log_softmax(predicted, dim=-1)).sum(-1)

    def decode(self, predicted: Tensor) -> Tensor:
        """The rewards, float32 ``[...]``, for outputs of the head."""
        if not self.bins:
            return self._inverse(predicted.float())
        rewards: Tensor = F.softmax(predicted.float(), dim=-1) @ self.centres.to(predicted.device, torch.float32)
        return rewards

    def spread(self, predicted: Tensor) -> Tensor:
        """The standard deviation of the predicted rewards, float32 ``[...]``; NaN without bins."""
        if not self.bins:
            return torch.full_like(predicted, float("nan"), dtype=torch.float32)
        centres = self.centres.to(predicted.device, torch.float32)
        probabilities = F.softmax(predicted.float(), dim=-1)
        mean = probabilities @ centres
        spread: Tensor = (probabilities * (centres - mean[..., None]).square()).sum(-1).sqrt()
        return spread

    def _inverse(self, values: Tensor) -> Tensor:
        return values if self.transform == "identity" else symexp(values)

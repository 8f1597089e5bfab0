"""What candidates lead to, as a model says: the input of every cost.

Shapes: N candidates, T steps, F decoded frames, S real frames, H x W pixels, n tokens of a frame, A action dimension.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

ALL_FRAMES = 2**31
"""For :attr:`worldgym.agents.planning.cost.Cost.frames`: a cost that reads every imagined frame."""


@dataclass(frozen=True)
class Futures:
    """N imagined futures, on the model's device.

    Attributes:
        history: the newest real frames, uint8 ``[S, H, W, 3]``, oldest first.
        actions: float32 ``[N, T, A]``.
        frames: the last F imagined frames, uint8 ``[N, F, H, W, 3]``; F is what the cost asked for, at most T.
        rewards: float32 ``[N, T]``; NaN if the model predicts none.
        reward_spread: float32 ``[N, T]``, standard deviations of the rewards; NaN if the model predicts none, 0 for a
            simulator.
        uncertainty: float32 ``[N, T]``, the world model's; 0 for a simulator.
        success_probability: float32 ``[N, T]``; NaN if the model predicts none.
        tokens: int64 ``[N, T, n]``, dynamics codes; n is 0 for a simulator.
        context: the real frames that the codes refer to, uint8 ``[C, H, W, 3]``; C is 0 for a simulator.
    """

    history: Tensor
    actions: Tensor
    frames: Tensor
    rewards: Tensor
    reward_spread: Tensor
    uncertainty: Tensor
    success_probability: Tensor
    tokens: Tensor
    context: Tensor

    def __len__(self) -> int:
        return len(self.actions)

    def stacks(self, size: int) -> Tensor:
        """The last ``size`` frames of every future, uint8 ``[N, size, H, W, 3]``; real ones where T is smaller.

        ``size`` frames, or all, must have been decoded.
        """
        missing = size - self.frames.shape[1]
        if missing <= 0:
            return self.frames[:, -size:]
        before = self.history[-missing:]
        if len(before) < missing:
            before = torch.cat([before[:1].expand(missing - len(before), -1, -1, -1), before])
        return torch.cat([before.expand(len(self), -1, -1, -1, -1), self.frames], dim=1)

"""The networks of DrQ-v2.

Shapes: B batch rows, S stacked frames, H x W pixels, A action dimension, D features of the encoder.
"""

import torch
from torch import Tensor, nn

from worldgym.agents.drqv2.config import DrQv2Config


class Encoder(nn.Module):
    """Frames uint8 ``[B, S, H, W, 3]`` to features ``[B, D]``."""

    def __init__(self, frame_shape: tuple[int, ...], frame_stack: int, channels: int) -> None:
        super().__init__()
        # The paper's first convolution has 3 S input channels. As one over S x H x W, as deep as the stack, it computes
        # the same from frames as they lie in memory, without sorting their pixels anew.
        self.first = nn.Conv3d(3, channels, (frame_stack, 3, 3), stride=(1, 2, 2))
        self.rest = nn.Sequential(nn.ReLU())
        for _ in range(3):
            self.rest.extend([nn.Conv2d(channels, channels, 3), nn.ReLU()])
        height, width = ((side - 3) // 2 - 5 for side in frame_shape[:2])
        self.dim = channels * height * width

    def forward(self, frames: Tensor) -> Tensor:
        kind = frames.device.type
        half = torch.is_autocast_enabled(kind)
        pixels = frames.to(torch.get_autocast_dtype(kind) if half else torch.float32)
        # x / 255 - 0.5, written so that bfloat16 rounds once: x and x - 127.5 are exact.
        pixels = pixels.sub_(127.5).div_(255)
        maps: Tensor = self.rest(self.first(pixels.permute(0, 4, 1, 2, 3)).squeeze(2))
        # Channels last is the order in which the convolutions leave them.
        return maps.permute(0, 2, 3, 1).flatten(1)


class Trunk(nn.Sequential):
    """Features of the encoder ``[B, D]`` to a few, float32 ``[B, features]`` in (-1, 1)."""

    def __init__(self, dim: int, features: int) -> None:
        super().__init__(nn.Linear(dim, features), nn.LayerNorm(features), nn.Tanh())

    def forward(self, features: Tensor) -> Tensor:
        linear, norm, squash = self
        found: Tensor = squash(norm(linear(features).float()))
        return found


class LastLinear(nn.Linear):
    """A linear layer that stays float32: 8 bits would blur values of hundreds by whole rewards."""

    def forward(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.float())


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), LastLinear(hidden, outputs)
    )


class Actor(nn.Module):
    """The policy: features ``[B, D]`` to mean actions, float32 ``[B, A]`` in (-1, 1)."""

    def __init__(self, dim: int, action_dim: int, config: DrQv2Config) -> None:
        super().__init__()
        self.trunk = Trunk(dim, config.features)
        self.policy = _perceptron(config.features, config.hidden, action_dim)

    def forward(self, features: Tensor) -> Tensor:
        return torch.tanh(self.policy(self.trunk(features)))


class Critic(nn.Module):
    """Twin values of actions ``[B, A]``, where the encoder sees ``[B, D]``: float32 ``[B]`` twice."""

    def __init__(self, dim: int, action_dim: int, config: DrQv2Config) -> None:
        super().__init__()
        self.trunk = Trunk(dim, config.features)
        self.first = _perceptron(config.features + action_dim, config.hidden, 1)
        self.second = _perceptron(config.features + action_dim, config.hidden, 1)

    def forward(self, features: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        inputs = torch.cat([self.trunk(features), actions], dim=1)
        return self.first(inputs)[:, 0], self.second(inputs)[:, 0]

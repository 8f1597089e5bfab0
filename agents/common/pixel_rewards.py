"""Rewards predicted from pixels, for environments whose reward is a sum over places in the frame.

A world model's reward head works from codes, most of which describe what changed since the context. A convolution over
the decoded frame sees the whole frame, and a sum over places generalises to new combinations: some hundred simulator
steps are enough (docs/experiments.md, dials). A reward that depends on the distance between two places is not such a
sum; there the head is better, and the paper uses it alone.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from worldgym.errors import CheckpointError, ConfigError
from worldgym.isolation import torch_defaults
from worldgym.storage.optimizer import load_optimizer_state_dict, optimizer_state_dict
from worldgym.storage.tensors import add_prefix, select_prefix

CELL = 8  # pixels along a side that one feature vector covers


class PixelRewardModel:
    """A small network from a frame to the reward of the step that led to it.

    Args:
        frame_shape: ``(H, W, 3)``; H and W must be multiples of 8.
        seed: of the initial weights. Equal seeds and batches give equal models.

    Raises:
        ConfigError: for another shape.
    """

    @torch_defaults()
    def __init__(self, frame_shape: tuple[int, ...], seed: int = 0) -> None:
        height, width, channels = frame_shape
        if height % CELL or width % CELL:
            raise ConfigError(f"expected frames whose sides are multiples of {CELL} pixels, got {height} x {width}")
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.network = nn.Sequential(
                nn.Conv2d(channels, 16, 4, stride=4),
                nn.ReLU(),
                nn.Conv2d(16, 64, 2, stride=2),
                nn.ReLU(),
                nn.Conv2d(64, 32, 1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(32 * (height // CELL) * (width // CELL), 1),
            )
        self._parameters = dict(self.network.named_parameters())
        self._optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3, weight_decay=1e-2)
        self._scale = torch.zeros(
            (), dtype=torch.float32, device="cpu"
        )  # the largest absolute reward so far; the network's unit

    @torch_defaults()
    def fit(self, frames: Tensor, rewards: Tensor) -> float:
        """One update.

        Args:
            frames: recorded frames, uint8 ``[B, H, W, 3]``.
            rewards: of the steps that led to them, float ``[B]``.

        Returns:
            The root mean squared error before the update.
        """
        self._enlarge_scale(rewards.abs().max())
        targets = rewards / self._scale.clamp(min=1e-8)
        loss = (self._predict_scaled(frames) - targets).square().mean()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return float(loss.detach().sqrt() * self._scale)

    @torch_defaults(grad=False)
    def predict(self, frames: Tensor) -> Tensor:
        """Rewards, float32 ``[...]``, of the steps that led to frames, uint8 ``[..., H, W, 3]``; on their device."""
        scaled = self._predict_scaled(frames.flatten(0, -4).cpu()).view(frames.shape[:-3])
        return (scaled * self._scale).to(frames.device)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, optimizer and scale: copies, from which :meth:`load_state_dict` continues exactly."""
        tensors = {"scale": self._scale, **add_prefix("weights", self.network.state_dict())}
        tensors |= add_prefix("optimizer", optimizer_state_dict(self._optimizer, self._parameters))
        return {name: value.detach().clone() for name, value in tensors.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`state_dict`.

        Raises:
            CheckpointError: if the tensors do not fit this model.
        """
        try:
            if unknown := {name.partition(".")[0] for name in state} - {"scale", "weights", "optimizer"}:
                raise ValueError(f"unknown entries {sorted(unknown)}")
            self.network.load_state_dict(select_prefix("weights", state))
            load_optimizer_state_dict(self._optimizer, self._parameters, select_prefix("optimizer", state))
            self._scale = state["scale"].clone()
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"expected the state of this pixel reward model, got another: {error}") from error

    @torch.no_grad()
    def _enlarge_scale(self, reward: Tensor) -> None:
        """Raise the scale to a reward that is larger than all before; predictions stay the same."""
        if reward > self._scale:
            if self._scale:
                for weight in self.network[-1].parameters():
                    weight.mul_(self._scale / reward)
            self._scale = reward.clone()

    def _predict_scaled(self, frames: Tensor) -> Tensor:
        predicted: Tensor = self.network(frames.movedim(-1, 1).to(torch.float32) / 255 - 0.5)
        return predicted[:, 0]

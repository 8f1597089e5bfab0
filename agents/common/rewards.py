"""Rewards read off frames, for worlds whose rewards are sums of what places show.

A world model's own head works a reward out of codes, most of which tell what has changed since the context frame. A
convolution over the decoded frame sees what is there, and adding up what each place earns goes beyond the sums it has
met: some hundred real steps teach it what a head learns by heart (docs/experiments.md, dials). A reward that is a
distance between two places is not such a sum; there the head is the better one, and the paper has it alone.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from worldgym.errors import CheckpointError, ConfigError

CELL = 8  # pixels along a side that one vector of features stands for


class RewardReader:
    """A small network from a frame to the reward of the step that led there.

    Args:
        frame_shape: ``(H, W, 3)``, both multiples of 8.
        seed: of its first weights; equal seeds and batches give equal readers.

    Raises:
        ConfigError: for another shape.
    """

    def __init__(self, frame_shape: tuple[int, ...], seed: int = 0) -> None:
        height, width, channels = frame_shape
        if height % CELL or width % CELL:
            raise ConfigError(f"rewards are read off frames of multiples of {CELL} pixels, got {height} x {width}")
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
        self._optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3, weight_decay=1e-2)
        self._scale = torch.zeros(())  # the largest reward so far, either way: the network's 1

    def fit(self, frames: Tensor, rewards: Tensor) -> float:
        """One update on real frames, uint8 ``[B, H, W, 3]``, and rewards, float ``[B]``; the RMS error before it."""
        self._grow(rewards.abs().max())
        targets = rewards / self._scale.clamp(min=1e-8)
        loss = (self._read(frames) - targets).square().mean()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return float(loss.detach().sqrt() * self._scale)

    @torch.no_grad()
    def _grow(self, reward: Tensor) -> None:
        """Make room for a larger reward than any before, with all that is read as it was."""
        if reward > self._scale:
            if self._scale:
                for weight in self.network[-1].parameters():
                    weight.mul_(self._scale / reward)
            self._scale = reward.clone()

    @torch.no_grad()
    def read(self, frames: Tensor) -> Tensor:
        """Rewards, float32 ``[...]``, of the steps that led to frames, uint8 ``[..., H, W, 3]``; on their device."""
        found = self._read(frames.flatten(0, -4).cpu()).view(frames.shape[:-3])
        return (found * self._scale).to(frames.device)

    def _read(self, frames: Tensor) -> Tensor:
        found: Tensor = self.network(frames.movedim(-1, 1).float() / 255 - 0.5)
        return found[:, 0]

    def state(self) -> dict[str, Tensor]:
        """Weights, optimizer and scale: copies, from which :meth:`load_state` goes on exactly."""
        tensors = {"scale": self._scale}
        tensors |= {f"weights.{name}": value for name, value in self.network.state_dict().items()}
        for index, entries in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in entries.items()}
        return {name: value.detach().clone() for name, value in tensors.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`state`.

        Raises:
            CheckpointError: where the tensors are not those of such a reader.
        """
        groups: dict[str, dict[str, Tensor]] = {"weights": {}, "optimizer": {}}
        entries: dict[int, dict[str, Tensor]] = {}
        try:
            scale = state["scale"].clone()
            for name in sorted(state.keys() - {"scale"}):
                kind, _, rest = name.partition(".")
                groups[kind][rest] = state[name].clone()
            for name, value in groups["optimizer"].items():
                index, _, entry = name.partition(".")
                entries.setdefault(int(index), {})[entry] = value
            self.network.load_state_dict(groups["weights"])
            self._optimizer.load_state_dict(
                {"state": entries, "param_groups": self._optimizer.state_dict()["param_groups"]}
            )
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"this is not the state of a reader of rewards: {error}") from error
        self._scale = scale

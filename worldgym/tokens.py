"""The token sequence of iVideoGPT (paper, section 3.1): the one place that counts, offsets and names positions.

    [context codes] S1 [context codes] ... S2 [dynamics codes] S2 [dynamics codes] ...

There is no slot before the first context frame, S1 stands before every later context frame, S2 before every
future frame. Dynamics codes are offset by the number of context codes; the two slots are the last two ids.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from worldgym.errors import ConfigError


@dataclass(frozen=True)
class TokenLayout:
    """Counts and ids of one model's sequence. ``B`` batch, ``C`` context frames, ``T`` future frames."""

    context_length: int
    tokens_per_context_frame: int = 256
    tokens_per_frame: int = 16
    context_codes: int = 8192
    dynamics_codes: int = 8192

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) < 1:
                raise ConfigError(f"TokenLayout.{name} must be at least 1, got {getattr(self, name)}")

    @property
    def vocab_size(self) -> int:
        """All ids: context codes, dynamics codes, two slots."""
        return self.context_codes + self.dynamics_codes + 2

    @property
    def context_slot(self) -> int:
        """S1, the id before every context frame but the first."""
        return self.context_codes + self.dynamics_codes

    @property
    def future_slot(self) -> int:
        """S2, the id before every future frame; it carries the action."""
        return self.context_slot + 1

    @cached_property
    def dynamics_ids(self) -> slice:
        """The ids a future frame's tokens may take."""
        return slice(self.context_codes, self.context_codes + self.dynamics_codes)

    @property
    def prefix_length(self) -> int:
        """Positions taken by the context frames."""
        return self.context_length * (self.tokens_per_context_frame + 1) - 1

    @property
    def step_length(self) -> int:
        """Positions taken by one future frame: its slot and its codes."""
        return self.tokens_per_frame + 1

    def length(self, horizon: int) -> int:
        """Positions taken by the context and ``horizon`` future frames."""
        return self.prefix_length + horizon * self.step_length

    def horizon(self, positions: int) -> int:
        """How many future frames fit a window of ``positions``."""
        return max(0, (positions - self.prefix_length) // self.step_length)

    def slots(self, positions: int) -> int:
        """How many future frames are at least opened within ``positions``."""
        return max(0, -((self.prefix_length - positions) // self.step_length))

    def slot_positions(self, horizon: int) -> torch.Tensor:
        """Positions of the S2 that opens each future frame, int64 ``[T]``."""
        return self.prefix_length + self.step_length * torch.arange(horizon)

    def last_positions(self, horizon: int) -> torch.Tensor:
        """Positions of each future frame's last code, where the reward is read, int64 ``[T]``."""
        return self.slot_positions(horizon) + self.tokens_per_frame

    def places(self, length: int) -> torch.Tensor:
        """What distinguishes positions within a frame, int64 ``[length]``.

        Every context position has a place of its own; those of future frames repeat from frame to frame, from
        ``prefix_length`` to ``prefix_length + step_length - 1``.
        """
        positions = torch.arange(length)
        future = self.prefix_length + (positions - self.prefix_length) % self.step_length
        return torch.where(positions < self.prefix_length, positions, future)

    def context_ids(self, codes: torch.Tensor) -> torch.Tensor:
        """Context codes ``[B, C, tokens_per_context_frame]`` to the prefix ids ``[B, prefix_length]``."""
        slots = codes.new_full((*codes.shape[:2], 1), self.context_slot)
        return torch.cat([slots, codes], dim=2).flatten(1)[:, 1:]

    def future_ids(self, codes: torch.Tensor) -> torch.Tensor:
        """Dynamics codes ``[B, T, tokens_per_frame]`` to ids with their slots ``[B, T * step_length]``."""
        slots = codes.new_full((*codes.shape[:2], 1), self.future_slot)
        return torch.cat([slots, codes + self.context_codes], dim=2).flatten(1)

    def dynamics_id(self, codes: torch.Tensor) -> torch.Tensor:
        """Dynamics codes of any shape to ids, without slots."""
        return codes + self.context_codes

    def sequence(self, context: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
        """Both kinds of codes to one sequence of ids ``[B, length(T)]``."""
        return torch.cat([self.context_ids(context), self.future_ids(future)], dim=1)

    def split(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inverse of ``sequence``: ids ``[B, length(T)]`` to context codes and dynamics codes."""
        batch = ids.shape[0]
        prefix, future = ids[:, : self.prefix_length], ids[:, self.prefix_length :]
        if prefix.shape[1] < self.prefix_length or future.shape[1] % self.step_length:
            raise ConfigError(f"a sequence holds {self.prefix_length} + n * {self.step_length} ids, got {ids.shape[1]}")
        slot = prefix.new_full((batch, 1), self.context_slot)
        context = torch.cat([slot, prefix], dim=1).view(batch, self.context_length, -1)[:, :, 1:]
        codes = future.reshape(batch, -1, self.step_length)[:, :, 1:] - self.context_codes
        return context, codes

    def code_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, T * step_length, V]`` from ``prefix_length`` on to those of each frame's codes ``[B, T, n, K]``.

        Position i predicts the id at i + 1: a slot predicts the first code, the last code would predict the next slot.
        """
        frames = torch.unflatten(logits, 1, (-1, self.step_length))
        return frames[:, :, : self.tokens_per_frame, self.dynamics_ids]

    def labels(self, ids: torch.Tensor, ignore: int = -100) -> torch.Tensor:
        """Targets of the cross-entropy: everything behind the first S2; ``ignore`` up to and with it."""
        labels = ids.clone()
        labels[:, : self.prefix_length + 1] = ignore
        return labels

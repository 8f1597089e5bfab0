"""The token sequence of iVideoGPT (paper, section 3.1): all counts, offsets and special ids.

    [context codes] S1 [context codes] ... S2 [dynamics codes] S2 [dynamics codes] ...

There is no slot before the first context frame. The slot S1 precedes every later context frame, the slot S2 every
future frame. Dynamics codes are offset by the number of context codes. The two slots are the last two ids.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from worldgym.errors import ConfigError


@dataclass(frozen=True)
class TokenLayout:
    """Counts and ids of one model's sequence. Shapes: ``B`` batch, ``C`` context frames, ``T`` future frames.

    Attributes:
        context_length: number of context frames, C.
        tokens_per_context_frame: codes of a context frame.
        tokens_per_frame: codes of a future frame, n.
        context_codes: size of the context codebook.
        dynamics_codes: size of the dynamics codebook, K.

    Raises:
        ConfigError: if a number is below 1.
    """

    context_length: int
    tokens_per_context_frame: int = 256
    tokens_per_frame: int = 16
    context_codes: int = 8192
    dynamics_codes: int = 8192

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) < 1:
                raise ConfigError(f"TokenLayout.{name}: expected at least 1, got {getattr(self, name)}")

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
        """Number of complete future frames within ``positions``."""
        return max(0, (positions - self.prefix_length) // self.step_length)

    def slots(self, positions: int) -> int:
        """Number of future frames whose slot is within ``positions``."""
        return max(0, -((self.prefix_length - positions) // self.step_length))

    def slot_positions(self, horizon: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """Positions of the S2 that opens each future frame, int64 ``[T]``."""
        return self.prefix_length + self.step_length * torch.arange(horizon, device=device)

    def last_positions(self, horizon: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """Positions of each future frame's last code, where the reward is predicted, int64 ``[T]``."""
        return self.slot_positions(horizon, device) + self.tokens_per_frame

    def embedding_positions(self, length: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """Rows of the position embedding for the first ``length`` positions, int64 ``[length]``.

        Every context position has a row of its own. Future frames share ``step_length`` rows: the position within the
        frame selects one of ``prefix_length`` to ``prefix_length + step_length - 1``.
        """
        positions = torch.arange(length, device=device)
        future = self.prefix_length + (positions - self.prefix_length) % self.step_length
        return torch.where(positions < self.prefix_length, positions, future)

    def context_ids(self, codes: torch.Tensor) -> torch.Tensor:
        """Ids ``[B, prefix_length]`` of context codes ``[B, C, tokens_per_context_frame]``, slots included."""
        slots = codes.new_full((*codes.shape[:2], 1), self.context_slot)
        return torch.cat([slots, codes], dim=2).flatten(1)[:, 1:]

    def future_ids(self, codes: torch.Tensor) -> torch.Tensor:
        """Ids ``[B, T * step_length]`` of dynamics codes ``[B, T, tokens_per_frame]``, slots included."""
        slots = codes.new_full((*codes.shape[:2], 1), self.future_slot)
        return torch.cat([slots, self.dynamics_id(codes)], dim=2).flatten(1)

    def dynamics_id(self, codes: torch.Tensor) -> torch.Tensor:
        """Ids of dynamics codes of any shape, without slots."""
        return codes + self.context_codes

    def sequence(self, context: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
        """Ids ``[B, length(T)]`` of a whole sequence; arguments as in `context_ids` and `future_ids`."""
        return torch.cat([self.context_ids(context), self.future_ids(future)], dim=1)

    def code_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Select the logits that predict dynamics codes.

        Position i predicts the id at i + 1: a slot predicts the first code. The prediction of the last code, which
        would be of the next slot, is left out.

        Args:
            logits: ``[B, T * step_length, V]``, from position ``prefix_length`` on.

        Returns:
            ``[B, T, n, K]``.
        """
        frames = torch.unflatten(logits, 1, (-1, self.step_length))
        return frames[:, :, : self.tokens_per_frame, self.dynamics_ids]

"""The interface of all tokenizers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from worldgym.errors import InvalidFrames
from worldgym.tokenizer.norm import LatentNorm
from worldgym.tokenizer.quantizer import VectorQuantizer
from worldgym.tokens import TokenLayout


@dataclass(frozen=True)
class ContextFeatures:
    """Features of the context frames that encoder and decoder use, computed once per episode. Never modified.

    Attributes:
        stored: tensors whose first dimension is the context; their meaning is private to the tokenizer.
        rows: int64 ``[B]``, the context of each row of the batch; None if row i has context i.
        shown: float ``[N, 2, 3, H, W]`` for N contexts, set where real frames behind the context are known: the newest
            of them as it is decoded from its codes, and its difference to that. Zeros where none is known.
    """

    stored: tuple[Tensor, ...]
    rows: Tensor | None = None
    shown: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """``stored`` with one entry per row of the batch; copies if rows share a context."""
        return self.stored if self.rows is None else tuple(tensor[self.rows] for tensor in self.stored)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(tensor.nbytes for tensor in (*self.stored, *([] if self.shown is None else [self.shown])))

    def select(self, rows: Tensor) -> "ContextFeatures":
        """A copy of the features of some rows, int64 ``[N]``; an index may repeat."""
        return self.fork(rows).whole()

    def fork(self, rows: Tensor) -> "ContextFeatures":
        """As :meth:`select`, without a copy: rows share their context's features."""
        return ContextFeatures(self.stored, rows if self.rows is None else self.rows[rows], self.shown)

    def put(self, rows: Tensor, other: "ContextFeatures") -> "ContextFeatures":
        """A copy in which some rows, int64 ``[N]``, are replaced by those of another batch of ``N``."""
        old, new = self.whole(), other.whole()
        stored = tuple(tensor.index_copy(0, rows, part) for tensor, part in zip(old.stored, new.stored, strict=True))
        like = new.shown if old.shown is None else old.shown
        if like is None:
            return ContextFeatures(stored)
        kept, put = (
            like.new_zeros(len(part.stored[0]), *like.shape[1:]) if part.shown is None else part.shown
            for part in (old, new)
        )
        return ContextFeatures(stored, None, kept.index_copy(0, rows, put))

    def whole(self) -> "ContextFeatures":
        """The same features with a context for each row of the batch; copies if rows share a context."""
        if self.rows is None:
            return self
        return ContextFeatures(self.tensors, None, None if self.shown is None else self.shown[self.rows])


class TokenizerOutput(NamedTuple):
    """Result of a training forward pass."""

    context: Tensor
    """Reconstruction ``[B, C, 3, H, W]``, not clamped."""
    future: Tensor
    """Reconstruction ``[B, T, 3, H, W]``, not clamped."""
    context_codes: Tensor
    """int64 ``[B, C, tokens_per_context_frame]``."""
    dynamics_codes: Tensor
    """int64 ``[B, T, tokens_per_frame]``."""
    commit_loss: Tensor
    """Commitment loss of the context codes, float32 scalar."""
    dynamics_commit_loss: Tensor
    """Commitment loss of the dynamics codes, float32 scalar."""


class Tokenizer(nn.Module, ABC):
    """Frames <-> codes (paper, section 3.1). Frames are float ``[B, C|T, 3, H, W]`` in [0, 1]; codes are int64."""

    layout: TokenLayout
    resolution: int

    @abstractmethod
    def encode_context(self, frames: Tensor) -> tuple[Tensor, ContextFeatures]:
        """Context frames ``[B, C, 3, H, W]`` to codes ``[B, C, tokens_per_context_frame]`` and features."""

    @abstractmethod
    def encode_future(self, frames: Tensor, features: ContextFeatures) -> Tensor:
        """Future frames ``[B, T, 3, H, W]`` and their context to dynamics codes ``[B, T, tokens_per_frame]``."""

    @abstractmethod
    def decode_future(self, codes: Tensor, features: ContextFeatures) -> Tensor:
        """Dynamics codes ``[B, T, tokens_per_frame]`` to frames ``[B, T, 3, H, W]``, not clamped."""

    @property
    @abstractmethod
    def last_layer(self) -> nn.Conv2d:
        """The last layer of the decoder of future frames."""

    @property
    @abstractmethod
    def peak_floats(self) -> int:
        """Approximate number of values in memory at once while one frame is encoded or decoded."""

    @abstractmethod
    def forward(self, frames: Tensor) -> TokenizerOutput:
        """Encode, quantise and decode a clip ``[B, C + T, 3, H, W]``, with gradients straight through the codes.

        In training mode, call :meth:`update_codebooks` after each forward pass whose loss is finite.
        """

    @abstractmethod
    def codebooks(self) -> tuple[Tensor, Tensor]:
        """The vectors of context codes, ``[context_codes, D]``, and of dynamics codes, ``[dynamics_codes, D]``."""

    def update_codebooks(self) -> None:
        """Apply the last forward pass in training mode to codebooks and running statistics.

        The forward pass itself changes neither. If its loss is not finite, do not call this: the next forward pass
        replaces what was computed.
        """
        for part in self.modules():
            if isinstance(part, (VectorQuantizer, LatentNorm)):
                part.update()


def codes_perplexity(codes: Tensor, size: int) -> float:
    """Exponential of the entropy of the codes' distribution: ``size`` if all are used equally often."""
    share = torch.bincount(codes.flatten(), minlength=size).double()
    share = share[share > 0] / share.sum()
    return float(torch.exp(-(share * share.log()).sum()))


def check_frames(frames: Tensor, resolution: int, count: int | None = None) -> None:
    """Check frames on their way into a tokenizer.

    Args:
        frames: expected float ``[B, count, 3, resolution, resolution]``.
        resolution: height and width.
        count: number of frames; None accepts any number of at least 1.

    Raises:
        InvalidFrames: for another shape or an integer dtype.
    """
    length = "T >= 1" if count is None else str(count)
    expected = f"expected float frames in [0, 1] of shape [B, {length}, 3, {resolution}, {resolution}]"
    fits = frames.ndim == 5 and frames.shape[2:] == (3, resolution, resolution)
    if not fits or (frames.shape[1] < 1 if count is None else frames.shape[1] != count):
        raise InvalidFrames(
            f"{expected}, got {list(frames.shape)}: put batch and time first, channels third, resize to "
            f"{resolution} pixels, and give as many frames as the model was built for"
        )
    if not frames.is_floating_point():
        raise InvalidFrames(f"{expected}, got {frames.dtype}: for uint8 write frames.float() / 255")

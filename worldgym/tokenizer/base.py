"""What every tokenizer offers, whatever its architecture."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from worldgym.errors import InvalidFrames
from worldgym.tokenizer.quantizer import VectorQuantizer
from worldgym.tokens import TokenLayout


@dataclass(frozen=True)
class ContextFeatures:
    """What encoder and decoder need of the context frames, computed once an episode. Never written to.

    ``stored`` all have contexts as their first dimension; what each one is stays between a tokenizer and itself.
    ``rows``, int64 ``[B]``, says which context each row of the batch has; None where they are one to one.
    """

    stored: tuple[Tensor, ...]
    rows: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """A row of the batch each; copies where rows share a context."""
        return self.stored if self.rows is None else tuple(tensor[self.rows] for tensor in self.stored)

    @property
    def nbytes(self) -> int:
        """What they take."""
        return sum(tensor.nbytes for tensor in self.stored)

    def select(self, rows: Tensor) -> "ContextFeatures":
        """A copy of the features of some rows, int64 ``[N]``, repeated where an index repeats."""
        return ContextFeatures(self.fork(rows).tensors)

    def fork(self, rows: Tensor) -> "ContextFeatures":
        """The same without a copy: rows that repeat share their context's features."""
        return ContextFeatures(self.stored, rows if self.rows is None else self.rows[rows])

    def put(self, rows: Tensor, other: "ContextFeatures") -> "ContextFeatures":
        """These, with rows, int64 ``[N]``, replaced by another batch of ``N``."""
        pairs = zip(self.tensors, other.tensors, strict=True)
        return ContextFeatures(tuple(tensor.index_copy(0, rows, new) for tensor, new in pairs))


class TokenizerOutput(NamedTuple):
    """One training forward pass. ``context`` and ``future`` are reconstructions ``[B, C|T, 3, H, W]``, not clamped."""

    context: Tensor
    future: Tensor
    context_codes: Tensor
    dynamics_codes: Tensor
    commit_loss: Tensor
    dynamics_commit_loss: Tensor


class Tokenizer(nn.Module, ABC):
    """Frames <-> codes (paper, section 3.1). Frames are float ``[B, C|T, 3, H, W]`` in [0, 1]; codes are int64."""

    layout: TokenLayout
    resolution: int

    @abstractmethod
    def encode_context(self, frames: Tensor) -> tuple[Tensor, ContextFeatures]:
        """Context frames ``[B, C, 3, H, W]`` to codes ``[B, C, tokens_per_context_frame]`` and features."""

    @abstractmethod
    def encode_future(self, frames: Tensor, features: ContextFeatures) -> Tensor:
        """Future frames ``[B, T, 3, H, W]`` to dynamics codes ``[B, T, tokens_per_frame]``, seen beside the context."""

    @abstractmethod
    def decode_context(self, codes: Tensor) -> Tensor:
        """Context codes to frames ``[B, C, 3, H, W]``, not clamped."""

    @abstractmethod
    def decode_future(self, codes: Tensor, features: ContextFeatures) -> Tensor:
        """Dynamics codes ``[B, T, tokens_per_frame]`` to frames ``[B, T, 3, H, W]``, not clamped."""

    @property
    @abstractmethod
    def peak_floats(self) -> int:
        """About how many numbers are alive at once while one frame is encoded or decoded."""

    @abstractmethod
    def forward(self, frames: Tensor) -> TokenizerOutput:
        """Encode, quantise and decode a clip ``[B, C + T, 3, H, W]``, with gradients straight through the codes."""

    def update_codebooks(self) -> None:
        """Move the codebooks by the last forward pass in training mode, once its loss is known to be finite."""
        for module in self.modules():
            if isinstance(module, VectorQuantizer):
                module.apply_update()

    @abstractmethod
    def codebooks(self) -> tuple[Tensor, Tensor]:
        """The vectors of the context codes, ``[context_codes, D]``, and of the dynamics codes."""


def codes_perplexity(codes: Tensor, size: int) -> float:
    """Exponential of the entropy of the codes' empirical distribution: ``size`` when all are used alike."""
    share = torch.bincount(codes.flatten(), minlength=size).double()
    share = share[share > 0] / share.sum()
    return float(torch.exp(-(share * share.log()).sum()))


def check_frames(frames: Tensor, resolution: int, count: int | None = None) -> None:
    """Raise :class:`InvalidFrames` unless ``frames`` is float ``[B, count, 3, resolution, resolution]``."""
    length = "T >= 1" if count is None else str(count)
    expected = f"expected float frames in [0, 1] of shape [B, {length}, 3, {resolution}, {resolution}]"
    fits = frames.ndim == 5 and frames.shape[2:] == (3, resolution, resolution)
    if not fits or (frames.shape[1] < 1 if count is None else frames.shape[1] != count):
        raise InvalidFrames(
            f"{expected}, got {list(frames.shape)}: put batch and time first, channels third, resize to "
            f"{resolution} pixels and give the number of frames the model was built for"
        )
    if not frames.is_floating_point():
        raise InvalidFrames(f"{expected}, got {frames.dtype}: for uint8 write frames.float() / 255")

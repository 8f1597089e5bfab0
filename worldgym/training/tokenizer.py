"""Training a tokenizer (paper, section 3.1 and appendix A.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldgym.data.recordings import Recordings, fixed_segments, to_uint8, to_unit
from worldgym.metrics.pixels import psnr, squared_error
from worldgym.reports.video import below, compared, enlarge, write_gif
from worldgym.runs.log import Metrics
from worldgym.tokenizer.base import Tokenizer, codes_perplexity
from worldgym.tokenizer.quantizer import load_state_for_resume, state_for_resume
from worldgym.training.losses import tokenizer_loss
from worldgym.training.transformer import check_frame_shape


@dataclass(frozen=True)
class TokenizerTrainingConfig:
    """How clips are sampled."""

    segment_length: int = 12
    """Frames from which the context, its first frames, and random later frames are taken."""
    future_frames: int = 6
    """Number of later frames."""


class TokenizerJob:
    """:func:`worldgym.training.losses.tokenizer_loss` on clips of recordings: what the loop trains.

    Args:
        model: the tokenizer.
        config: how clips are sampled.
        batch_size: clips in an update.
        recordings: to train on.
        held_out: to validate on.
        perceptual: as in ``tokenizer_loss``.

    Raises:
        ConfigError: if frames have another size than the model's.
        DataError: if an episode is shorter than a segment.
    """

    def __init__(
        self,
        model: Tokenizer,
        config: TokenizerTrainingConfig,
        batch_size: int,
        recordings: Recordings,
        held_out: Recordings,
        perceptual: torch.nn.Module | None = None,
    ) -> None:
        for part in (recordings, held_out):
            check_frame_shape(part, model.resolution)
        recordings.check_length(config.segment_length)
        self.model: Tokenizer = model
        self.slow: torch.nn.Module | None = None
        self.config, self.batch_size, self.perceptual = config, batch_size, perceptual
        self.recordings, self.held_out = recordings, held_out

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, Metrics]:
        batch = self.recordings.sample(rng, self.batch_size, self.config.segment_length)
        frames = sample_frames(rng, batch.frames, self.model.layout.context_length, self.config.future_frames)
        return tokenizer_loss(self.model, frames, self.perceptual)

    def after_update(self) -> None:
        self.model.update_codebooks()

    def finish(self) -> None:
        pass

    def validate(self, video: Path) -> Metrics:
        """Pooled PSNR by horizon, also of repeating the last context frame, and both codebooks' perplexity."""
        context, length = self.model.layout.context_length, self.config.segment_length
        real = to_unit(
            fixed_segments(self.held_out, length, starts=(10, 40)).batch.frames.to(next(self.model.parameters()).device)
        )
        outs = [self.model(chunk) for chunk in real.split(16)]
        future = torch.cat([out.future for out in outs]).float()
        errors = squared_error(future.clamp(0, 1), real[:, context:]).mean(dim=0)
        still = squared_error(real[:, context - 1 : context], real[:, context:]).mean(dim=0)
        context_frames = torch.cat([out.context for out in outs]).float().clamp(0, 1)
        metrics = {"psnr/context": psnr(float(squared_error(context_frames, real[:, :context]).mean()))}
        for horizon in (h for h in (1, 5, 10, 16) if h <= length - context):
            metrics[f"psnr/{horizon}"] = psnr(float(errors[horizon - 1]))
            metrics[f"psnr_last_frame/{horizon}"] = psnr(float(still[horizon - 1]))
        layout = self.model.layout
        for name, codes, size in (
            ("context", torch.cat([out.context_codes for out in outs]), layout.context_codes),
            ("dynamics", torch.cat([out.dynamics_codes for out in outs]), layout.dynamics_codes),
        ):
            metrics[f"perplexity/{name}"] = codes_perplexity(codes, size)
            metrics[f"codes_used/{name}"] = float(codes.unique().numel())
        rows = np.linspace(0, len(real) - 1, 6).astype(int)
        shown, made = (to_uint8(clip[rows]).cpu().numpy() for clip in (real[:, context:], future))
        write_gif(video.with_suffix(".gif"), enlarge(below(*map(compared, shown, made)), 2))
        return metrics

    def state_dict(self) -> dict[str, Tensor]:
        return state_for_resume(self.model)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        load_state_for_resume(self.model, state)


def sample_frames(rng: np.random.Generator, frames: Tensor, context: int, count: int) -> Tensor:
    """Sample frames of clips.

    Args:
        rng: samples.
        frames: clips, ``[B, L, H, W, 3]``.
        context: number of first frames to keep.
        count: number of later frames to sample.

    Returns:
        The frames in their order, ``[B, context + count, H, W, 3]``.
    """
    batch, length = frames.shape[:2]
    later = rng.permuted(np.tile(np.arange(context, length), (batch, 1)), axis=1)
    chosen = np.sort(later[:, :count], axis=1)
    picks = np.concatenate([np.tile(np.arange(context), (batch, 1)), chosen], axis=1)
    return frames[torch.arange(batch, device="cpu")[:, None], torch.from_numpy(picks)]

"""Training a tokenizer (paper, section 3.1 and appendix A.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldgym.config import check_numbers
from worldgym.data.recordings import Recordings, to_uint8, to_unit, validation_segments
from worldgym.errors import ConfigError
from worldgym.metrics.pixels import psnr, squared_error
from worldgym.parallel import WHOLE, Part
from worldgym.reports.video import below, compared, enlarge, write_gif
from worldgym.runs.log import Metrics
from worldgym.storage.tensors import add_prefix, select_prefix
from worldgym.tokenizer.base import Tokenizer, codes_perplexity
from worldgym.tokenizer.norm import LatentNorm
from worldgym.tokenizer.quantizer import VectorQuantizer, load_state_for_resume, state_for_resume
from worldgym.training.adversarial import Adversary
from worldgym.training.checks import check_recordings
from worldgym.training.losses import tokenizer_loss

VALIDATION_STARTS = (10, 40)  # first frames of the held-out segments
VALIDATION_HORIZONS = (1, 5, 10, 16)
FIRST_HORIZONS = (1, 10, 50, 98)  # of segments whose context is the first frame, repeated
VIDEO_ROWS = 6
ADVERSARY = "adversary"  # prefix of its state
CHUNK = 16  # clips in a forward pass of the validation


@dataclass(frozen=True)
class TokenizerTrainingConfig:
    """How clips are sampled."""

    segment_length: int = 12
    """Frames from which the context, its first frames, and random later frames are taken; fewer at an episode's end."""
    future_frames: int = 6
    """Number of later frames."""
    first_share: float = 0.0
    """Share of segments whose context is the episode's first frame, repeated, as after a reset."""
    adversarial_weight: float = 0.0
    """Weight of the loss of a patch discriminator, beside an adaptive weight that makes its gradient as large as that
    of the reconstruction (VQGAN); 0 trains without one (paper, at 64 pixels). The published 256-pixel tokenizer had
    0.8."""
    disc_start: int = 0
    """Updates before the discriminator begins; frames should look right by then (published: 250000)."""
    random_context: bool = False
    """The context is any frames of the segment, in random order, as are the others: for models with goals (paper,
    appendix A.2)."""
    fixed_codes: bool = False
    """Codebooks stay as they are, so that a transformer still understands the codes: to adapt a trained tokenizer to
    new pictures (paper, section 4.4)."""

    def __post_init__(self) -> None:
        if not 1 <= self.future_frames < self.segment_length:
            raise ConfigError(
                f"future_frames: expected a number from 1 to segment_length - 1 = {self.segment_length - 1}, got "
                f"{self.future_frames}"
            )
        if not 0 <= self.first_share <= 1:
            raise ConfigError(f"first_share: expected a number in [0, 1], got {self.first_share}")
        check_numbers(self, from_zero=("adversarial_weight", "disc_start"))


class TokenizerTrainer:
    """Trains a tokenizer on clips of recordings; a :class:`worldgym.training.loop.Trainable`.

    Args:
        model: the tokenizer.
        config: how clips are sampled.
        batch_size: clips in an update.
        recordings: to train on.
        held_out: to validate on.
        perceptual: as for :func:`worldgym.training.losses.tokenizer_loss`.
        adversary: likewise.

    Raises:
        ConfigError: if frames have another size than the model's, or segments are too short for the future frames.
        DataError: if an episode has no step.
    """

    def __init__(
        self,
        model: Tokenizer,
        config: TokenizerTrainingConfig,
        batch_size: int,
        recordings: Recordings,
        held_out: Recordings,
        perceptual: torch.nn.Module | None = None,
        adversary: Adversary | None = None,
    ) -> None:
        for part in (recordings, held_out):
            check_recordings(part, model.resolution)
        if config.segment_length < model.layout.context_length + config.future_frames:
            raise ConfigError(
                f"segment_length: expected at least {model.layout.context_length} context frames and "
                f"{config.future_frames} future frames, got {config.segment_length}"
            )
        recordings.check_length(2)
        self.model: Tokenizer = model
        self.slow: torch.nn.Module | None = None
        self.config, self.batch_size, self.perceptual = config, batch_size, perceptual
        self.recordings, self.adversary = recordings, adversary
        length = min(config.segment_length, model.layout.context_length + VALIDATION_HORIZONS[-1])
        self._validation = validation_segments(held_out, length, VALIDATION_STARTS).batch.frames
        self._held_out = held_out

    def read(self, rng: np.random.Generator, part: Part = WHOLE) -> Tensor:
        """A part of a batch of clips, uint8 ``[B, C + T, H, W, 3]``."""
        chosen = [self._choose_clip(rng) for _ in range(self.batch_size)][part.of(self.batch_size)]
        clips = np.stack([self.recordings.episodes[episode].frames_at(frames) for episode, frames in chosen])
        return torch.from_numpy(clips)

    def loss(self, rng: np.random.Generator, part: Part = WHOLE, data: Tensor | None = None) -> tuple[Tensor, Metrics]:
        """The loss of a part of a batch of clips, and its terms."""
        clips = self.read(rng, part) if data is None else data
        if self.config.fixed_codes:  # in training mode they would replace unused codes
            for module in self.model.modules():
                if isinstance(module, (VectorQuantizer, LatentNorm)):
                    module.eval()
        return tokenizer_loss(self.model, clips, self.perceptual, self.adversary)

    def after_update(self) -> Metrics:
        self.model.update_codebooks()
        return {} if self.adversary is None else self.adversary.update()

    def after_training(self) -> None:
        pass

    def validate(self, video: Path) -> Metrics:
        """Compare held-out frames with their reconstructions.

        Args:
            video: where to write a video of real frames, reconstructions and differences, with the suffix ``.gif``.

        Returns:
            PSNR in dB of the pooled squared error of the context and by horizon, also of repeating the last context
            frame; ``psnr_first``, by horizon from a repeated first frame, if such segments are trained on; perplexity
            and number of used codes of both codebooks.
        """
        context, layout = self.model.layout.context_length, self.model.layout
        real = to_unit(self._validation.to(next(self.model.parameters()).device))
        outs = [self.model(chunk) for chunk in real.split(CHUNK)]
        future = torch.cat([out.future for out in outs]).float()
        errors = squared_error(future.clamp(0, 1), real[:, context:]).mean(dim=0)
        last_frame = squared_error(real[:, context - 1 : context], real[:, context:]).mean(dim=0)
        context_frames = torch.cat([out.context for out in outs]).float().clamp(0, 1)
        metrics = {"psnr/context": psnr(float(squared_error(context_frames, real[:, :context]).mean()))}
        for horizon in (horizon for horizon in VALIDATION_HORIZONS if horizon <= len(errors)):
            metrics[f"psnr/{horizon}"] = psnr(float(errors[horizon - 1]))
            metrics[f"psnr_last_frame/{horizon}"] = psnr(float(last_frame[horizon - 1]))
        for name, codes, size in (
            ("context", torch.cat([out.context_codes for out in outs]), layout.context_codes),
            ("dynamics", torch.cat([out.dynamics_codes for out in outs]), layout.dynamics_codes),
        ):
            metrics[f"perplexity/{name}"] = codes_perplexity(codes, size)
            metrics[f"codes_used/{name}"] = float(codes.unique().numel())
        _write_video(video, real[:, context:], future)
        return metrics | (self._validate_first_frames() if self.config.first_share else {})

    def _validate_first_frames(self) -> Metrics:
        """PSNR by horizon from a repeated first frame."""
        context, device = self.model.layout.context_length, next(self.model.parameters()).device
        longest = min(self.config.segment_length, *(episode.shape[0] for episode in self._held_out.episodes)) - 1
        horizons = [horizon for horizon in FIRST_HORIZONS if horizon <= longest]
        clips = [episode.frames_at([0] * context + horizons) for episode in self._held_out.episodes]
        errors = []
        for chunk in torch.from_numpy(np.stack(clips)).split(CHUNK):
            real = to_unit(chunk.to(device))
            errors.append(squared_error(self.model(real).future.float().clamp(0, 1), real[:, context:]))
        means = torch.cat(errors).mean(dim=0)
        return {f"psnr_first/{horizon}": psnr(float(mean)) for horizon, mean in zip(horizons, means, strict=True)}

    def _choose_clip(self, rng: np.random.Generator) -> tuple[int, NDArray[np.int64]]:
        """An episode, and its frames that are the context and later frames, ``[C + T]``."""
        config, context = self.config, self.model.layout.context_length
        count = context + config.future_frames
        episode = self.recordings.draw(rng)
        frames = self.recordings.episodes[episode].shape[0]
        start = int(rng.integers(max(1, frames - count + 1)))
        if config.random_context:
            span = np.arange(start, min(frames, start + config.segment_length))
            return episode, rng.choice(span, count, replace=len(span) < count)
        if rng.random() < config.first_share or frames <= context:
            start = 1 - context
        later = np.arange(start + context, min(frames, start + config.segment_length))
        chosen = np.sort(rng.choice(later, config.future_frames, replace=len(later) < config.future_frames))
        return episode, np.maximum([*range(start, start + context), *chosen], 0)

    def state_dict(self) -> dict[str, Tensor]:
        adversary = {} if self.adversary is None else add_prefix(ADVERSARY, self.adversary.state_dict())
        return state_for_resume(self.model) | adversary

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        adversary = select_prefix(ADVERSARY, state)
        load_state_for_resume(
            self.model, {name: state[name] for name in state.keys() - add_prefix(ADVERSARY, adversary)}
        )
        if self.adversary is not None:
            self.adversary.load_state_dict(adversary)


def sample_frames(rng: np.random.Generator, frames: Tensor, context: int, count: int) -> Tensor:
    """Sample frames of clips.

    Args:
        rng: source of randomness.
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


def _write_video(path: Path, real: Tensor, predicted: Tensor) -> None:
    """Some clips, float ``[B, T, 3, H, W]``, as rows of real frames, reconstructions and differences."""
    rows = np.linspace(0, len(real) - 1, min(VIDEO_ROWS, len(real))).astype(int)
    clips = (to_uint8(clip[rows]).cpu().numpy() for clip in (real, predicted))
    write_gif(path.with_suffix(".gif"), enlarge(below(*map(compared, *clips)), 2))

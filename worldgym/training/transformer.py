"""Training a transformer on the codes of a fixed tokenizer (paper, section 3.2 and appendix A.2)."""

from collections.abc import Iterator, Mapping, Sized
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from worldgym.config import Sampling, WorldModelConfig, check_numbers
from worldgym.data.goals import with_goal
from worldgym.data.recordings import Batch, Recordings, to_batch, to_unit, validation_segments
from worldgym.errors import ConfigError
from worldgym.metrics.pixels import squared_error
from worldgym.parallel import WHOLE, Part
from worldgym.reports.evaluation import evaluate
from worldgym.runs.log import Metrics
from worldgym.tokenizer.base import Tokenizer
from worldgym.training.augmentation import augment, check_augmentation
from worldgym.training.checks import check_recordings
from worldgym.training.code_kernels import CodeKernels
from worldgym.training.compiled import compiler_errors
from worldgym.training.encoded import EncodedBatch, encode_batch, stacked
from worldgym.training.heads import fit_heads
from worldgym.training.lora import plain_transformer
from worldgym.training.losses import code_cross_entropy, transformer_loss
from worldgym.transformer.transformer import Transformer
from worldgym.world_model import WorldModel

HEAD_SEED = 300  # of the batches to which the heads are fitted
HEAD_ROWS = 64  # segments that are imagined at once for it
HEAD_STEPS = 200  # of an episode that are imagined for it at most
MOST_ENCODED = 100_000  # segments whose codes are kept, about 2.5 kB each
WHOLE_SHARE = 0.5  # of the share of first frames in training: batches of whole episodes, from their first frames
ENDED_STEPS = 3  # behind the end of an episode, which are learned as terminated
SMALLEST_ERROR = 1e-6  # added to squared errors of frames before their logarithm
SAMPLING = Sampling(0.3)  # of these rollouts; the shipped environments sample so
VALIDATION_STARTS = (10,)  # first frames of the held-out segments
VALIDATION_HORIZONS = (1, 5, 10)


@dataclass(frozen=True)
class TransformerTrainingConfig:
    """How sequences are sampled, and their losses."""

    segment_length: int = 12
    """Context and future frames together, a goal included."""
    action_dim: int | None = None
    """Length of the actions: shorter ones are filled up with zeros, 0 leaves them out; None: as recorded."""
    goal_conditioned: bool = False
    """The first context frame is a goal, the last frame of the segment (paper, section 3.2)."""
    start_stride: int = 8
    """Segments start at multiples of this frame, so that their codes are computed once and kept."""
    first_share: float = 0.0
    """Share of segments whose context is the episode's first frame, repeated, as after a reset."""
    later_share: float = 0.0
    """Share of segments whose future frames begin later in the episode than right after the context, as in a position
    window that slid. If it is above 0, the world model's window slides; else the model starts anew when it is full."""
    label_width: float = 0.0
    """The target of a code is a Gaussian of this width over the codes around it, in code space; 0 is that code alone
    (paper)."""
    noise_width: float = 0.0
    """The codes of the input are sampled from such a Gaussian around the true codes, so that the model learns to
    continue from its own small errors; 0 uses the true codes (paper)."""
    random_crops: float = 0.0
    """Crop every segment at random: to at least 1 - random_crops of its area, with sides whose ratio is within
    random_crops / 2 of 1. Paper: 0.2; 0 leaves it out."""
    random_colours: float = 0.0
    """Change the colours of every segment at random: brightness, contrast and saturation by up to this share, the hue
    by up to half of it, of a turn. Paper: 0.1; 0 leaves it out. With crops or colours no codes are kept: the tokenizer
    encodes every batch anew."""
    dropout: float = 0.1
    """On attention weights (paper: 0.1)."""
    reward_weight: float = 1.0
    """Weight of the error of symlog rewards beside the cross-entropy of codes (paper: 1)."""
    reward_bins: int = 0
    """Number of bins over which rewards are predicted; 0 predicts one number (paper)."""
    event_weight: float = 0.1
    """Weight of the cross-entropy of success, and of that of termination, where they are predicted."""
    head_batches: int = 300
    """Batches of imagined segments to which the heads are fitted after the last update."""
    lora_rank: int = 0
    """Rank of the adapters (LoRA) that are trained in place of the weights of attention and feed-forward layers, such
    as 16, to fine-tune a large checkpoint in less memory; needs worldgym[lora] and --initial. Heads and action
    projection are trained fully, and the adapters are merged at the end; 0 trains all weights."""
    gradient_checkpointing: bool = False
    """Keep less for the gradient and compute it again: less memory, more time, the same result."""
    compile: bool = False
    """Compile the transformer by torch.compile: the first update takes minutes, later ones less; other rounding."""

    def __post_init__(self) -> None:
        if self.segment_length < 2 or self.start_stride < 1:
            raise ConfigError(
                f"expected a segment_length of at least 2 and a start_stride of at least 1, got {self.segment_length} "
                f"and {self.start_stride}"
            )
        from_zero = ["label_width", "noise_width", "reward_weight", "event_weight", "lora_rank"]
        if self.action_dim is not None:
            from_zero.append("action_dim")
        check_numbers(self, above_zero=("head_batches",), from_zero=from_zero)
        if not 0 <= self.dropout < 1 or not 0 <= self.first_share <= 1 or not 0 <= self.later_share <= 1:
            raise ConfigError(f"expected dropout in [0, 1) and first_share and later_share in [0, 1], got {self}")
        check_augmentation(self.random_crops, self.random_colours)


def check_segment_length(config: TransformerTrainingConfig, world_config: WorldModelConfig) -> None:
    """Check that segments have future frames, and fit the position window.

    Raises:
        ConfigError: otherwise.
    """
    context, window = world_config.context_length, world_config.transformer.max_positions
    longest = context + world_config.layout.horizon(window)
    if not context < config.segment_length <= longest:
        raise ConfigError(
            f"segment_length: expected {context + 1} to {longest} frames, which max_positions={window} allows, got "
            f"{config.segment_length}"
        )


class Place(NamedTuple):
    """Where a segment lies: an episode, the first frame of the context, frames left out after the context."""

    episode: int
    start: int
    gap: int


class Read(NamedTuple):
    """What was read of a batch."""

    places: list[Place]
    """Of all its segments."""
    segments: dict[Place, Batch]
    """Some of them."""


class TransformerTrainer:
    """Trains a transformer on the codes of recordings; a :class:`worldgym.training.loop.Trainable`.

    The loss is :func:`worldgym.training.losses.transformer_loss`.

    Args:
        model: the transformer.
        tokenizer: a trained one; it is not changed.
        world_config: configuration of the world model of both.
        config: how sequences are sampled.
        batch_size: segments in an update.
        recordings: to train on.
        held_out: to validate on.

    Raises:
        ConfigError: if the recordings have other actions or frame sizes than the model, or segments do not fit its
            context and position window.
        DataError: if an episode has no step.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        world_config: WorldModelConfig,
        config: TransformerTrainingConfig,
        batch_size: int,
        recordings: Recordings,
        held_out: Recordings,
    ) -> None:
        for part in (recordings, held_out):
            check_recordings(part, world_config.resolution, world_config.action_dim)
        check_segment_length(config, world_config)
        recordings.check_length(2)
        self.model, self.tokenizer, self.world_config = model, tokenizer.eval().requires_grad_(False), world_config
        self.config, self.batch_size = config, batch_size
        self.recordings = recordings
        self._goal = int(config.goal_conditioned)
        context = world_config.context_length
        self._context, self._length = context - self._goal, config.segment_length - self._goal  # without the goal
        validation = validation_segments(held_out, self._length, VALIDATION_STARTS)
        self._validation = validation._replace(batch=self._to_batch(validation.batch))
        self.model.dropout, self.model.checkpointing = config.dropout, config.gradient_checkpointing
        if config.compile:
            self.model.compile()
        # The head has one output and hundreds of correlated inputs: at the full learning rate it oscillates.
        self.slow = model.reward_linear
        self._encoded: dict[Place, EncodedBatch] = {}
        self._blocks: dict[Place, EncodedBatch] = {}
        self.kernels = CodeKernels(config.label_width, config.noise_width)

    def read(self, rng: np.random.Generator, part: Part = WHOLE) -> Read:
        """Where the segments of a batch lie, and those of a part of it that are not encoded yet."""
        places = [self._sample_place(rng) for _ in range(self.batch_size)]
        new = {place for place in places[part.of(self.batch_size)] if place not in self._encoded}
        return Read(places, {place: self._read(place) for place in new})

    def loss(self, rng: np.random.Generator, part: Part = WHOLE, data: Read | None = None) -> tuple[Tensor, Metrics]:
        """The loss of a part of a batch of segments, and its terms."""
        batch, tokens = self._sample(rng, part, data)
        targets = self.kernels.targets(self._codebook, batch.future)
        weights = self.config.reward_weight, self.config.event_weight
        with compiler_errors() if self.config.compile else nullcontext():
            return transformer_loss(self.model, batch, tokens, targets, self.world_config.reward_scale, *weights)

    def after_update(self) -> Metrics:
        return {}

    def after_training(self, stop: Sized = ()) -> bool:
        """Fit the heads to what the trained transformer imagines under recorded actions.

        Where an imagined frame has gone astray, they learn the mean of what was really earned there.
        """
        plain = plain_transformer(self.model, self.world_config).eval()
        world_model = WorldModel(self.world_config, self.tokenizer, plain)
        chunks = -(-self.config.head_batches * self.batch_size // HEAD_ROWS)
        batches: list[tuple[EncodedBatch, Tensor]] = []
        for index in tqdm(range(chunks), desc="imagining for the heads", unit="chunk", leave=False):
            if stop:
                return False
            batches += self._imagine(world_model, np.random.default_rng([HEAD_SEED, index]))
        fit_heads(plain, batches, self.world_config.reward_scale)
        for name, head in self.model.heads.items():
            head.load_state_dict(plain.heads[name].state_dict())
        return True

    def _imagine(self, model: WorldModel, rng: np.random.Generator) -> Iterator[tuple[EncodedBatch, Tensor]]:
        """Windows of imagined frames, as they are when a frame is predicted, with recorded rewards and events.

        Where the window slides, some go on from real frames in the middle of an episode, and some are whole episodes.
        """
        config, context, kept = self.config, model.config.context_length, model.config.kept_frames
        window = self.model.layout.horizon(model.config.transformer.max_positions)
        whole = kept > 0 and rng.random() < WHOLE_SHARE * config.first_share
        places = [self._sample_place(rng) for _ in range(HEAD_ROWS)]
        one = len(self.recordings.episodes[places[0].episode])  # the longest would mostly be imagined behind ends
        horizon = min(one + ENDED_STEPS, HEAD_STEPS) if whole else config.segment_length - context
        most = 0 if whole or not model.config.action_dim else min(kept, horizon - 1)
        shown = int(rng.integers(1, most + 1)) if most > 0 else 0
        if not shown:
            places = [place._replace(start=1 - self._context if whole else place.start, gap=0) for place in places]
        windows = [self.recordings.window(*place[:2], self._context, place.gap, horizon) for place in places]
        batch = self._to_batch(to_batch(windows))
        weights = torch.cat([self._weights(place, horizon) for place in places]).float()
        weights[:, :shown] = 0
        batch, ended = self._behind_ends(batch, places)
        encoded, tokens = self._rollout(model, batch, rng, shown)
        for first in range(0, max(1, horizon - window + 1), max(1, kept)):
            part = slice(first, first + window)
            new = torch.arange(weights[:, part].shape[1], device="cpu") >= (window - kept if first else 0)
            cut = encoded._replace(
                future=tokens[:, part],
                actions=encoded.actions[:, part],
                rewards=encoded.rewards[:, part],
                successes=_part(encoded.successes, part),
                terminations=_part(encoded.terminations, part),
                frame_errors=_part(encoded.frame_errors, part),
                weights=(weights[:, part] * new).to(tokens.device),
                ended=(ended[:, part] & new).to(tokens.device),
            )
            yield cut, self.model.layout.sequence(cut.context, cut.future)

    def _behind_ends(self, batch: Batch, places: list[Place]) -> tuple[Batch, Tensor]:
        """Go on acting behind the ends of episodes that terminated, by their own earlier actions.

        Returns:
            The batch, terminated at :data:`ENDED_STEPS` steps behind each of these ends; and which steps these are,
            bool ``[B, T]``.
        """
        context = self.world_config.context_length
        actions, terminations = batch.actions.clone(), batch.terminations
        ended = torch.zeros(len(places), actions.shape[1] - context + 1, dtype=torch.bool, device="cpu")
        for row, place in enumerate(places):
            episode = self.recordings.episodes[place.episode]
            steps = len(episode) - (place.start + self._context - 1) - place.gap  # from context and gap to the end
            if terminations is None or not episode.info.terminated or steps >= ended.shape[1]:
                continue
            ended[row, steps : steps + ENDED_STEPS] = True
            behind = torch.arange(ended.shape[1] - steps, device="cpu")
            actions[row, context - 1 + steps :] = batch.actions[row, context - 1 + behind % steps]
        if terminations is not None:
            terminations = terminations.clone()
            terminations[:, context - 1 :] |= ended
        return batch._replace(actions=actions, terminations=terminations), ended

    def _rollout(
        self, model: WorldModel, batch: Batch, rng: np.random.Generator, shown: int
    ) -> tuple[EncodedBatch, Tensor]:
        """The steps of a batch after its context, and their codes: of the shown frames, then those that it imagines."""
        context, generator = model.config.context_length, torch.Generator(model.device)
        generator.manual_seed(int(rng.integers(2**31)))
        actions, sampling = batch.actions[:, context - 1 :], (SAMPLING.temperature, SAMPLING.top_k, generator)
        if shown:
            state = model.start(batch.frames[:, : context + shown], actions[:, :shown])
            known = state.recent_codes[:, -shown:]
            imagined = model.imagine(state, actions[:, shown:], *sampling)
            tokens = torch.cat([known, imagined.tokens], dim=1)
        else:
            given, horizon = (actions, None) if model.config.action_dim else (None, actions.shape[1])
            imagined = model.rollout(batch.frames[:, :context], given, *sampling, horizon=horizon)
            tokens = imagined.tokens
        codes, _ = self.tokenizer.encode_context(to_unit(batch.frames[:, :context].to(model.device)))
        steps = (None if values is None else values[:, context - 1 :].to(model.device) for values in batch[1:])
        errors = F.pad(_squared_errors(imagined.frames, batch.frames[:, context + shown :]), (shown, 0))
        encoded = EncodedBatch(codes, tokens, *steps)  # type: ignore[arg-type]
        return encoded._replace(frame_errors=(errors + SMALLEST_ERROR).log()), tokens

    def validate(self, video: Path) -> Metrics:
        """Compare held-out segments with what the world model imagines under their actions, with greedy sampling.

        Args:
            video: where to write a video of real frames, imagined ones and differences, with the suffix ``.gif``.

        Returns:
            PSNR in dB and R² of the rewards by horizon, the PSNR of repeating the last context frame, and
            ``cross_entropy``, see :func:`worldgym.training.losses.code_cross_entropy`.
        """
        plain = plain_transformer(self.model, self.world_config)
        world_model = WorldModel(self.world_config, self.tokenizer, plain)
        horizon = self._validation.batch.frames.shape[1] - self.model.layout.context_length
        samplings = {"greedy": Sampling(top_k=1)}
        result = evaluate(world_model, self._validation, samplings, video.with_suffix(".gif"))["all"]
        metrics = {"cross_entropy": code_cross_entropy(self.model, self.tokenizer, self._validation.batch)}
        for step in (step for step in VALIDATION_HORIZONS if step <= horizon):
            for name in ("psnr", "reward_r2"):
                metrics[f"greedy/{name}/{step}"] = result["greedy"][name][step - 1]
            metrics[f"last_frame/psnr/{step}"] = result["last_frame"]["psnr"][step - 1]
        return metrics

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        pass

    @property
    def _codebook(self) -> Tensor:
        return self.tokenizer.codebooks()[1]

    def _sample(self, rng: np.random.Generator, part: Part, data: Read | None = None) -> tuple[EncodedBatch, Tensor]:
        """Part of a batch, and the transformer's input for it: its codes with noise, int64 ``[B, N]``."""
        places, segments = self.read(rng, part) if data is None else data
        own, augmented = places[part.of(self.batch_size)], self.config.random_crops or self.config.random_colours
        batch = self._encode_augmented(own, segments, rng, part) if augmented else self._encode(own, segments)
        if part.count > 1:  # the mean over the parts is that of the whole batch, whichever part has more weight
            weights = torch.cat([self._weights(place, batch.rewards.shape[1]) for place in places])
            batch = batch._replace(total=weights.sum().to(batch.rewards) / part.count)
        codes = self.kernels.add_noise(self._codebook, batch.future, rng, part)
        return batch, self.model.layout.sequence(batch.context, codes)

    def _sample_place(self, rng: np.random.Generator) -> Place:
        """Where a segment lies."""
        config, stride = self.config, self.config.start_stride
        episode = self.recordings.draw(rng)
        frames, context = self.recordings.episodes[episode].shape[0], self._context
        last = max(0, frames - self._length)  # rounded up below, so that the last frame is seen too
        start = min(stride * int(rng.integers(-(-last // stride) + 1)), max(0, frames - context - 1))
        if (config.first_share and rng.random() < config.first_share) or frames <= context:
            start = 1 - context
        gaps = max(0, -(-(last - start) // stride))
        later = gaps and config.later_share and rng.random() < config.later_share
        gap = stride * int(rng.integers(1, gaps + 1)) if later else 0
        return Place(episode, start, min(gap, frames - context - 1 - start))

    def _weights(self, place: Place, steps: int) -> Tensor:
        """Bool ``[1, T]``: which frames can be predicted. Not the first one after a gap, and none behind the end."""
        numbers = torch.arange(steps, device="cpu")
        first = place.start + self._context + place.gap
        inside = first + numbers < self.recordings.episodes[place.episode].shape[0]
        return (inside & ((numbers > 0) | (place.gap == 0)))[None]

    def _read(self, place: Place) -> Batch:
        """The segment at a place, as a batch."""
        future = self._length - self._context
        return self._to_batch(to_batch([self.recordings.window(*place[:2], self._context, place.gap, future)]))

    def _to_batch(self, batch: Batch) -> Batch:
        """Segments with a goal, if the model takes one."""
        return with_goal(batch) if self._goal else batch

    def _encode(self, keys: list[Place], segments: Mapping[Place, Batch] = MappingProxyType({})) -> EncodedBatch:
        """The codes of segments, some of which were read already.

        Those that were not used before are encoded one by one. In one batch this would be faster, but rounding would
        depend on the other segments of the batch: a resumed run, which has encoded none yet, could get another code.
        """
        chosen = []
        for key in keys:
            if key not in self._encoded:
                if len(self._encoded) >= MOST_ENCODED:
                    self._encoded.clear()
                encoded = self._encode_one(key, segments.get(key) or self._read(key))
                weights = self._weights(key, encoded.rewards.shape[1]).to(encoded.rewards)
                codes = {"context": encoded.context.int(), "future": encoded.future.int()}
                self._encoded[key] = encoded._replace(**codes, weights=weights).map(lambda tensor: tensor[0].cpu())
            chosen.append(self._encoded[key])
        device = next(self.model.parameters()).device
        batch = stacked(chosen).map(lambda tensor: tensor.to(device))
        return batch._replace(context=batch.context.long(), future=batch.future.long())

    def _encode_augmented(
        self, places: list[Place], segments: Mapping[Place, Batch], rng: np.random.Generator, part: Part
    ) -> EncodedBatch:
        """The codes of a part of a batch, whose segments are cropped and recoloured; they are not kept."""
        device, config = next(self.model.parameters()).device, self.config
        read = [segments.get(place) or self._read(place) for place in places]
        batch = Batch(*map(torch.cat, zip(*read, strict=True)))  # recordings know all of their steps
        frames = augment(batch.frames.to(device), config.random_crops, config.random_colours, rng, part)
        encoded = encode_batch(self.tokenizer, batch._replace(frames=frames))
        weights = torch.cat([self._weights(place, encoded.rewards.shape[1]) for place in places])
        return encoded._replace(weights=weights.to(encoded.rewards))

    def _encode_one(self, place: Place, batch: Batch) -> EncodedBatch:
        """The codes of the segment at a place."""
        if place.start >= 0 or self._goal:
            return encode_batch(self.tokenizer, batch)
        # Segments that have the first frame as their context share its later frames' codes, block by block.
        size = self._length - self._context
        frames = self.recordings.episodes[place.episode].shape[0] - place.start - self._context  # behind the context
        numbers = range(place.gap // size, -(-min(place.gap + size, frames) // size))
        blocks = [
            self._block(place._replace(gap=size * number), min(size, frames - size * number)) for number in numbers
        ]
        codes = torch.cat([block.future for block in blocks], dim=1)[:, place.gap % size :][:, :size]
        behind_end = codes[:, -1:].expand(-1, size - codes.shape[1], -1)  # they have no weight
        steps = (None if values is None else values[:, self._context - 1 :].to(codes.device) for values in batch[1:])
        return EncodedBatch(blocks[0].context, torch.cat([codes, behind_end], dim=1), *steps)  # type: ignore[arg-type]

    def _block(self, place: Place, count: int) -> EncodedBatch:
        """The codes of the context at a place and of the first frames there, computed once."""
        if place not in self._blocks:
            if len(self._blocks) >= MOST_ENCODED:
                self._blocks.clear()
            window = self.recordings.window(*place[:2], self._context, place.gap, count)
            self._blocks[place] = encode_batch(self.tokenizer, to_batch([window]))
        return self._blocks[place]


def _part(events: Tensor | None, part: slice) -> Tensor | None:
    return None if events is None else events[:, part]


def _squared_errors(imagined: Tensor, real: Tensor) -> Tensor:
    """Mean squared errors ``[B, T]`` of frames uint8 ``[B, T, H, W, 3]``, a step at a time to save memory."""
    steps = zip(imagined.unbind(1), real.to(imagined.device).unbind(1), strict=True)
    return torch.stack([squared_error(to_unit(made), to_unit(true)) for made, true in steps], dim=1)

"""A world model that is trained further on an agent's replay (paper, Algorithm 1 and Table 5).

Tokenizer and transformer take turns on a stream of segments. The world model is trained in place, so it imagines with
its newest weights. The tokenizer changes meanwhile, so segments are encoded again for every update of the transformer.
The random numbers of an update are a function of the seed and the number of updates before it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldgym.config import check_numbers
from worldgym.data.recordings import Batch, check_batch
from worldgym.errors import CheckpointError, ConfigError, DataError
from worldgym.isolation import torch_defaults
from worldgym.precision import Precision, autocast, check_precision
from worldgym.runs.log import Metrics
from worldgym.storage.tensors import Tensors, add_prefix, select_prefix
from worldgym.tokenizer.quantizer import load_state_for_resume, state_for_resume
from worldgym.training.code_kernels import CodeKernels
from worldgym.training.encoded import EncodedBatch, encode_batch
from worldgym.training.heads import fit_heads, initialise_heads
from worldgym.training.initial import initialise_from_codebooks
from worldgym.training.losses import tokenizer_loss, transformer_loss
from worldgym.training.seeding import seeded_rng
from worldgym.training.tokenizer import sample_frames
from worldgym.training.updater import Updater
from worldgym.world_model import WorldModel

TOKENIZER, TRANSFORMER = PARTS = ("tokenizer", "transformer")
Loss = Callable[[np.random.Generator], tuple[Tensor, Metrics]]


@dataclass(frozen=True)
class OnlineConfig:
    """How both parts are trained. The defaults are those of the paper."""

    learning_rate: float = 1e-4
    """Of Adam, after the warm-up."""
    warmup_updates: int = 0
    """Updates of each part over which the learning rate rises linearly."""
    clip_norm: float = 1.0
    """Gradients whose norm is larger are scaled down to it."""
    future_frames: int = 5
    """Frames of each segment that are sampled for an update of the tokenizer, beside the context frames."""
    label_width: float = 0.0
    """As in TransformerTrainingConfig; a model is best trained further with the widths it was trained with."""
    noise_width: float = 0.0
    """Likewise."""
    dropout: float = 0.1
    """Likewise."""
    reward_weight: float = 1.0
    """Likewise."""
    event_weight: float = 0.1
    """Likewise."""
    precision: Precision = "auto"
    """float32, bfloat16, or auto: bfloat16 where the hardware multiplies it. Narrow models are faster in float32."""

    def __post_init__(self) -> None:
        from_zero = "warmup_updates", "label_width", "noise_width", "reward_weight", "event_weight"
        check_numbers(self, above_zero=("learning_rate", "clip_norm", "future_frames"), from_zero=from_zero)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout: expected a number in [0, 1), got {self.dropout}")
        check_precision(self.precision)

    def warmup(self, updates: int) -> float:
        """The factor of the learning rate after so many updates."""
        return min(1.0, (updates + 1) / max(1, self.warmup_updates))


class OnlineTrainer:
    """Trains a world model in place. Between updates the model is in evaluation mode and can imagine.

    For a model with fresh weights, train the tokenizer first and then both in turn: the transformer is initialised from
    the tokenizer's codes at its first update.

    Args:
        world_model: trained in place.
        config: settings; those of the paper unless given.
        seed: of everything that updates sample.

    Raises:
        ConfigError: for a model that is action-free (see :func:`worldgym.training.initial.with_actions`),
            goal-conditioned, or not in float32.
    """

    @torch_defaults()
    def __init__(self, world_model: WorldModel, config: OnlineConfig | None = None, seed: int = 0) -> None:
        if not world_model.config.action_dim:
            raise ConfigError("expected a world model that takes actions, got an action-free one: use with_actions()")
        if world_model.config.goal_conditioned:
            raise ConfigError("expected a world model without a goal frame, got a goal-conditioned one")
        if world_model.dtype != torch.float32:
            raise ConfigError(f"expected weights in float32, got {world_model.dtype}: load the model as float32")
        self.world_model, self.config, self.seed = world_model, config or OnlineConfig(), seed
        self._modules = {TOKENIZER: world_model.tokenizer, TRANSFORMER: world_model.transformer}
        rate, clip_norm = self.config.learning_rate, self.config.clip_norm
        slow = {TOKENIZER: None, TRANSFORMER: world_model.transformer.reward_linear}
        self._updaters = {
            name: Updater(module, rate, self.config.warmup, clip_norm, slow=slow[name])
            for name, module in self._modules.items()
        }
        self._precision = autocast(self.config.precision, world_model.device)
        self._kernels = CodeKernels(self.config.label_width, self.config.noise_width)
        world_model.transformer.dropout = self.config.dropout

    @property
    def updates(self) -> dict[str, int]:
        """Number of updates of each part, ``"tokenizer"`` and ``"transformer"``."""
        return {name: updater.updates for name, updater in self._updaters.items()}

    @property
    def version(self) -> int:
        """Number of updates of both parts."""
        return sum(self.updates.values())

    @property
    def trained(self) -> bool:
        """Whether the transformer was trained, before it was given to this trainer or by it."""
        return self.world_model.trained

    @property
    def segment_lengths(self) -> range:
        """Numbers of frames of the segments that both parts can be trained on."""
        layout, window = self.world_model.layout, self.world_model.config.transformer.max_positions
        shortest = layout.context_length + self.config.future_frames
        return range(shortest, layout.context_length + layout.horizon(window) + 1)

    def check_segment_length(self, length: int) -> None:
        """Raise ConfigError for a setting ``segment_length`` outside :attr:`segment_lengths`."""
        lengths = self.segment_lengths
        if length not in lengths:
            raise ConfigError(
                f"segment_length: the trainer needs segments of {lengths.start} to {lengths.stop - 1} frames, "
                f"got {length}"
            )

    @torch_defaults()
    def fit_tokenizer(self, batch: Batch) -> Metrics:
        """One update of the tokenizer, codebooks included, on the context and some later frames of each segment.

        Args:
            batch: segments; see :attr:`segment_lengths`.

        Returns:
            ``loss``, its parts and ``gradient_norm``.

        Raises:
            DataError: for segments that do not fit the model.
            TrainingError: if the loss or its gradient is not finite; nothing is changed then.
        """
        self._check(batch, self.config.future_frames)
        tokenizer, context = self.world_model.tokenizer, self.world_model.layout.context_length

        def loss(rng: np.random.Generator) -> tuple[Tensor, Metrics]:
            return tokenizer_loss(tokenizer, sample_frames(rng, batch.frames, context, self.config.future_frames))

        metrics = self._update(TOKENIZER, loss)
        tokenizer.update_codebooks()
        return metrics

    @torch_defaults()
    def fit_transformer(self, batch: Batch) -> Metrics:
        """One update of the transformer on segments, encoded by the tokenizer as it is now.

        Args:
            batch: segments of the context and at least one frame.

        Returns:
            ``loss``, its parts and ``gradient_norm``.

        Raises:
            DataError: for segments that do not fit the model.
            TrainingError: if the loss or its gradient is not finite; nothing is changed then.
        """
        self._check(batch, 1)
        if not self.trained:
            self._initialise_transformer(batch)
        model, scale = self.world_model.transformer, self.world_model.config.reward_scale

        def loss(rng: np.random.Generator) -> tuple[Tensor, Metrics]:
            encoded, tokens = self._encode(batch, rng)
            targets = self._kernels.targets(self._codebook, encoded.future)
            weights = self.config.reward_weight, self.config.event_weight
            return transformer_loss(model, encoded, tokens, targets, scale, *weights)

        metrics = self._update(TRANSFORMER, loss)
        self.world_model.trained = True
        return metrics

    @torch_defaults()
    def refit_rewards(self, batches: Iterable[Batch]) -> None:
        """Fit the reward head to segments by ridge regression.

        Args:
            batches: segments, with several times as many future frames as the transformer is wide.

        Raises:
            DataError: for segments that do not fit the model.
        """
        rng = np.random.default_rng([self.seed, self.version])
        with self._precision:
            encoded = (self._encode(self._check(batch, 1), rng) for batch in batches)
            fit_heads(self.world_model.transformer, encoded, self.world_model.config.reward_scale)

    @torch_defaults()
    def state_dict(self) -> Tensors:
        """Weights, statistics of the codebooks, states of the optimizers and counters, as copies."""
        counters = [int(self.trained), *self.updates.values()]
        tensors = {"counters": torch.tensor(counters, dtype=torch.int64)}
        for name, module in self._modules.items():
            tensors |= add_prefix(f"{name}.weights", module.state_dict())
            tensors |= add_prefix(f"{name}.quantizers", state_for_resume(module))
            tensors |= add_prefix(f"{name}.optimizer", self._updaters[name].state_dict())
        return {name: value.detach().clone() for name, value in tensors.items()}

    @torch_defaults()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`state_dict`, for a trainer of the same model and settings.

        Args:
            state: the state.

        Raises:
            CheckpointError: if the tensors do not fit.
        """
        try:
            trained, *counts = (int(count) for count in state["counters"])
            for (name, module), count in zip(self._modules.items(), counts, strict=True):
                module.load_state_dict(select_prefix(f"{name}.weights", state))
                load_state_for_resume(module, select_prefix(f"{name}.quantizers", state))
                self._updaters[name].load_state_dict(select_prefix(f"{name}.optimizer", state), count)
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"expected the state of a trainer of this world model, got another: {error}"
            ) from error
        self.world_model.trained = bool(trained)

    def _initialise_transformer(self, batch: Batch) -> None:
        """Initialise a fresh transformer from the tokenizer's codes and a batch, before its first update."""
        with seeded_rng(self.seed, self.world_model.device):
            initialise_from_codebooks(self.world_model.transformer, self.world_model.tokenizer)
        scale = self.world_model.config.reward_scale
        initialise_heads(self.world_model.transformer, batch.rewards, scale, batch.successes, batch.terminations)

    def _update(self, name: str, loss: Loss) -> Metrics:
        module, updater = self._modules[name], self._updaters[name]
        rng = np.random.default_rng([self.seed, PARTS.index(name), updater.updates])
        with seeded_rng(self.seed * 1_000_003 + updater.updates, self.world_model.device):
            module.train()
            try:
                with self._precision:
                    value, metrics = loss(rng)
                norm = updater.update(value)
            finally:
                module.eval()
        return {"loss": value.item(), **metrics, "gradient_norm": norm}

    @property
    def _codebook(self) -> Tensor:
        return self.world_model.tokenizer.codebooks()[1]

    def _encode(self, batch: Batch, rng: np.random.Generator) -> tuple[EncodedBatch, Tensor]:
        """Encoded segments, and the transformer's input for them."""
        encoded = encode_batch(self.world_model.tokenizer, batch)
        codes = self._kernels.add_noise(self._codebook, encoded.future, rng)
        return encoded, self.world_model.layout.sequence(encoded.context, codes)

    def _check(self, batch: Batch, future_frames: int) -> Batch:
        """Raise DataError unless the model can be trained on ``batch``, with at least ``future_frames``."""
        check_batch(batch)
        config, layout = self.world_model.config, self.world_model.layout
        side, (size, length, *shape) = config.resolution, batch.frames.shape
        if not size or tuple(shape) != (side, side, 3):
            raise DataError(
                f"expected segments of frames [batch, length, {side}, {side}, 3], got {list(batch.frames.shape)}: "
                "record at the model's resolution"
            )
        shortest, longest = layout.context_length + future_frames, self.segment_lengths.stop - 1
        if not shortest <= length <= longest:
            raise DataError(f"expected segments of {shortest} to {longest} frames, got {length}")
        if batch.actions.shape[2] != config.action_dim:
            raise DataError(f"expected actions of length {config.action_dim}, got {batch.actions.shape[2]}")
        if not batch.actions.isfinite().all() or not batch.rewards.isfinite().all():
            raise DataError("expected finite actions and rewards, got others: remove the episode that holds them")
        return batch

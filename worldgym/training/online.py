"""A world model that is trained further on an agent's replay (paper, Algorithm 1 and Table 5).

Tokenizer and transformer take turns on a stream of segments, in place: what the world model imagines follows its newest
weights. The tokenizer changes meanwhile, so the codes of a segment are computed again for every update of the
transformer. What an update samples is a function of the seed and the number of updates before it.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldgym.data.recordings import Batch
from worldgym.errors import CheckpointError, ConfigError, DataError, TrainingError
from worldgym.isolation import torch_defaults
from worldgym.precision import Precision, autocast, check_precision
from worldgym.runs.log import Metrics
from worldgym.storage.optimizer import load_optimizer_state_dict, optimizer_state_dict
from worldgym.storage.tensors import add_prefix, select_prefix
from worldgym.tokenizer.quantizer import load_state_for_resume, state_for_resume
from worldgym.training.code_kernels import CodeKernels
from worldgym.training.codes import Coded, encode
from worldgym.training.initial import seeded, start_from_codebooks
from worldgym.training.loop import SLOW_FACTOR
from worldgym.training.losses import tokenizer_loss, transformer_loss
from worldgym.training.reward_head import solve_rewards, start_from_rewards
from worldgym.training.tokenizer import sample_frames
from worldgym.transformer.llama import Transformer
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
    precision: Precision = "auto"
    """float32, bfloat16, or auto: bfloat16 where the hardware multiplies it. Narrow models are faster in float32."""

    def __post_init__(self) -> None:
        if not self.learning_rate > 0 or not self.clip_norm > 0 or self.future_frames < 1:
            raise ConfigError(f"learning_rate, clip_norm and future_frames must be above 0, got {self}")
        if min(self.warmup_updates, self.label_width, self.noise_width, self.reward_weight) < 0:
            raise ConfigError(
                f"warmup_updates, label_width, noise_width and reward_weight must not be negative, got {self}"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must lie in [0, 1), got {self.dropout}")
        check_precision(self.precision)


class OnlineTrainer:
    """Trains a world model in place. Between updates the model is in evaluation mode and can imagine.

    For a model from scratch, train its tokenizer first, then both in turn: the transformer is initialised from the
    tokenizer's codes at its first update.

    Args:
        world_model: trained in place.
        config: settings; those of the paper unless given.
        seed: of everything that updates sample.

    Attributes:
        updates: number of updates of each part, ``"tokenizer"`` and ``"transformer"``.

    Raises:
        ConfigError: for a model that is action-free (see :func:`worldgym.training.initial.with_actions`),
            goal-conditioned, or not in float32.
    """

    @torch_defaults()
    def __init__(self, world_model: WorldModel, config: OnlineConfig | None = None, seed: int = 0) -> None:
        about = world_model.config
        if not about.action_dim:
            raise ConfigError("expected a world model that takes actions, got an action-free one: use with_actions()")
        if about.goal_conditioned:
            raise ConfigError("expected a world model without a goal frame, got a goal-conditioned one")
        if world_model.dtype != torch.float32:
            raise ConfigError(f"expected weights in float32, got {world_model.dtype}: load the model as float32")
        self.world_model, self.config, self.seed = world_model, config or OnlineConfig(), seed
        self.updates = dict.fromkeys(PARTS, 0)
        self._modules: dict[str, nn.Module] = {TOKENIZER: world_model.tokenizer, TRANSFORMER: world_model.transformer}
        self._optimizers = {name: _optimizer(module) for name, module in self._modules.items()}
        self._precision = autocast(self.config.precision, world_model.device)
        self._kernels = CodeKernels(self.config.label_width, self.config.noise_width)
        world_model.transformer.dropout = self.config.dropout

    @property
    def version(self) -> int:
        """Number of updates of both parts."""
        return sum(self.updates.values())

    @property
    def trained(self) -> bool:
        """Whether the transformer was trained before it was given to this trainer, or by it."""
        return self.world_model.trained or self.updates[TRANSFORMER] > 0

    @property
    def segment_lengths(self) -> range:
        """Numbers of frames of the segments that both parts can be trained on."""
        layout, window = self.world_model.layout, self.world_model.config.transformer.max_positions
        return range(
            layout.context_length + self.config.future_frames, layout.context_length + layout.horizon(window) + 1
        )

    def fit_tokenizer(self, batch: Batch) -> Metrics:
        """One update of the tokenizer, codebooks included, on the context and some later frames of each segment.

        Raises:
            DataError: for segments that do not fit the model.
            TrainingError: if loss or gradients are not finite; nothing is changed then.
        """
        self._check(batch, self.config.future_frames)
        tokenizer, context = self.world_model.tokenizer, self.world_model.layout.context_length

        def loss(rng: np.random.Generator) -> tuple[Tensor, Metrics]:
            return tokenizer_loss(tokenizer, sample_frames(rng, batch.frames, context, self.config.future_frames))

        metrics = self._update(TOKENIZER, loss)
        tokenizer.update_codebooks()
        return metrics

    def fit_transformer(self, batch: Batch) -> Metrics:
        """One update of the transformer on segments in the current tokenizer's codes; raises as `fit_tokenizer`."""
        self._check(batch, 1)
        if not self.trained:
            self._initialise_transformer(batch)
        model, transform = self.world_model.transformer, self.world_model.config.reward_transform

        def loss(rng: np.random.Generator) -> tuple[Tensor, Metrics]:
            coded, tokens = self._encode(batch, rng)
            targets = self._kernels.targets(self._codebook, coded.future)
            return transformer_loss(model, coded, tokens, targets, self.config.reward_weight, transform)

        return self._update(TRANSFORMER, loss)

    @torch_defaults()
    def refit_rewards(self, batches: Iterable[Batch]) -> None:
        """Set the reward head to the ridge regression on these segments.

        They should hold several times as many future frames as the transformer is wide.
        """
        rng = np.random.default_rng([self.seed, self.version])
        with self._precision:
            encoded = (self._encode(batch, rng) for batch in batches)
            solve_rewards(self.world_model.transformer, encoded, self.world_model.config.reward_transform)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, codebook statistics, optimizers and counters, as copies."""
        tensors = {"updates": torch.tensor([self.updates[name] for name in PARTS], dtype=torch.int64, device="cpu")}
        for name, module in self._modules.items():
            tensors |= add_prefix(f"{name}.weights", module.state_dict())
            tensors |= add_prefix(f"{name}.quantizers", state_for_resume(module))
            state = optimizer_state_dict(self._optimizers[name], dict(module.named_parameters()))
            tensors |= add_prefix(f"{name}.optimizer", state)
        return {name: value.detach().clone() for name, value in tensors.items()}

    @torch_defaults()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`state_dict`, for a trainer of the same model and settings.

        Raises:
            CheckpointError: if the tensors do not fit.
        """
        try:
            counts = dict(zip(PARTS, (int(count) for count in state["updates"]), strict=True))
            for name, module in self._modules.items():
                module.load_state_dict(select_prefix(f"{name}.weights", state))
                load_state_for_resume(module, select_prefix(f"{name}.quantizers", state))
                optimizer = select_prefix(f"{name}.optimizer", state)
                load_optimizer_state_dict(self._optimizers[name], dict(module.named_parameters()), optimizer)
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"expected the state of a trainer of this world model, got another: {error}"
            ) from error
        self.updates = counts

    @torch_defaults()
    def _initialise_transformer(self, batch: Batch) -> None:
        """Initialise a fresh transformer from the tokenizer's codes and the rewards, before its first update."""
        with seeded(self.seed, self.world_model.device):
            start_from_codebooks(self.world_model.transformer, self.world_model.tokenizer)
        start_from_rewards(self.world_model.transformer, batch.rewards, self.world_model.config.reward_transform)

    @torch_defaults()
    def _update(self, name: str, loss: Loss) -> Metrics:
        module, optimizer, count = self._modules[name], self._optimizers[name], self.updates[name]
        with seeded(self.seed * 1_000_003 + count, self.world_model.device):
            module.train()
            try:
                with self._precision:
                    value, metrics = loss(np.random.default_rng([self.seed, PARTS.index(name), count]))
                optimizer.zero_grad(set_to_none=True)
                value.backward()
            finally:
                module.eval()
        norm = nn.utils.clip_grad_norm_(module.parameters(), self.config.clip_norm)
        if not math.isfinite(value.item()) or not math.isfinite(norm.item()):
            raise TrainingError(
                f"Training diverged at update {count} of the {name}: loss {value.item()}, gradient norm {norm.item()}. "
                f"Restart from an earlier checkpoint, with a learning rate below {self.config.learning_rate}"
            )
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * self._rate(count)
        optimizer.step()
        self.updates[name] += 1
        return {"loss": value.item(), **metrics, "gradient_norm": norm.item()}

    def _rate(self, count: int) -> float:
        return self.config.learning_rate * min(1.0, (count + 1) / max(1, self.config.warmup_updates))

    @property
    def _codebook(self) -> Tensor:
        return self.world_model.tokenizer.codebooks()[1]

    def _encode(self, batch: Batch, rng: np.random.Generator) -> tuple[Coded, Tensor]:
        """Segments in codes, and the tokens that are fed for them."""
        coded = encode(self.world_model.tokenizer, batch)
        fed = self._kernels.with_noise(self._codebook, coded.future, rng)
        return coded, self.world_model.layout.sequence(coded.context, fed)

    def _check(self, batch: Batch, future_frames: int) -> None:
        """Raise DataError unless the model can be trained on ``batch``, with at least ``future_frames``."""
        about, layout = self.world_model.config, self.world_model.layout
        side, shape = about.resolution, tuple(batch.frames.shape)
        if len(shape) != 5 or not shape[0] or shape[2:] != (side, side, 3) or batch.frames.dtype != torch.uint8:
            raise DataError(
                f"expected segments of frames uint8 [batch, length, {side}, {side}, 3], got {batch.frames.dtype} "
                f"{list(shape)}: record at the model's resolution"
            )
        shortest, longest = layout.context_length + future_frames, self.segment_lengths[-1]
        if not shortest <= shape[1] <= longest:
            raise DataError(f"expected segments of {shortest} to {longest} frames, got {shape[1]}")
        steps = (shape[0], shape[1] - 1)
        actual, expected = (batch.actions.shape, batch.rewards.shape), ((*steps, about.action_dim), steps)
        if tuple(map(tuple, actual)) != expected:
            raise DataError(
                f"expected actions {list(expected[0])} and rewards {list(expected[1])}, got {list(actual[0])} and "
                f"{list(actual[1])}: one of each for every frame but the first"
            )
        if not batch.actions.isfinite().all() or not batch.rewards.isfinite().all():
            raise DataError("expected finite actions and rewards, got others: remove the episode that holds them")


def _optimizer(module: nn.Module) -> torch.optim.Optimizer:
    """Adam for all weights but codebooks, which are moving averages; the reward head learns slowly, as offline."""
    head = module.reward_linear if isinstance(module, Transformer) else None
    slow = [] if head is None else list(head.parameters())
    taken = {id(weight) for weight in slow}
    shared = [weight for weight in module.parameters() if weight.requires_grad and id(weight) not in taken]
    groups: list[dict[str, Any]] = [{"params": shared, "factor": 1.0}]
    if slow:
        groups.append({"params": slow, "factor": SLOW_FACTOR})
    return torch.optim.Adam(groups, betas=(0.9, 0.95))

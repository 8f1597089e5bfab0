"""A world model that goes on learning from an agent's replay (paper, Algorithm 1 and Table 5).

Tokenizer and transformer take turns on a stream of segments, in place: what the world model imagines follows its newest
weights. The tokenizer changes under way, so the codes of a segment are worked out anew for every update of the
transformer. What is drawn at random in an update is a function of the seed and the number of updates before it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldgym.config import WorldModelConfig
from worldgym.data.recordings import Batch
from worldgym.errors import CheckpointError, ConfigError, DataError, TrainingError
from worldgym.tokenizer import build_tokenizer
from worldgym.tokenizer.quantizer import load_state_for_resume, state_for_resume
from worldgym.precision import autocast, check_precision
from worldgym.runs.log import Metrics
from worldgym.training.loop import SLOW_FACTOR
from worldgym.training.tokenizer import drawn_frames, tokenizer_loss
from worldgym.training.transformer import (
    Coded,
    CodeKernels,
    encoded,
    solve_rewards,
    start_from_codebooks,
    start_from_rewards,
    transformer_loss,
)
from worldgym.transformer.llama import Transformer
from worldgym.world_model import WorldModel

TOKENIZER, TRANSFORMER = PARTS = ("tokenizer", "transformer")
Loss = Callable[[np.random.Generator], tuple[Tensor, Metrics]]


@dataclass(frozen=True)
class OnlineConfig:
    """How the parts learn; rates are those of the paper.

    Attributes:
        learning_rate: of Adam, behind a linear warm-up over ``warmup_updates``.
        warmup_updates: of each part by itself.
        clip_norm: gradients longer than this are shortened to it.
        future_frames: of each segment, drawn for an update of the tokenizer beside the context frames.
        label_width: as in :class:`TransformerTrainingConfig`; a model goes on best with the widths it was trained with.
        noise_width: likewise.
        dropout: likewise.
        reward_weight: likewise.
        precision: ``auto`` is bfloat16 where the processor multiplies it; narrow models are faster in ``float32``.
    """

    learning_rate: float = 1e-4
    warmup_updates: int = 20
    clip_norm: float = 1.0
    future_frames: int = 5
    label_width: float = 0.07
    noise_width: float = 0.05
    dropout: float = 0.0
    reward_weight: float = 0.03
    precision: str = "auto"

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
    """Keeps a world model learning, in place. Between updates it is as ready to imagine as any other.

    A model from scratch wants its tokenizer trained first, then both in turn: its transformer begins with the codes
    that there are when it is first trained.

    Attributes:
        updates: of each part so far.

    Raises:
        ConfigError: for a model that replay cannot teach: action-free, goal-conditioned, or not in float32.
    """

    def __init__(self, world_model: WorldModel, config: OnlineConfig = OnlineConfig(), seed: int = 0) -> None:
        about = world_model.config
        if not about.action_dim or about.goal_conditioned:
            raise ConfigError(
                f"a world model learns from replay if it takes actions and no goal frame, got "
                f"action_dim={about.action_dim} and goal_conditioned={about.goal_conditioned}"
            )
        if world_model.dtype != torch.float32:
            raise ConfigError(f"weights must be float32 to be trained, got {world_model.dtype}: load them as float32")
        self.world_model, self.config, self.seed = world_model, config, seed
        self.updates = dict.fromkeys(PARTS, 0)
        self._parts: dict[str, nn.Module] = {TOKENIZER: world_model.tokenizer, TRANSFORMER: world_model.transformer}
        self._optimizers = {name: _optimizer(part) for name, part in self._parts.items()}
        self._precision = autocast(config.precision, world_model.device)
        world_model.transformer.dropout = config.dropout

    @property
    def version(self) -> int:
        """All updates so far: how new the model is."""
        return sum(self.updates.values())

    @property
    def trained(self) -> bool:
        """Whether the transformer was trained before it was given to this trainer, or by it."""
        return self.world_model.trained or self.updates[TRANSFORMER] > 0

    @property
    def segment_lengths(self) -> range:
        """Frames of the segments that both parts can learn from: all future frames, within the transformer's window."""
        layout, window = self.world_model.layout, self.world_model.config.transformer.max_positions
        return range(
            layout.context_length + self.config.future_frames, layout.context_length + layout.horizon(window) + 1
        )

    def fit_tokenizer(self, batch: Batch) -> Metrics:
        """One update of the tokenizer, codebooks included, on the context and some later frames of each segment.

        Raises:
            DataError: for segments that the model cannot take.
            TrainingError: where loss or gradients are not finite.
        """
        self._check(batch, self.config.future_frames)
        tokenizer, context = self.world_model.tokenizer, self.world_model.layout.context_length

        def loss(rng: np.random.Generator) -> tuple[Tensor, Metrics]:
            return tokenizer_loss(tokenizer, drawn_frames(rng, batch.frames, context, self.config.future_frames))

        return self._update(TOKENIZER, loss)

    def fit_transformer(self, batch: Batch) -> Metrics:
        """One update of the transformer on segments in the codes of the tokenizer as it is now; raises likewise."""
        self._check(batch, 1)
        if not self.trained:
            self._start_transformer(batch)
        model, transform = self.world_model.transformer, self.world_model.config.reward_transform

        def loss(rng: np.random.Generator) -> tuple[Tensor, Metrics]:
            coded, tokens, kernels = self._fed(batch, rng)
            return transformer_loss(model, coded, tokens, kernels, self.config.reward_weight, transform)

        return self._update(TRANSFORMER, loss)

    def _start_transformer(self, batch: Batch) -> None:
        """Let a fresh transformer begin where tokenizer and rewards already point, before its first update."""
        with _drawing(self.seed, self.world_model.device):
            start_from_codebooks(self.world_model.transformer, self.world_model.tokenizer)
        start_from_rewards(self.world_model.transformer, batch.rewards, self.world_model.config.reward_transform)

    def refit_rewards(self, batches: Iterable[Batch]) -> None:
        """Solve for the reward head that fits the transformer best on these segments.

        They should hold several times as many future frames as the transformer is wide.
        """
        rng = np.random.default_rng([self.seed, self.version])
        with self._precision:
            draws = (self._fed(batch, rng)[:2] for batch in batches)
            solve_rewards(self.world_model.transformer, draws, self.world_model.config.reward_transform)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, codebook statistics, optimizers and counters: copies, from which :meth:`load_state_dict` continues."""
        tensors = {"updates": torch.tensor([self.updates[name] for name in PARTS])}
        for name, part in self._parts.items():
            tensors |= _prefixed(f"{name}.weights.", part.state_dict())
            tensors |= _prefixed(f"{name}.quantizers.", state_for_resume(part))
            for index, entries in self._optimizers[name].state_dict()["state"].items():
                tensors |= _prefixed(f"{name}.optimizer.{index}.", entries)
        return {name: value.detach().clone() for name, value in tensors.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`state_dict`, for a trainer of the same model and settings.

        Raises:
            CheckpointError: where the tensors are not those of such a trainer.
        """
        try:
            counts = dict(zip(PARTS, (int(count) for count in state["updates"]), strict=True))
            for name, part in self._parts.items():
                part.load_state_dict(_within(f"{name}.weights.", state))
                load_state_for_resume(part, _within(f"{name}.quantizers.", state))
                entries: dict[int, dict[str, Tensor]] = {}
                for key, value in _within(f"{name}.optimizer.", state).items():
                    index, _, entry = key.partition(".")
                    entries.setdefault(int(index), {})[entry] = value.clone()
                optimizer = self._optimizers[name]
                optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"this is not the state of a trainer of this world model: {error}") from error
        self.updates = counts

    def _update(self, name: str, loss: Loss) -> Metrics:
        part, optimizer, count = self._parts[name], self._optimizers[name], self.updates[name]
        with _drawing(self.seed * 1_000_003 + count, self.world_model.device):
            part.train()
            try:
                with self._precision:
                    value, metrics = loss(np.random.default_rng([self.seed, PARTS.index(name), count]))
                optimizer.zero_grad(set_to_none=True)
                value.backward()
            finally:
                part.eval()
        norm = nn.utils.clip_grad_norm_(part.parameters(), self.config.clip_norm)
        if not math.isfinite(value.item()) or not math.isfinite(norm.item()):
            raise TrainingError(
                f"update {count} of the {name}: the loss is {value.item()}, its gradient {norm.item()} long. "
                f"Go on from an earlier state with a lower learning rate than {self.config.learning_rate}"
            )
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * self._rate(count)
        optimizer.step()
        self.updates[name] += 1
        return {"loss": value.item(), **metrics, "gradient_norm": norm.item()}

    def _rate(self, count: int) -> float:
        return self.config.learning_rate * min(1.0, (count + 1) / max(1, self.config.warmup_updates))

    def _fed(self, batch: Batch, rng: np.random.Generator) -> tuple[Coded, Tensor, CodeKernels]:
        """Segments in codes, the tokens fed for them, and the kernels of the codebook as it is now."""
        tokenizer = self.world_model.tokenizer
        coded = encoded(tokenizer, batch)
        kernels = CodeKernels.of(tokenizer.codebooks()[1], self.config.label_width, self.config.noise_width)
        return coded, self.world_model.layout.sequence(coded.context, kernels.with_noise(coded.future, rng)), kernels

    def _check(self, batch: Batch, future_frames: int) -> None:
        """Raise :class:`DataError` unless the model can learn from ``batch``, with so many future frames at least."""
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
        given, wanted = (batch.actions.shape, batch.rewards.shape), ((*steps, about.action_dim), steps)
        if tuple(map(tuple, given)) != wanted:
            raise DataError(
                f"expected actions {list(wanted[0])} and rewards {list(wanted[1])}, got {list(given[0])} and "
                f"{list(given[1])}: one of each for every frame but the first"
            )
        if not batch.actions.isfinite().all() or not batch.rewards.isfinite().all():
            raise DataError("expected finite actions and rewards, got others: take the episode that holds them away")


def fresh_world_model(config: WorldModelConfig, seed: int = 0) -> WorldModel:
    """A world model on the CPU that has learned nothing; equal seeds give equal weights.

    The blocks of its transformer pass signals on at full size, whatever their width: from the published start (0.02 for
    a width of 768) narrow ones hardly see each other's outputs for their first hundreds of updates.
    """
    with _drawing(seed, torch.device("cpu")):
        tokenizer = build_tokenizer(config.tokenizer).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        transformer = Transformer(config.transformer, config.layout, config.action_dim, config.reward)
        for layer in transformer.llm.model.layers.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    model = WorldModel(config, tokenizer, transformer)
    model.trained = False
    return model


@contextmanager
def _drawing(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's own random numbers are those of ``seed`` within, and outside as if they had not been touched."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _optimizer(part: nn.Module) -> torch.optim.Optimizer:
    """Adam for all weights but codebooks, which move by themselves; the reward head learns slowly, as offline."""
    head = part.reward_linear if isinstance(part, Transformer) else None
    apart = [] if head is None else list(head.parameters())
    taken = {id(weight) for weight in apart}
    shared = [weight for weight in part.parameters() if weight.requires_grad and id(weight) not in taken]
    groups: list[dict[str, Any]] = [{"params": shared, "factor": 1.0}]
    if apart:
        groups.append({"params": apart, "factor": SLOW_FACTOR})
    return torch.optim.Adam(groups, betas=(0.9, 0.95))


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def _within(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

"""Training a transformer on the codes of a fixed tokenizer (paper, section 3.2 and appendix A.2)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldgym.config import Sampling, WorldModelConfig
from worldgym.data.recordings import Batch, Recordings, fixed_segments, to_batch, to_unit
from worldgym.errors import ConfigError
from worldgym.reports.evaluation import evaluate
from worldgym.symlog import symlog
from worldgym.tokenizer.base import Tokenizer
from worldgym.runs.log import Metrics
from worldgym.transformer.llama import INIT_STD, Transformer
from worldgym.world_model import WorldModel

REWARD_BATCHES = 300  # drawn to solve for the reward head
RIDGE = 1e-3


@dataclass(frozen=True)
class TransformerTrainingConfig:
    """How sequences are drawn.

    Attributes:
        segment_length: context and future frames together.
        start_stride: segments start at multiples of this frame, so that their codes are worked out once and kept.
        label_width: the target of a code is a Gaussian of this width over the codes around it, in code space; 0 is
            that code alone (paper). Codes that stand close look the same; which of them it is cannot be predicted, and
            need not be.
        noise_width: the codes fed to the model are drawn from such a Gaussian around the real ones, so that it learns
            to go on from its own small mistakes; 0 feeds the real ones.
        dropout: on attention weights (paper: 0.1).
        reward_weight: of the squared error of symlog rewards beside the cross-entropy (paper: 1).
    """

    segment_length: int = 12
    start_stride: int = 8
    label_width: float = 0.0
    noise_width: float = 0.0
    dropout: float = 0.1
    reward_weight: float = 1.0


class Coded(NamedTuple):
    """Segments in codes: context ``[B, C, n]``, future ``[B, T, m]``, actions ``[B, T, A]``, rewards ``[B, T]``.

    Codes are int64 where they are trained on, int16 and without the batch where they are kept.
    """

    context: Tensor
    future: Tensor
    actions: Tensor
    rewards: Tensor


class TransformerJob:
    """Cross-entropy on the future frames' codes and squared error on symlog rewards."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        about: WorldModelConfig,
        config: TransformerTrainingConfig,
        batch_size: int,
        recordings: Recordings,
        held_out: Recordings,
    ) -> None:
        if recordings.action_dim != about.action_dim or recordings.frame_shape[0] != about.resolution:
            raise ConfigError(
                f"the model takes {about.action_dim} actions at {about.resolution} pixels, {recordings.folder} holds "
                f"{recordings.action_dim} at {recordings.frame_shape[0]}"
            )
        recordings.check_length(config.segment_length)
        self.model, self.tokenizer, self.about = model, tokenizer.eval().requires_grad_(False), about
        self.config, self.batch_size = config, batch_size
        self.recordings, self.held_out = recordings, held_out
        self.model.dropout = config.dropout
        # One output over hundreds of inputs that all pull the same way: at the full rate it oscillates.
        self.slow = model.reward_linear
        self._coded: dict[tuple[int, int], Coded] = {}
        self.kernels = CodeKernels.of(tokenizer.codebooks()[1], config.label_width, config.noise_width)

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, Metrics]:
        batch, tokens = self._drawn(rng)
        return transformer_loss(
            self.model, batch, tokens, self.kernels, self.config.reward_weight, self.about.reward_transform
        )

    def after_update(self) -> None:
        pass

    def finish(self) -> None:
        draws = (self._drawn(np.random.default_rng([REWARD_BATCHES, index])) for index in range(REWARD_BATCHES))
        solve_rewards(self.model, draws, self.about.reward_transform)

    def validate(self, video: Path) -> Metrics:
        """Closed-loop figures on held-out segments, greedy; a video of real, imagined and difference."""
        world_model = WorldModel(self.about, self.tokenizer, self.model)
        horizon = self.config.segment_length - self.model.layout.context_length
        segments = fixed_segments(self.held_out, self.config.segment_length, starts=(10,))
        result = evaluate(world_model, segments, {"greedy": Sampling(top_k=1)}, video.with_suffix(".gif"))
        metrics: Metrics = {}
        for step in (h for h in (1, 5, 10) if h <= horizon):
            for name in ("psnr", "reward_r2"):
                metrics[f"greedy/{name}/{step}"] = result["all"]["greedy"][name][step - 1]
            metrics[f"last_frame/psnr/{step}"] = result["all"]["last_frame"]["psnr"][step - 1]
        return metrics

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        pass

    def _drawn(self, rng: np.random.Generator) -> tuple[Coded, Tensor]:
        """A batch, and the tokens fed for it: its codes with noise, int64 ``[B, N]``."""
        batch = self._coded_batch([self._draw(rng) for _ in range(self.batch_size)])
        return batch, self.model.layout.sequence(batch.context, self.kernels.with_noise(batch.future, rng))

    def _draw(self, rng: np.random.Generator) -> tuple[int, int]:
        episode = int(rng.integers(len(self.recordings.episodes)))
        room = self.recordings.episodes[episode].shape[0] - self.config.segment_length
        return episode, self.config.start_stride * int(rng.integers(room // self.config.start_stride + 1))

    def _coded_batch(self, keys: list[tuple[int, int]]) -> Coded:
        """The codes of the segments; those not met before are worked out one by one.

        In one batch they would come out faster, but rounded in a way that depends on which others were met before: a
        resumed run, which has met none, could get another code.
        """
        for key in keys:
            if key not in self._coded:
                segment = self.recordings.segment(*key, self.config.segment_length)
                coded = encoded(self.tokenizer, to_batch([segment]))
                kept = coded._replace(context=coded.context.short(), future=coded.future.short())
                self._coded[key] = Coded(*(tensor[0].cpu().clone() for tensor in kept))
        device = next(self.model.parameters()).device
        picked = [self._coded[key] for key in keys]
        context, future, actions, rewards = (torch.stack(tensors).to(device) for tensors in zip(*picked, strict=True))
        return Coded(context.long(), future.long(), actions, rewards)


@dataclass(frozen=True)
class CodeKernels:
    """How far dynamics codes are spread, as targets and as inputs: float32 ``[K, K]``, a row for each code."""

    targets: Tensor
    confusion: Tensor | None
    """Cumulative; None where the real codes are fed."""

    @classmethod
    def of(cls, codebook: Tensor, label_width: float, noise_width: float) -> "CodeKernels":
        """Kernels over the codes of ``[K, D]``, on its device; widths as in :class:`TransformerTrainingConfig`."""
        codebook = codebook.detach()
        confusion = code_kernel(codebook, noise_width).cumsum(1) if noise_width else None
        return cls(code_kernel(codebook, label_width), confusion)

    def with_noise(self, codes: Tensor, rng: np.random.Generator) -> Tensor:
        """Codes ``[B, T, n]``, each replaced by one drawn from the noise kernel around it."""
        if self.confusion is None:
            return codes
        uniforms = torch.from_numpy(rng.random((*codes.shape, 1), np.float32)).to(codes.device)
        drawn = torch.searchsorted(self.confusion[codes], uniforms).squeeze(-1)
        return drawn.clamp(max=len(self.confusion) - 1)


def transformer_loss(
    model: Transformer, batch: Coded, tokens: Tensor, kernels: CodeKernels, reward_weight: float, transform: str
) -> tuple[Tensor, Metrics]:
    """Cross-entropy on the future frames' codes, and squared error on transformed rewards where they are predicted.

    tokens: what is fed for ``batch``, int64 ``[B, N]``: its codes, with noise or without.
    """
    layout = model.layout
    out = model(tokens, batch.actions, logits_from=layout.prefix_length)
    predicted = layout.code_logits(out.logits).float().log_softmax(-1)
    targets = kernels.targets[batch.future]
    cross_entropy = -(targets * predicted).sum(-1).mean()
    surplus = cross_entropy + torch.special.xlogy(targets, targets).sum(-1).mean()
    metrics = {"cross_entropy": cross_entropy.item(), "divergence": surplus.item()}
    loss = cross_entropy
    if out.rewards is not None:
        reward = F.mse_loss(out.rewards.float(), reward_targets(batch.rewards, transform))
        loss = loss + reward_weight * reward
        metrics["reward_error"] = reward.item()
    return loss, metrics


@torch.no_grad()
def encoded(tokenizer: Tokenizer, batch: Batch) -> Coded:
    """Segments in codes, on the tokenizer's device; actions and rewards are those that lead to the future frames."""
    split, device = tokenizer.layout.context_length, next(tokenizer.parameters()).device
    frames = to_unit(batch.frames.to(device))
    context, features = tokenizer.encode_context(frames[:, :split])
    future = tokenizer.encode_future(frames[:, split:], features)
    actions, rewards = (values[:, split - 1 :].to(device) for values in (batch.actions, batch.rewards))
    return Coded(context, future, actions, rewards)


def reward_targets(rewards: Tensor, transform: str) -> Tensor:
    """What the reward head is to predict: the inverse is taken where the model is used."""
    return rewards if transform == "identity" else symlog(rewards)


@torch.no_grad()
def solve_rewards(model: Transformer, draws: Iterable[tuple[Coded, Tensor]], transform: str) -> None:
    """Solve for the reward head that fits the transformer best, by ridge regression on segments and their tokens."""
    if model.reward_linear is None:
        return
    model.eval()
    features, rewards = [], []
    for batch, tokens in draws:
        hidden = model(tokens, batch.actions, logits_from=tokens.shape[1]).hidden
        last = model.layout.last_positions(batch.future.shape[1]).to(hidden.device)
        features.append(hidden[:, last].flatten(0, 1).double())
        rewards.append(reward_targets(batch.rewards, transform).flatten().double())
    weight, bias = ridge(torch.cat(features), torch.cat(rewards))
    model.reward_linear.weight.copy_(weight[None])
    model.reward_linear.bias.copy_(bias[None])


@torch.no_grad()
def start_from_codebooks(model: Transformer, tokenizer: Tokenizer) -> None:
    """Let embeddings and output vectors of near codes start near each other.

    Each is a random projection of the code's vector and its squared length, so that from the first step on a logit can
    be the distance to a point in code space (``-|e - z|^2`` is linear in ``e`` and ``|e|^2``). Ids otherwise start
    unrelated, and every code has to be learned by itself.
    """
    layout = model.layout
    for codebook, first in zip(tokenizer.codebooks(), (0, layout.dynamics_ids.start), strict=True):
        features = torch.cat([codebook, codebook.square().sum(1, keepdim=True)], dim=1)
        features = (features - features.mean(0)) / features.std(0).clamp(min=1e-6)
        for weight in (model.llm.model.embed_tokens.weight, model.llm.lm_head.weight):
            projection = torch.randn(features.shape[1], weight.shape[1]) * INIT_STD / features.shape[1] ** 0.5
            weight[first : first + len(codebook)] = features.cpu() @ projection


@torch.no_grad()
def start_from_rewards(model: Transformer, rewards: Tensor, transform: str) -> None:
    """Let the reward head begin at the mean reward: on the way there its errors would drown those of the codes."""
    if model.reward_linear is not None:
        model.reward_linear.bias.fill_(float(reward_targets(rewards, transform).mean()))


def ridge(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weights ``[D]`` and bias of the line through features ``[N, D]`` and targets ``[N]``, slightly shrunk."""
    centre, mean = features.mean(0), targets.mean()
    centred = features - centre
    shrunk = centred.T @ centred + RIDGE * len(features) * torch.eye(features.shape[1]).to(features)
    weight = torch.linalg.solve(shrunk, centred.T @ (targets - mean))
    return weight, mean - centre @ weight


def code_kernel(codebook: Tensor, width: float) -> Tensor:
    """For each code of ``[K, D]`` a Gaussian of ``width`` over all codes, rows summing to 1: ``[K, K]``."""
    if width == 0:
        return torch.eye(len(codebook))
    distance = torch.cdist(codebook.float(), codebook.float())
    return torch.softmax(-0.5 * (distance / width).square(), dim=1)

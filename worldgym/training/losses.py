"""The losses of tokenizer and transformer (paper, sections 3.1 and 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldgym.data.recordings import to_unit
from worldgym.runs.log import Metrics
from worldgym.tokenizer.base import Tokenizer
from worldgym.training.encoded import EncodedBatch
from worldgym.training.reward_head import reward_targets
from worldgym.transformer.transformer import Transformer

SQUARED_WEIGHT = 10.0


def tokenizer_loss(model: Tokenizer, frames: Tensor, perceptual: nn.Module | None = None) -> tuple[Tensor, Metrics]:
    """Reconstruction and commitment losses with equal weights.

    The paper adds LPIPS to an L1 loss. LPIPS needs weights that do not ship with worldgym. Without them ``10 * squared
    error`` is used, which, like LPIPS, penalises a misplaced object more than a slight change of colour.

    Args:
        model: the tokenizer.
        frames: clips, uint8 ``[B, C + T, H, W, 3]``.
        perceptual: distance between images, such as :class:`worldgym.metrics.lpips.LPIPS`.

    Returns:
        The loss; and its parts as metrics.
    """
    context = model.layout.context_length
    real = to_unit(frames.to(next(model.parameters()).device))
    out = model(real)
    context_loss = _reconstruction(out.context, real[:, :context], perceptual)
    future_loss = _reconstruction(out.future, real[:, context:], perceptual)
    loss = context_loss + future_loss + out.commit_loss + out.dynamics_commit_loss
    return loss, {
        "reconstruction/context": context_loss.item(),
        "reconstruction/future": future_loss.item(),
        "commitment/context": out.commit_loss.item(),
        "commitment/dynamics": out.dynamics_commit_loss.item(),
    }


def transformer_loss(
    model: Transformer,
    batch: EncodedBatch,
    tokens: Tensor,
    targets: Tensor | None,
    reward_weight: float,
    transform: str,
) -> tuple[Tensor, Metrics]:
    """Cross-entropy on the future frames' codes, and squared error of transformed rewards where they are predicted.

    Args:
        model: the transformer.
        batch: encoded segments.
        tokens: the input, int64 ``[B, N]``: the codes of the segments, with noise or without.
        targets: target distributions, float32 ``[B, T, n, K]``; None if each target is the true code alone.
        reward_weight: weight of the squared error.
        transform: of the rewards, as in ``WorldModelConfig.reward_transform``.

    Returns:
        The loss; and as metrics ``cross_entropy``, ``divergence`` (the cross-entropy minus the entropy of the targets)
        and ``reward_error``.
    """
    layout = model.layout
    out = model(tokens, batch.actions, logits_from=layout.prefix_length)
    logits = layout.code_logits(out.logits).float()
    if targets is None:
        cross_entropy = F.cross_entropy(logits.flatten(0, 2), batch.future.flatten())
        divergence = cross_entropy
    else:
        cross_entropy = -(targets * logits.log_softmax(-1)).sum(-1).mean()
        divergence = cross_entropy + torch.special.xlogy(targets, targets).sum(-1).mean()
    metrics = {"cross_entropy": cross_entropy.item(), "divergence": divergence.item()}
    loss = cross_entropy
    if out.rewards is not None:
        reward = F.mse_loss(out.rewards.float(), reward_targets(batch.rewards, transform))
        loss = loss + reward_weight * reward
        metrics["reward_error"] = reward.item()
    return loss, metrics


def _reconstruction(predicted: Tensor, real: Tensor, perceptual: nn.Module | None) -> Tensor:
    predicted = predicted.float()
    detail: Tensor
    if perceptual is None:
        detail = SQUARED_WEIGHT * F.mse_loss(predicted, real)
    else:
        detail = perceptual(predicted.flatten(0, 1), real.flatten(0, 1)).mean()
    return F.l1_loss(predicted, real) + detail

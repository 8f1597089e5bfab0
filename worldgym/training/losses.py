"""The losses of tokenizer and transformer (paper, sections 3.1 and 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldgym.data.recordings import Batch, to_unit
from worldgym.reward_scale import RewardScale
from worldgym.runs.log import Metrics
from worldgym.tokenizer.base import Tokenizer
from worldgym.training.adversarial import Adversary
from worldgym.training.encoded import EncodedBatch, encode_batch
from worldgym.transformer.transformer import Transformer

SQUARED_WEIGHT = 10.0
CHUNK = 24  # segments in a forward pass of the held-out cross-entropy


def tokenizer_loss(
    model: Tokenizer, frames: Tensor, perceptual: nn.Module | None = None, adversary: Adversary | None = None
) -> tuple[Tensor, Metrics]:
    """Reconstruction and commitment losses with equal weights, and the adversarial loss.

    The paper adds LPIPS to an L1 loss. LPIPS needs weights that do not ship with worldgym. Without them ``10 * squared
    error`` is used, which, like LPIPS, penalises a misplaced object more than a slight change of colour.

    Args:
        model: the tokenizer.
        frames: clips, uint8 ``[B, C + T, H, W, 3]``.
        perceptual: distance between images, such as :class:`worldgym.metrics.lpips.LPIPS`.
        adversary: of the adversarial loss; None leaves it out (paper, at 64 pixels).

    Returns:
        The loss; and its parts as metrics.
    """
    context = model.layout.context_length
    real = to_unit(frames.to(next(model.parameters()).device))
    out = model(real)
    context_loss = _reconstruction(out.context, real[:, :context], perceptual)
    future_loss = _reconstruction(out.future, real[:, context:], perceptual)
    loss = context_loss + future_loss + out.commit_loss + out.dynamics_commit_loss
    metrics = {
        "reconstruction/context": context_loss.item(),
        "reconstruction/future": future_loss.item(),
        "commitment/context": out.commit_loss.item(),
        "commitment/dynamics": out.dynamics_commit_loss.item(),
    }
    adversarial = None if adversary is None else adversary.loss(model, real, out, future_loss)
    if adversarial is not None:
        loss, metrics = loss + adversarial[0], metrics | adversarial[1]
    return loss, metrics


def transformer_loss(
    model: Transformer,
    batch: EncodedBatch,
    tokens: Tensor,
    targets: Tensor | None,
    scale: RewardScale,
    reward_weight: float,
    event_weight: float = 0.0,
) -> tuple[Tensor, Metrics]:
    """Cross-entropy on the future frames' codes, and the errors of the heads that the model has.

    The heads' errors are those of rewards on their scale, and the cross-entropy of events: success and
    termination. Events that the batch does not know are left out.

    Args:
        model: the transformer.
        batch: encoded segments.
        tokens: the input, int64 ``[B, N]``: the codes of the segments, with noise or without.
        targets: target distributions, float32 ``[B, T, n, K]``; None if each target is the true code alone.
        scale: of the rewards.
        reward_weight: weight of the rewards' error.
        event_weight: weight of the cross-entropy of each event.

    Returns:
        The loss; and as metrics ``cross_entropy``, ``divergence`` (the cross-entropy minus the entropy of the targets),
        ``reward_error``, ``success_error`` and ``termination_error``.
    """
    layout = model.layout
    out = model(tokens, batch.actions, logits_from=layout.prefix_length)
    logits = layout.code_logits(out.logits).float()
    if targets is None:
        errors = F.cross_entropy(logits.flatten(0, 2), batch.future.flatten(), reduction="none")
        cross_entropy = batch.mean(errors.view(batch.future.shape).mean(-1))
        divergence = cross_entropy
    else:
        cross_entropy = batch.mean(-(targets * logits.log_softmax(-1)).sum(-1).mean(-1))
        divergence = cross_entropy + batch.mean(torch.special.xlogy(targets, targets).sum(-1).mean(-1))
    metrics = {"cross_entropy": cross_entropy.item(), "divergence": divergence.item()}
    loss = cross_entropy
    if out.rewards is not None:
        reward = batch.mean(scale.errors(out.rewards.float(), batch.rewards))
        loss = loss + reward_weight * reward
        metrics["reward_error"] = reward.item()
    for name, predicted, event in (
        ("success", out.values.success, batch.successes),
        ("termination", out.values.termination, batch.terminations),
    ):
        if predicted is not None and event is not None:
            errors = F.binary_cross_entropy_with_logits(predicted.float(), event.float(), reduction="none")
            error = batch.mean(errors)
            loss = loss + event_weight * error
            metrics[f"{name}_error"] = error.item()
    return loss, metrics


@torch.no_grad()
def code_cross_entropy(model: Transformer, tokenizer: Tokenizer, batch: Batch) -> float:
    """The cross-entropy of the true codes of future frames, each predicted from the true ones before it.

    Args:
        model: the transformer, in evaluation mode.
        tokenizer: its tokenizer.
        batch: segments.

    Returns:
        The mean over all codes in nats; its exponential is the perplexity.
    """
    total = 0.0
    for rows in torch.arange(len(batch.frames), device="cpu").split(CHUNK):
        part = Batch(*(None if values is None else values[rows] for values in batch))  # type: ignore[arg-type]
        encoded = encode_batch(tokenizer, part)
        tokens = model.layout.sequence(encoded.context, encoded.future)
        out = model(tokens, encoded.actions, logits_from=model.layout.prefix_length)
        logits = model.layout.code_logits(out.logits).float()
        total += len(rows) * F.cross_entropy(logits.flatten(0, 2), encoded.future.flatten()).item()
    return total / len(batch.frames)


def _reconstruction(predicted: Tensor, real: Tensor, perceptual: nn.Module | None) -> Tensor:
    predicted = predicted.float()
    detail: Tensor
    if perceptual is None:
        detail = SQUARED_WEIGHT * F.mse_loss(predicted, real)
    else:
        detail = perceptual(predicted.flatten(0, 1), real.flatten(0, 1)).mean()
    return F.l1_loss(predicted, real) + detail

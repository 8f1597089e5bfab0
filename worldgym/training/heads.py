"""The heads of a transformer: their targets, their initial values, and fitting them to a trained transformer."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from worldgym.config import HEADS
from worldgym.reward_scale import RewardScale
from worldgym.training.encoded import EncodedBatch
from worldgym.transformer.transformer import Transformer

RIDGE = 1e-3
FIT_ITERATIONS = 100  # of L-BFGS, for one logistic regression
USUAL_ERROR = 1e-3  # mean squared error of a frame, before it is known
LEAST_RATE = 1e-4  # of an event in the initial values, where it was never recorded


@torch.no_grad()
def initialise_heads(
    model: Transformer,
    rewards: Tensor,
    scale: RewardScale,
    successes: Tensor | None = None,
    terminations: Tensor | None = None,
) -> None:
    """Initialise the heads to predict means. Otherwise their first errors would dominate those of the codes.

    Args:
        model: heads that it does not have are left out.
        rewards: float32, any shape.
        scale: of the rewards.
        successes: bool, any shape; None leaves the success head as it is.
        terminations: bool, any shape; None leaves the termination head as it is.
    """
    heads = model.heads
    if "reward" in heads:
        mean = scale.targets(rewards.flatten()).mean(0)
        heads["reward"].bias.copy_(mean.clamp(min=LEAST_RATE).log() if scale.bins else mean)
    for name, events in (("success", successes), ("termination", terminations)):
        if name in heads and events is not None:
            rate = events.float().mean().clamp(LEAST_RATE, 1 - LEAST_RATE)
            heads[name].bias.fill_(float(rate.logit()))
    if "frame_error" in heads:
        heads["frame_error"].bias.fill_(math.log(USUAL_ERROR))


@torch.no_grad()
def fit_heads(model: Transformer, batches: Iterable[tuple[EncodedBatch, Tensor]], scale: RewardScale) -> None:
    """Fit the heads to the transformer's hidden states.

    Rewards and errors of frames are fitted by ridge regression, rewards with bins and events by logistic regression. To
    convergence that gives calibrated probabilities, however rare an event is.

    Args:
        model: without a head nothing happens.
        batches: encoded segments, each with its input, int64 ``[B, N]``. An event is fitted if all batches know it.
            Terminations also at steps behind the end, so that an imagined episode which misses it ends soon after.
        scale: of the rewards.
    """
    if not model.heads:
        return
    model.eval()
    features, counts, known = [], [], []
    for batch, tokens in batches:
        hidden = model.forward(tokens, batch.actions, logits_from=tokens.shape[1]).hidden  # never a compiled one
        last = model.layout.last_positions(batch.future.shape[1], hidden.device)
        counted = torch.ones_like(batch.rewards, dtype=torch.bool) if batch.weights is None else batch.weights > 0
        rows = counted if batch.ended is None else counted | batch.ended
        features.append(hidden[:, last][rows].double())
        counts.append(counted[rows])
        values = scale.targets(batch.rewards), batch.successes, batch.terminations, batch.frame_errors
        known.append(tuple(None if value is None else value[rows].double() for value in values))
    inputs, inside = torch.cat(features), torch.cat(counts)
    for name, parts in zip(HEADS, zip(*known, strict=True), strict=True):
        present = [part for part in parts if part is not None]
        if name not in model.heads or len(present) < len(parts):
            continue
        linear = name == "frame_error" or (name == "reward" and not scale.bins)
        head, fit = model.heads[name], ridge if linear else logistic
        chosen = torch.ones_like(inside) if name == "termination" else inside
        weight, bias = fit(inputs[chosen], torch.cat(present)[chosen])
        head.weight.copy_(weight.reshape(head.weight.shape))
        head.bias.copy_(bias.reshape(head.bias.shape))


def ridge(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge regression.

    Args:
        features: ``[N, D]``.
        targets: ``[N]``.

    Returns:
        Weights ``[D]`` and bias.
    """
    centre, mean = features.mean(0), targets.mean()
    centred = features - centre
    identity = torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
    shrunk = centred.T @ centred + RIDGE * len(features) * identity
    weight = torch.linalg.solve(shrunk, centred.T @ (targets - mean))
    return weight, mean - centre @ weight


def logistic(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logistic regression with a small penalty on the weights of standardised features.

    Args:
        features: float64 ``[N, D]``.
        targets: float64 ``[N]``, 0 or 1; or distributions over K classes, ``[N, K]``.

    Returns:
        Weights ``[D]`` and bias ``[]`` of the logit; ``[K, D]`` and ``[K]`` for K classes.
    """
    centre, spread = features.mean(0), features.std(0).clamp(min=1e-6)
    standard = (features - centre) / spread
    least = 0.5 / len(targets)  # the rate of an event that did not occur in so many steps
    rate = targets.mean(0).clamp(least, 1 - least)
    bias = rate.log() if targets.ndim > 1 else rate.logit()
    weight = features.new_zeros(*targets.shape[1:], features.shape[1])
    if (targets != targets[0]).any():
        parameters = [weight.requires_grad_(), bias.requires_grad_()]
        optimizer = torch.optim.LBFGS(parameters, max_iter=FIT_ITERATIONS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            logits = standard @ weight.movedim(-1, 0) + bias
            if targets.ndim > 1:
                error = -(targets * F.log_softmax(logits, dim=1)).sum(1).mean()
            else:
                error = F.binary_cross_entropy_with_logits(logits, targets)
            total = error + 0.5 * RIDGE * weight.square().sum()
            total.backward()
            return total

        with torch.enable_grad():
            optimizer.step(loss)
    scaled = weight.detach() / spread
    return scaled, bias.detach() - scaled @ centre

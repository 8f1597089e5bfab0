"""The reward head of a transformer: its targets, its initial values, and fitting it by ridge regression."""

from collections.abc import Iterable

import torch
from torch import Tensor

from worldgym.symlog import symlog
from worldgym.training.encoded import EncodedBatch
from worldgym.transformer.transformer import Transformer

RIDGE = 1e-3


def reward_targets(rewards: Tensor, transform: str) -> Tensor:
    """What the reward head is trained to predict; ``WorldModel`` applies the inverse transform."""
    return rewards if transform == "identity" else symlog(rewards)


@torch.no_grad()
def initialise_reward_head(model: Transformer, rewards: Tensor, transform: str) -> None:
    """Initialise the head to predict the mean reward. Otherwise its first errors would dominate those of the codes.

    Args:
        model: without a reward head nothing happens.
        rewards: float32, any shape.
        transform: of the rewards.
    """
    if model.reward_linear is not None:
        model.reward_linear.bias.fill_(float(reward_targets(rewards, transform).mean()))


@torch.no_grad()
def fit_reward_head(model: Transformer, batches: Iterable[tuple[EncodedBatch, Tensor]], transform: str) -> None:
    """Set the reward head to the ridge regression of rewards on the transformer's hidden states.

    Args:
        model: without a reward head nothing happens.
        batches: encoded segments, each with its input, int64 ``[B, N]``.
        transform: of the rewards.
    """
    if model.reward_linear is None:
        return
    model.eval()
    features, rewards = [], []
    for batch, tokens in batches:
        hidden = model(tokens, batch.actions, logits_from=tokens.shape[1]).hidden
        last = model.layout.last_positions(batch.future.shape[1], hidden.device)
        features.append(hidden[:, last].flatten(0, 1).double())
        rewards.append(reward_targets(batch.rewards, transform).flatten().double())
    weight, bias = ridge(torch.cat(features), torch.cat(rewards))
    model.reward_linear.weight.copy_(weight[None])
    model.reward_linear.bias.copy_(bias[None])


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

"""Weights of a checkpoint for a model with other frames, context or actions.

What may differ is listed in :data:`TOKENIZER_MAY_DIFFER` and :data:`TRANSFORMER_MAY_DIFFER`. Only the weights whose
shape depends on it are changed; all others are those of the checkpoint.
"""

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worldgym.config import TokenizerConfig, WorldModelConfig, to_dict
from worldgym.errors import ConfigError
from worldgym.storage.tensors import Tensors
from worldgym.tokenizer.base import Tokenizer
from worldgym.tokens import TokenLayout
from worldgym.transformer.transformer import Transformer

TOKENIZER_MAY_DIFFER = (
    "resolution",
    "context_length",
    "max_attention_resolution",
    "context_grid",
    "frame_grid",
    "grid",
)
TRANSFORMER_MAY_DIFFER = (
    "max_positions",
    "context_length",
    "tokens_per_context_frame",
    "tokens_per_frame",
    "action_dim",
)
QUERY_POSITIONS = re.compile(r".*\.q_pos_emb")
CONTEXT_POSITIONS = re.compile(r".*\.kv_pos_emb")
CONTEXT_CONVOLUTIONS = re.compile(r"(encoder_condition|decoder_conditions\.\d+)\.weight")
PLACES = "place_embedding.weight"
ACTIONS = "action_linear.weight"
HEADS = re.compile(r"(reward|success|termination|frame_error)_linear\..*")


def adapted_tokenizer(
    weights: Tensors, theirs: TokenizerConfig, model: Tokenizer, ours: TokenizerConfig
) -> tuple[Tensors, list[str]]:
    """The weights of a tokenizer for one with another resolution or context length.

    Position embeddings are interpolated to another resolution. With fewer context frames the newest ones are kept, as
    the reference implementation does; the compact tokenizer adds up what all of them contributed. With more context
    frames the oldest position embeddings are repeated; in the compact tokenizer the new frames contribute nothing yet.

    Args:
        weights: of the checkpoint's tokenizer.
        theirs: its configuration.
        model: the tokenizer that they are for.
        ours: its configuration.

    Returns:
        All weights of ``model``; and what was changed, in words.

    Raises:
        ConfigError: if the weights cannot be used; names what differs.
    """
    changed = _check_alike(to_dict(theirs), to_dict(ours), TOKENIZER_MAY_DIFFER, "tokenizer")
    frames = theirs.context_length, ours.context_length
    own = model.state_dict()
    found: Tensors = {}
    for name, value in weights.items():
        if name not in own or value.shape == own[name].shape:
            found[name] = value
        elif CONTEXT_POSITIONS.fullmatch(name):
            found[name] = _resized(_with_frames(value.unflatten(0, (frames[0], -1)), frames[1]), own[name]).flatten(
                0, 1
            )
        elif QUERY_POSITIONS.fullmatch(name):
            found[name] = _resized(value[None], own[name])[0]
        elif CONTEXT_CONVOLUTIONS.fullmatch(name):
            found[name] = _for_frames(value, *frames)
        else:
            found[name] = value
    _check_shapes(found, own, "tokenizer", changed)
    return found, changed


def adapted_transformer(
    weights: Tensors, theirs: WorldModelConfig, model: Transformer, ours: WorldModelConfig
) -> tuple[Tensors, list[str]]:
    """The weights of a transformer for one with another context length, other frames or other actions.

    The projection of new or other actions is zero, so that the model begins as the one of the checkpoint under actions
    of zeros (paper, section 4.1; the reference implementation). Heads that the checkpoint does not have, or has with
    another number of outputs, keep the weights that ``model`` has.

    Args:
        weights: of the checkpoint's transformer.
        theirs: configuration of its world model.
        model: the transformer that they are for.
        ours: configuration of its world model.

    Returns:
        All weights of ``model``; and what was changed, in words.

    Raises:
        ConfigError: if the weights cannot be used; names what differs.
    """
    changed = _check_alike(about_transformer(theirs), about_transformer(ours), TRANSFORMER_MAY_DIFFER, "transformer")
    if theirs.action_dim and not ours.action_dim:
        raise ConfigError(
            f"expected a checkpoint without actions for a transformer without, got one with action_dim="
            f"{theirs.action_dim}: train with actions, or start from an action-free checkpoint"
        )
    own = model.state_dict()
    found = {name: value for name, value in weights.items() if name in own}
    if PLACES in found and theirs.layout != ours.layout:
        found[PLACES] = _places(found[PLACES], theirs.layout, ours.layout)
    if ours.action_dim and (ACTIONS not in found or found[ACTIONS].shape != own[ACTIONS].shape):
        found[ACTIONS] = torch.zeros_like(own[ACTIONS])
        found.setdefault("action_linear.bias", torch.zeros_like(own["action_linear.bias"]))
        changed.append("new: action projection (zeros)")
    for name in own:
        if HEADS.fullmatch(name) and (name not in found or found[name].shape != own[name].shape):
            found[name] = own[name]
            changed += [f"new: {name.partition('_linear')[0]} head"] if name.endswith("weight") else []
    _check_shapes(found, own, "transformer", changed)
    return found, changed


def about_transformer(config: WorldModelConfig) -> dict[str, Any]:
    """What decides the shapes of a transformer's weights, apart from its heads."""
    return {**to_dict(config.transformer), **vars(config.layout), "action_dim": config.action_dim}


def _check_alike(theirs: dict[str, Any], ours: dict[str, Any], may_differ: tuple[str, ...], part: str) -> list[str]:
    """What differs and may, in words; ConfigError for anything else."""
    different = {name: (theirs.get(name), value) for name, value in ours.items() if theirs.get(name) != value}
    problems = [f"{name}: {old} there, {new} here" for name, (old, new) in different.items() if name not in may_differ]
    if problems:
        raise ConfigError(
            f"expected the same {part} as here, got another; {'; '.join(problems)}: use its recipe, or start from new "
            f"weights. Only {', '.join(may_differ)} may differ"
        )
    return [f"{name} {new} instead of {old}" for name, (old, new) in different.items()]


def _check_shapes(found: Tensors, own: Tensors, part: str, changed: list[str]) -> None:
    missing = [f"{name}: missing there" for name in own if name not in found]
    unknown = [f"{name}: not here" for name in found if name not in own]
    shapes = [
        f"{name}: {tuple(found[name].shape)} there, {tuple(value.shape)} here"
        for name, value in own.items()
        if name in found and found[name].shape != value.shape
    ]
    if problems := missing + unknown + shapes:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise ConfigError(
            f"expected weights that fit this {part}, got others ({'; '.join(changed) or 'equal settings'}): "
            f"{'; '.join(problems[:4])}{more}. Layers are fixed: change grids and max_attention_resolution in "
            "proportion to the resolution"
        )


def _with_frames(frames: Tensor, count: int) -> Tensor:
    """The newest ``count`` of frames ``[C, ...]``, or all of them after repetitions of the oldest."""
    missing = max(0, count - len(frames))
    return torch.cat([frames[:1].expand(missing, *frames.shape[1:]), frames])[-count:]


def _resized(positions: Tensor, target: Tensor) -> Tensor:
    """Embeddings of square maps ``[C, h * h, D]``, interpolated to the size of ``target``, ``[C * w * w, D]``."""
    side, size = (round(count**0.5) for count in (positions.shape[1], len(target) // len(positions)))
    if side == size:
        return positions
    maps = positions.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    larger = F.interpolate(maps.float(), size=(size, size), mode="bilinear", align_corners=False)
    return larger.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)


def _for_frames(weight: Tensor, old: int, new: int) -> Tensor:
    """A convolution over the channels of ``old`` context frames, ``[out, old * c, 1, 1]``, for ``new`` ones."""
    frames = weight.unflatten(1, (old, -1))
    if new >= old:
        zeros = torch.zeros_like(frames[:, :1]).expand(-1, new - old, -1, -1, -1)
        return torch.cat([zeros, frames], dim=1).flatten(1, 2)
    oldest = frames[:, : old - new + 1].sum(1, keepdim=True)
    return torch.cat([oldest, frames[:, old - new + 1 :]], dim=1).flatten(1, 2)


def _places(rows: Tensor, theirs: TokenLayout, ours: TokenLayout) -> Tensor:
    """Place embeddings for another number of context frames; the first one has no slot, the others do."""
    if (theirs.tokens_per_context_frame, theirs.tokens_per_frame) != (
        ours.tokens_per_context_frame,
        ours.tokens_per_frame,
    ):
        raise ConfigError(
            f"expected frames of {theirs.tokens_per_context_frame} and {theirs.tokens_per_frame} codes, for which the "
            f"checkpoint's place_embeddings are, got {ours.tokens_per_context_frame} and {ours.tokens_per_frame}: keep "
            "the resolution, or train a new transformer"
        )
    context, frame = rows.split([theirs.prefix_length, theirs.step_length])
    size = theirs.tokens_per_context_frame + 1
    slot = context[size - 1 : size] if theirs.context_length > 1 else torch.zeros_like(context[:1])
    frames = torch.cat([slot, context]).unflatten(0, (theirs.context_length, size))
    return torch.cat([_with_frames(frames, ours.context_length).flatten(0, 1)[1:], frame])

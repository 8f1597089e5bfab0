"""The file of a :class:`WorldModelState`: safetensors, with a fingerprint of the model it belongs to."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from worldgym.errors import CheckpointError
from worldgym.isolation import torch_defaults
from worldgym.storage.tensors import DIGEST, FORMAT, read_tensors, write_tensors
from worldgym.tokenizer.base import ContextFeatures
from worldgym.transformer.cache import KeyValueCache
from worldgym.world_model.state import PER_ROW, WorldModelState

if TYPE_CHECKING:
    from worldgym.world_model.model import WorldModel

STATE_FORMAT = "worldgym-state-2"
MODEL = "model"
SHOWN = "shown"
CUMULATIVE_ACTION = "travel"  # name of the entry in files of this format


@torch_defaults(grad=False)
def save_state(path: Path, state: WorldModelState) -> None:
    """Write a state atomically. Only filled positions are written; a shared past is copied into each row.

    Raises:
        StorageError: if the file cannot be written.
    """
    whole = state.select(range(len(state)))
    whole.cache.unshare()
    cache, used = whole.cache, max(whole.cache.lengths, default=0)
    tensors = {name: getattr(whole, name) for name in PER_ROW}
    tensors[CUMULATIVE_ACTION] = cache.cumulative_action
    tensors["lengths"] = torch.tensor(cache.lengths, dtype=torch.int64, device="cpu")
    tensors["capacity"] = torch.tensor(cache.capacity, dtype=torch.int64, device="cpu")
    tensors |= {f"features.{index}": tensor for index, tensor in enumerate(whole.features.tensors)}
    if whole.features.shown is not None:
        tensors[SHOWN] = whole.features.shown
    tensors |= {f"keys.{index}": tensor[:, :, :used] for index, tensor in enumerate(cache.keys)}
    tensors |= {f"values.{index}": tensor[:, :, :used] for index, tensor in enumerate(cache.values)}
    write_tensors(path, tensors, {FORMAT: STATE_FORMAT, MODEL: state.model.fingerprint()})


@torch_defaults(grad=False)
def load_state(path: Path, model: "WorldModel") -> WorldModelState:
    """Inverse of :func:`save_state`.

    Raises:
        CheckpointError: if the file is missing or damaged, or was saved by a model of other weights or dtype.
    """
    tensors, metadata = read_tensors(path, "a saved state", file_format=STATE_FORMAT, device=str(model.device))
    if DIGEST not in metadata:
        raise CheckpointError(f"{path}: expected a {DIGEST} in the metadata, got none: the file is damaged")
    if metadata.get(MODEL) != model.fingerprint():
        raise CheckpointError(f"{path} was saved by a model of other weights or precision; restore it with that one")
    cache = KeyValueCache(
        model.config.transformer,
        len(tensors["frames"]),
        int(tensors["capacity"]),
        device=model.device,
        dtype=model.dtype,
        action_dim=model.config.action_dim,
    )
    for index in range(model.config.transformer.layers):
        cache.fill(index, tensors[f"keys.{index}"], tensors[f"values.{index}"])
    cache.lengths, cache.cumulative_action = tensors["lengths"].tolist(), tensors[CUMULATIVE_ACTION]
    features = sum(name.startswith("features.") for name in tensors)
    return WorldModelState(
        **{name: tensors[name] for name in PER_ROW},
        features=ContextFeatures(
            tuple(tensors[f"features.{index}"] for index in range(features)), None, tensors.get(SHOWN)
        ),
        cache=cache,
        model=model,
    )

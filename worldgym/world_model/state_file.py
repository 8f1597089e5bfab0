"""The file of a :class:`WorldModelState`: one safetensors file that names the model it belongs to."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from worldgym.errors import CheckpointError
from worldgym.storage.files import atomic_write
from worldgym.pretrained import DIGEST, digest
from worldgym.tokenizer.base import ContextFeatures
from worldgym.transformer.cache import KeyValueCache

if TYPE_CHECKING:
    from worldgym.world_model import WorldModel, WorldModelState

FORMAT = "worldgym-state-1"


@torch.inference_mode()
def save_state(path: Path, state: "WorldModelState") -> None:
    """Write it, atomically. Of the cache only what is filled is written, of a shared past a copy for each row."""
    whole = state.select(range(len(state)))
    whole.cache.join()
    used = max(whole.cache.lengths, default=0)
    tensors = {"frames": whole.frames, "uncertainty": whole.uncertainty, "reanchored": whole.reanchored}
    tensors |= {"travel": whole.cache.travel, "lengths": torch.tensor(whole.cache.lengths)}
    tensors |= {"capacity": torch.tensor(whole.cache.capacity)}
    tensors |= {f"features.{index}": tensor for index, tensor in enumerate(whole.features.tensors)}
    tensors |= {f"keys.{index}": tensor[:, :, :used] for index, tensor in enumerate(whole.cache.keys)}
    tensors |= {f"values.{index}": tensor[:, :, :used] for index, tensor in enumerate(whole.cache.values)}
    stored = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    about = {"format": FORMAT, "model": state.model.fingerprint(), DIGEST: digest(stored)}
    with atomic_write(path) as aside:
        save_file(stored, aside, about)


@torch.inference_mode()
def load_state(path: Path, model: "WorldModel") -> "WorldModelState":
    """Inverse of :func:`save_state`; raises CheckpointError for anything but a state of this very model."""
    from worldgym.world_model import WorldModelState

    try:
        with safe_open(path, "pt", device=str(model.device)) as file:
            about = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a readable state: {error}") from error
    if about.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected a state of format {FORMAT!r}, got {about.get('format')!r}")
    if about.get(DIGEST) != digest(tensors):
        raise CheckpointError(f"{path} is damaged or was changed after it was saved (its {DIGEST} differs)")
    if about.get("model") != model.fingerprint():
        raise CheckpointError(f"{path} was saved by a model of other weights or precision; restore it with that one")
    config, features = model.config.transformer, [name for name in tensors if name.startswith("features.")]
    cache = KeyValueCache(
        config,
        len(tensors["frames"]),
        int(tensors["capacity"]),
        model.device,
        model.dtype,
        model.config.action_dim,
    )
    for index in range(config.layers):
        cache.fill(index, tensors[f"keys.{index}"], tensors[f"values.{index}"])
    cache.lengths, cache.travel = tensors["lengths"].tolist(), tensors["travel"]
    return WorldModelState(
        tensors["frames"],
        tensors["uncertainty"],
        tensors["reanchored"],
        ContextFeatures(tuple(tensors[f"features.{index}"] for index in range(len(features)))),
        cache,
        model,
    )

"""Reading and writing safetensors files. Every failure raises an error that names the file and what to do."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from worldgym.errors import CheckpointError, WorldGymError
from worldgym.storage.files import atomic_write

Tensors = dict[str, Tensor]
DIGEST = "sha256"
"""Entry of a file's metadata: SHA-256 of its tensors, see :func:`digest`."""
FORMAT = "format"
"""Entry of a file's metadata: which kind of file this is, with its version."""


class TensorFile(NamedTuple):
    """The content of a safetensors file."""

    tensors: Tensors
    metadata: dict[str, str]


@contextmanager
def open_tensors(
    path: str | os.PathLike[str],
    content: str,
    *,
    framework: str = "pt",
    device: str = "cpu",
    error: type[WorldGymError] = CheckpointError,
) -> Iterator[Any]:
    """Open a safetensors file for reading single tensors and slices.

    Args:
        path: the file.
        content: what the file should hold, such as ``"a saved agent"``, for error messages.
        framework: ``"pt"`` for torch tensors, ``"np"`` for NumPy arrays.
        device: where torch tensors are loaded to.
        error: the class of errors to raise.

    Yields:
        The open file, as ``safetensors.safe_open`` gives it.

    Raises:
        error: if the file is missing or damaged, or if the code inside asks for an entry that is not there.
    """
    try:
        with safe_open(path, framework, device=device) as file:
            yield file
    except WorldGymError:
        raise
    except FileNotFoundError as cause:
        raise error(f"{path} is missing: expected {content}") from cause
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as cause:
        raise error(f"{path} is damaged or not {content} ({cause}): restore it from a copy or make it again") from cause


def read_tensors(
    path: str | os.PathLike[str],
    content: str,
    *,
    file_format: str | None = None,
    device: str = "cpu",
    error: type[WorldGymError] = CheckpointError,
) -> TensorFile:
    """Read a whole safetensors file.

    The digest in the file's metadata is checked where there is one.

    Args:
        path: the file.
        content: what the file should hold, for error messages.
        file_format: the ``format`` that the metadata must name; None accepts any.
        device: where the tensors are loaded to.
        error: the class of errors to raise.

    Raises:
        error: if the file is missing, damaged, changed since it was saved, or of another format.
    """
    with open_tensors(path, content, device=device, error=error) as file:
        metadata = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if file_format is not None and metadata.get(FORMAT) != file_format:
        raise error(f"{path}: expected {content} of format {file_format!r}, got format {metadata.get(FORMAT)!r}")
    if DIGEST in metadata and metadata[DIGEST] != digest(tensors):
        raise error(
            f"{path} is damaged or was changed after it was saved (its {DIGEST} differs): restore it from a copy or "
            "make it again"
        )
    return TensorFile(tensors, metadata)


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> str:
    """Write a safetensors file atomically, with a digest of the tensors in its metadata.

    Returns:
        The digest.

    Raises:
        StorageError: if the file cannot be written; an earlier file of this name is kept.
    """
    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    found = digest(stored)
    with atomic_write(path) as temporary:
        save_file(stored, temporary, {**(metadata or {}), DIGEST: found})
    return found


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of tensors, in hexadecimal."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        total.update(value.flatten().view(torch.uint8).numpy().data)  # as bytes, because numpy has no bfloat16
    return total.hexdigest()


def misfits(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """A message for each expected tensor that is missing or has another shape; further tensors are no matter."""
    problems = [f"{name} is missing" for name in expected if name not in found]
    return problems + [
        f"{name} has shape {list(found[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]


def add_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """The same tensors under names that begin with ``prefix`` and a dot."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def select_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """Inverse of :func:`add_prefix`: the tensors under ``prefix``, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}

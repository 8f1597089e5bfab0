"""Mixed precision: the number format of training and imagination."""

from typing import Literal, TypeAlias, get_args

import torch

from worldgym.errors import ConfigError

Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]
"""``auto`` is bfloat16 where the hardware multiplies it, else float32."""
PRECISIONS: tuple[str, ...] = get_args(Precision)


def check_precision(precision: str) -> None:
    """Check the name of a precision.

    Args:
        precision: expected one of :data:`PRECISIONS`.

    Raises:
        ConfigError: for another name.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision: expected one of {', '.join(map(repr, PRECISIONS))}, got {precision!r}")


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """PyTorch's autocast for a precision.

    Args:
        precision: one of :data:`PRECISIONS`.
        device: of the computation.

    Returns:
        A context that enables autocast to bfloat16 if :func:`wants_bfloat16`, and disables autocast otherwise.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=wants_bfloat16(precision, device))


def wants_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether a precision is bfloat16 on a device.

    Args:
        precision: one of :data:`PRECISIONS`; ``"auto"`` depends on the hardware.
        device: of the computation.
    """
    if precision == "auto":
        return torch.cuda.is_bf16_supported() if device.type == "cuda" else cpu_has_bfloat16()
    return precision == "bfloat16"


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware (emulation is slower than float32)."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported()) if supported else False

"""Where to compute: a device by its name, checked before anything is loaded onto it."""

import torch

from worldgym.errors import ConfigError


def checked_device(name: str | torch.device | None = None) -> torch.device:
    """The device of this name, such as ``cpu`` or ``cuda:1``; None is the GPU where there is one, else the CPU.

    Raises:
        ConfigError: for a name that PyTorch does not know, or a device that cannot be used here.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name is None else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"device {str(name)!r} cannot be used here: {reason}; give 'cpu', or 'cuda' where PyTorch finds a GPU"
        ) from error
    return device

"""Results that do not depend on the caller's PyTorch settings or on a fork of the process."""

import functools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

AUTOCAST_DEVICES = ("cpu", "cuda")


@contextmanager
def torch_defaults(device: torch.device | str = "cpu", grad: bool = True) -> Iterator[None]:
    """Use PyTorch's own defaults inside the block and restore the caller's settings afterwards.

    Inside, the default dtype is float32, the default device is ``device``, autocast and inference mode are off, and
    grad mode is ``grad``. Tensors made inside are ordinary tensors. The switch of
    ``torch.use_deterministic_algorithms`` is left as it is. The settings are also restored after an exception.

    The default dtype is one setting for all threads: code that runs in several threads must name its dtypes.

    Args:
        device: Device of tensors that are made without one.
        grad: Whether operations are recorded for autograd.

    Yields:
        Nothing.
    """
    device = torch.device(device)
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.is_grad_enabled() != grad:
            stack.enter_context(torch.set_grad_enabled(grad))
        for kind in AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        default = torch.empty(0).device
        if default.type != device.type or device.index not in (None, default.index):
            stack.enter_context(device)
        yield


@functools.cache
def use_one_thread_in_forked_children() -> None:
    """From now on, PyTorch uses a single thread in processes that are forked from this one.

    The threads of OpenMP do not survive a fork: without this, a child waits for them forever at its first parallel
    operation. Further calls have no effect.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=functools.partial(torch.set_num_threads, 1))

"""Errors of torch.compile, which needs a compiler on the machine."""

from collections.abc import Iterator
from contextlib import contextmanager

from worldgym.errors import TrainingError


@contextmanager
def compiler_errors() -> Iterator[None]:
    """Raise a TrainingError with the reason if compiling fails inside the block."""
    from torch._dynamo.exc import TorchDynamoException  # slow to import, and needed with --job.compile alone

    try:
        yield
    except TorchDynamoException as error:
        reason = " ".join(str(error).partition("\n\n")[0].split()) or type(error).__name__  # advice follows
        raise TrainingError(
            f"compile: expected torch.compile to compile the transformer, got {reason}: install a C++ compiler (g++; "
            "Triton on GPUs), or train without --job.compile"
        ) from error

"""What the commands share: parsing by tyro, and types of options that check their values."""

import argparse
import inspect
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from worldgym.cli import INTERRUPTED

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands)


def parse_options(kind: type[T], arguments: Sequence[str], command: str, example: str, default: Any = None) -> T:
    """Parse a command's options.

    Args:
        kind: a dataclass; its docstring is the command's description, its fields are the options.
        arguments: without the command's name.
        command: the command's name, such as ``"train tokenizer"``.
        example: a command line that ``--help`` shows.
        default: an instance of ``kind`` that holds the defaults.

    Raises:
        SystemExit: with status 2 for options that are wrong, which are explained on stderr; with 0 after ``--help``.
    """
    description = f"{inspect.cleandoc(kind.__doc__ or '')}\n\nexample:\n  {example}"
    extra = {} if default is None else {"default": default}
    parsed: T = tyro.cli(
        kind, args=list(arguments), prog=f"worldgym {command}", description=description, config=CONFIG, **extra
    )
    return parsed


def read_option(arguments: Sequence[str], name: str) -> str | None:
    """The value of one option, looked up before the others are parsed because their defaults depend on it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(name, dest="value", nargs="?")
    value: str | None = parser.parse_known_args(list(arguments))[0].value
    return value


def _whole_number(text: str, least: int) -> int:
    if not text.isdecimal() or not least <= int(text) < 2**31:
        raise ValueError(f"expected a whole number from {least} to {2**31 - 1}, got {text!r}")
    return int(text)


def _positive_number(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(f"expected a number above 0, got {text!r}")
    return value


def _count_type(metavar: str, least: int) -> Any:
    return PrimitiveConstructorSpec[int | None](
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda texts: _whole_number(texts[0], least),
        is_instance=lambda value: value is None or isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


Natural = Annotated[int, _count_type("0,1,...", 0)]
"""A whole number from 0."""
Positive = Annotated[int, _count_type("1,2,...", 1)]
"""A whole number from 1."""
PositiveFloat = Annotated[
    float,
    PrimitiveConstructorSpec[float](
        nargs=1,
        metavar="NUMBER",
        instance_from_str=lambda texts: _positive_number(texts[0]),
        is_instance=lambda value: isinstance(value, float),
        str_from_instance=lambda value: [str(value)],
    ),
]
"""A number above 0."""
OptionalPositiveFloat = Annotated[
    float | None,
    PrimitiveConstructorSpec[float | None](
        nargs=1,
        metavar="NUMBER",
        instance_from_str=lambda texts: _positive_number(texts[0]),
        is_instance=lambda value: value is None or isinstance(value, float),
        str_from_instance=lambda value: [str(value)],
    ),
    tyro.conf.arg(metavar="NUMBER", help_behavior_hint=""),
]


def optional(metavar: str) -> Any:
    """An option that may be left out; its help says what happens then, so tyro need not add that it is None."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


OptionalText = Annotated[str | None, optional("NAME")]
OptionalPath = Annotated[Path | None, optional("PATH")]
OptionalPositive = Annotated[int | None, _count_type("1,2,...", 1), optional("1,2,...")]
OptionalNatural = Annotated[int | None, _count_type("0,1,...", 0), optional("0,1,...")]
Address = Annotated[str | None, optional("ADDRESS")]
"""Of a Ray cluster."""
Texts = Annotated[tuple[str, ...], optional("NAME ...")]


def prepare_device(device: str | None, threads: int | None = None) -> "torch.device":
    """The device to compute on, checked; also sets the number of CPU threads.

    Raises:
        ConfigError: for a device that cannot be used here.
    """
    import torch

    from worldgym.devices import checked_device

    if threads is not None:
        torch.set_num_threads(threads)
    return checked_device(device)


def report_stopped(step: int, steps: int) -> int:
    """Say how to continue a run that was stopped, on stderr; the exit status."""
    print(f"worldgym: stopped at {step} of {steps} steps; add --resume to continue", file=sys.stderr)
    return INTERRUPTED

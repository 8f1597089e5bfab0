"""The command ``worldgym``: one module a command.

This is the composition root: it alone may import every folder. A command's module is imported when the command runs, so
``worldgym --help`` answers at once. It has a function ``parse(arguments)``, which returns a dataclass of the command's
options with a method ``run()``.
"""

import importlib
import sys
from collections.abc import Sequence

from worldgym.errors import WorldGymError, nearest

COMMANDS = {
    "demo": "imagine recorded episodes and show real and imagined frames side by side (needs no simulator)",
    "twin": "learn any Gymnasium environment: record, train, evaluate",
    "collect": "record episodes of a simulator or of any Gymnasium environment",
    "convert": "convert recordings of other projects: LeRobot, RLDS, robomimic, Minari, npz, videos",
    "export-dataset": "write recordings as a LeRobot or Minari dataset",
    "train": "train a tokenizer or a transformer on recordings",
    "refine": "train a world on what policies that were trained in it do in the simulator",
    "export": "make a checkpoint from the runs of a tokenizer and a transformer",
    "starts": "record first frames of a simulator into a checkpoint, for its learned environments",
    "predict": "imagine how a recording goes on, and show it beside what was recorded",
    "evaluate": "measure a world model on held-out episodes",
    "returns": "compare returns of whole episodes in a learned environment and in its simulator",
    "mbpo": "train an agent in a simulator and in a world model that learns with it",
    "drqv2": "train an agent in a simulator alone: the baseline of mbpo",
    "plan": "act by planning in a learned world, or in the simulator itself, and compare with baselines",
    "curves": "plot success and return of runs against simulator steps",
    "play": "drive a learned environment in the browser, with its simulator beside it",
    "push": "upload a checkpoint to the Hugging Face Hub",
    "worlds": "list the simulators and the learned worlds that stand for them",
    "checkpoints": "list the checkpoints that ship with worldgym",
}
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: without the program's name; ``sys.argv[1:]`` unless given.

    Returns:
        The exit status: 0; 2 for an error, which is explained on stderr; 130 for an interrupted command, which can be
        resumed or repeated.
    """
    _print_any_character()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_help())
        return 0 if given else 2
    if given[0] not in COMMANDS:
        print(f"worldgym: unknown command {given[0]!r}; {nearest(given[0], COMMANDS)}", file=sys.stderr)
        return 2
    try:
        command = importlib.import_module(f"worldgym.cli.{given[0].replace('-', '_')}").parse(given[1:])
        status: int | None = command.run()
    except KeyboardInterrupt:
        print("worldgym: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (WorldGymError, OSError) as error:
        print(f"worldgym: {error}", file=sys.stderr)
        return 2
    return status or 0


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    return (
        "usage: worldgym COMMAND [OPTIONS]\n\nTrain agents inside learned video models.\n\n"
        f"commands:\n{lines}\n\nBegin with:            worldgym demo\n"
        "Options of a command:  worldgym demo --help"
    )


def _print_any_character() -> None:
    """Replace what a console cannot show, such as ``²`` where it is not UTF-8, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")

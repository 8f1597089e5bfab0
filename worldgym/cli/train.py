"""``worldgym train tokenizer`` and ``worldgym train transformer``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from worldgym.checkpoints import DEFAULT, shipped
from worldgym.cli import INTERRUPTED
from worldgym.cli.options import (
    OptionalPath,
    OptionalPositive,
    OptionalText,
    Positive,
    parse_options,
    prepare_device,
    read_option,
    report_stopped,
)
from worldgym.config import TokenizerConfig, TransformerConfig
from worldgym.data.mixture import open_recordings
from worldgym.errors import ConfigError, nearest
from worldgym.parallel import LAUNCH, is_main, joined
from worldgym.training.loop import TrainingConfig
from worldgym.training.recipe import RECIPE, Recipe, TokenizerRecipe, TransformerRecipe, load_recipe
from worldgym.training.tokenizer import TokenizerTrainingConfig
from worldgym.training.transformer import TransformerTrainingConfig

DATA = "--data data/train --held-out data/held-out"
EXAMPLES = {
    "tokenizer": f"worldgym train tokenizer {DATA} --out runs/tokenizer",
    "transformer": f"worldgym train transformer --tokenizer runs/tokenizer {DATA} --out runs/transformer",
}
HELP = f"""\
usage: worldgym train PART [OPTIONS]

Train one part of a world model on recordings.

parts:
  tokenizer    frames <-> codes
  transformer  predicts codes and rewards; needs a trained tokenizer

example:
  {EXAMPLES["tokenizer"]}

several processes, on GPUs or CPUs (pip install worldgym[accelerate]), each with its share of --batch-size:
  {LAUNCH} tokenizer ...

Options of a part:  worldgym train tokenizer --help"""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What both parts share."""

    data: tuple[Path, ...]
    """Folders of episodes to train on, or one mixture: a JSON file of folders, weights and steps."""
    held_out: Path
    """Folder of other episodes, to validate on, or a mixture."""
    out: Path
    """Folder of the run: checkpoints, metrics, videos."""
    resume: bool = False
    """Continue the run in --out, exactly; repeat the other options."""
    recipe: str = DEFAULT
    """Defaults of all settings: a shipped checkpoint's name, or a JSON file like its recipe.json."""
    initial: OptionalText = None
    """Checkpoint whose weights training starts from: a shipped name, a folder or a Hub id (default: new weights)."""
    threads: OptionalPositive = None
    """CPU threads (default: PyTorch's choice)."""
    device: OptionalText = None
    """Such as cpu or cuda:1 (default: the GPU if there is one; each of several processes takes its own)."""
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")]

    def report(self, step: int) -> int:
        """The exit status of a training that ended at this step."""
        if step >= self.training.steps:
            return 0
        return report_stopped(step, self.training.steps) if is_main() else INTERRUPTED


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer(TrainOptions):
    """Train a tokenizer on recorded frames. Defaults of the settings are those of the recipe."""

    lpips: OptionalPath = None
    """Safetensors weights of LPIPS, the paper's perceptual loss (keys: worldgym.metrics.lpips); without them the loss
    is L1 + 10 x squared error."""
    job: TokenizerTrainingConfig
    model: TokenizerConfig

    def run(self) -> int:
        from worldgym.metrics.lpips import LPIPS
        from worldgym.training.runs import train_tokenizer

        with joined(self.device) as device:
            step = train_tokenizer(
                TokenizerRecipe(self.model, self.job, self.training),
                open_recordings(*self.data),
                open_recordings(self.held_out),
                self.out,
                prepare_device(device, self.threads),
                None if self.lpips is None else LPIPS.from_file(self.lpips),
                self.resume,
                self.initial,
            )
            return self.report(step)


@dataclass(frozen=True, kw_only=True)
class TrainTransformer(TrainOptions):
    """Train a transformer and its reward head on a trained tokenizer's codes. Defaults are those of the recipe."""

    tokenizer: Path
    """Folder of a tokenizer's run; or a checkpoint, by its folder or shipped name."""
    accumulate: Positive = 1
    """Parts of --batch-size whose gradients are computed one after the other to save memory, with the same result but
    for dropout. Tokenizers cannot do so: their codebooks need the whole batch at once."""
    heads_only: bool = False
    """Fit the heads (reward, success, termination, error of frames) of --initial to what it imagines on --data, and
    leave the transformer as it is: minutes in place of hours, for new rewards or a head that a checkpoint lacks."""
    job: TransformerTrainingConfig
    model: TransformerConfig

    def run(self) -> int:
        from worldgym.envs.registry import find_spec
        from worldgym.training.runs import train_transformer

        recordings = open_recordings(*self.data)
        spec = None if recordings.mixture else find_spec(recordings.episodes[0].info.environment)
        with joined(self.device) as device:
            step = train_transformer(
                TransformerRecipe(self.model, self.job, self.training),
                self.tokenizer,
                recordings,
                open_recordings(self.held_out),
                self.out,
                prepare_device(device, self.threads),
                () if spec is None else spec.action_names,
                self.resume,
                self.initial,
                self.accumulate,
                self.heads_only,
            )
            return self.report(step)


def parse(arguments: Sequence[str]) -> TrainTokenizer | TrainTransformer:
    """Parse the options of ``train tokenizer`` or ``train transformer``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        sys.exit(0 if arguments else 2)
    part, rest = arguments[0], arguments[1:]
    if part not in EXAMPLES:
        raise ConfigError(f"train: unknown part {part!r}; {nearest(part, EXAMPLES)}")
    recipe = _recipe(read_option(rest, "--recipe") or DEFAULT)
    required = {"data": tyro.MISSING, "held_out": tyro.MISSING, "out": tyro.MISSING}
    if part == "tokenizer":
        own = recipe.tokenizer
        tokenizer = TrainTokenizer(**required, model=own.model, job=own.job, training=own.training)
        return parse_options(TrainTokenizer, rest, "train tokenizer", EXAMPLES[part], tokenizer)
    own_transformer = recipe.transformer
    transformer = TrainTransformer(
        **required,
        tokenizer=tyro.MISSING,
        model=own_transformer.model,
        job=own_transformer.job,
        training=own_transformer.training,
    )
    return parse_options(TrainTransformer, rest, "train transformer", EXAMPLES[part], transformer)


def _recipe(name: str) -> Recipe:
    """The recipe of a shipped checkpoint, or of a JSON file."""
    folder = shipped().get(name)
    return load_recipe(Path(name) if folder is None else folder / RECIPE)

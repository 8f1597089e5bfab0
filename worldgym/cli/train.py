"""``worldgym train``: both parts of a world model by a recipe; or one part, ``tokenizer`` or ``transformer``."""

import dataclasses
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from worldgym.checkpoints import DEFAULT
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
from worldgym.parallel import LAUNCH, barrier, is_main, joined
from worldgym.runs.folder import CONFIG, check_run_folder
from worldgym.training.loop import TrainingConfig
from worldgym.training.recipe import TokenizerRecipe, TransformerRecipe, find_recipe, recipe_names
from worldgym.training.tokenizer import TokenizerTrainingConfig
from worldgym.training.transformer import TransformerTrainingConfig

DATA = "--data data/train --held-out data/held-out"
EXAMPLES = {
    "tokenizer": f"worldgym train tokenizer {DATA} --out runs/tokenizer",
    "transformer": f"worldgym train transformer --tokenizer runs/tokenizer {DATA} --out runs/transformer",
}
BOTH = "worldgym train --recipe bair-64-act-cond --data bair.json --held-out data/bair-test --out runs/bair"
HELP = f"""\
usage: worldgym train --recipe NAME [OPTIONS]
       worldgym train PART [OPTIONS]

Train a world model on recordings by a recipe: first its tokenizer, then its transformer. Or one part by itself.

parts:
  tokenizer    frames <-> codes
  transformer  predicts codes and rewards; needs a trained tokenizer

example:
  {BOTH}
  {EXAMPLES["tokenizer"]}

several processes, on GPUs or CPUs (pip install worldgym[accelerate]), each with its share of --batch-size:
  {LAUNCH} tokenizer ...

Options of a recipe or a part:  worldgym train --recipe NAME --help    worldgym train tokenizer --help
What the recipes are:           worldgym train --recipe"""


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
    """Defaults of all settings: a name that `worldgym train --recipe` lists, or a JSON file of that kind."""
    initial: OptionalText = None
    """Checkpoint whose weights training starts from: a shipped name, a folder or a Hub id (default: the recipe's, or
    new weights). Its context length, resolution and actions may differ."""
    new_weights: bool = False
    """Start from new weights even if the recipe names a checkpoint."""
    threads: OptionalPositive = None
    """CPU threads (default: PyTorch's choice)."""
    device: OptionalText = None
    """Such as cpu or cuda:1 (default: the GPU if there is one; each of several processes takes its own)."""
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")]

    @property
    def start(self) -> str | None:
        """The checkpoint whose weights training starts from."""
        return None if self.new_weights else self.initial

    def train(self, device: str | None) -> int:
        """Train on a device; the exit status."""
        raise NotImplementedError

    def run(self) -> int:
        with joined(self.device) as device:
            return self.train(device)

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

    def train(self, device: str | None) -> int:
        from worldgym.metrics.lpips import LPIPS
        from worldgym.training.runs import train_tokenizer

        step = train_tokenizer(
            TokenizerRecipe(self.model, self.job, self.training),
            open_recordings(*self.data),
            open_recordings(self.held_out),
            self.out,
            prepare_device(device, self.threads),
            None if self.lpips is None else LPIPS.from_file(self.lpips),
            self.resume,
            self.start,
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

    def train(self, device: str | None) -> int:
        from worldgym.envs.registry import find_spec
        from worldgym.training.runs import train_transformer

        recordings = open_recordings(*self.data)
        spec = None if recordings.mixture else find_spec(recordings.episodes[0].info.environment)
        step = train_transformer(
            TransformerRecipe(self.model, self.job, self.training),
            self.tokenizer,
            recordings,
            open_recordings(self.held_out),
            self.out,
            prepare_device(device, self.threads),
            () if spec is None else spec.action_names,
            self.resume,
            self.start,
            self.accumulate,
            self.heads_only,
        )
        return self.report(step)


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Train both parts of a world model by a recipe, its tokenizer in OUT/tokenizer and its transformer in
    OUT/transformer. For other settings change a copy of the recipe's file, or train the parts one by one."""

    recipe: str
    """A name that `worldgym train --recipe` lists, or a JSON file of that kind."""
    data: tuple[Path, ...]
    """Folders of episodes to train on, or one mixture: a JSON file of folders, weights and steps."""
    held_out: Path
    """Folder of other episodes, to validate on, or a mixture."""
    out: Path
    """Folder of both runs."""
    resume: bool = False
    """Continue in --out, exactly; repeat the other options."""
    initial: OptionalText = None
    """Checkpoint whose weights both parts start from (default: the recipe's). Its context length, resolution and
    actions may differ."""
    new_weights: bool = False
    """Start both parts from new weights, whatever the recipe names."""
    steps: OptionalPositive = None
    """Updates of each part (default: the recipe's)."""
    batch_size: OptionalPositive = None
    """Segments in an update of each part (default: the recipe's)."""
    accumulate: Positive = 1
    """Parts of a batch of the transformer; see `worldgym train transformer --help`."""
    lpips: OptionalPath = None
    """Safetensors weights of LPIPS, as for `worldgym train tokenizer`."""
    threads: OptionalPositive = None
    """CPU threads (default: PyTorch's choice)."""
    device: OptionalText = None
    """Such as cpu or cuda:1 (default: the GPU if there is one; each of several processes takes its own)."""

    def run(self) -> int:
        from worldgym.training.runs import check_recipe

        recipe = find_recipe(self.recipe)
        tokenizer, transformer = self._tokenizer(recipe.tokenizer), self._transformer(recipe.transformer)
        for part in (tokenizer, transformer):
            check_run_folder(part.out, part.resume)
        if self.initial is not None and self.new_weights:
            raise ConfigError(f"new_weights: expected no --initial beside it, got {self.initial}")
        data, held_out = open_recordings(*self.data), open_recordings(self.held_out)
        with joined(self.device) as device:
            check_recipe(recipe, data, held_out, transformer.start, self.accumulate)
            status = tokenizer.train(device)
            barrier()  # the first process has written the tokenizer
            status = status or transformer.train(device)
        if not status and is_main():
            runs = f"--tokenizer {tokenizer.out} --transformer {transformer.out}"
            print(f"{self.out}; next: worldgym export {runs} --held-out {self.held_out} --out {self.out}/model")
        return status

    def _tokenizer(self, own: TokenizerRecipe) -> TrainTokenizer:
        return TrainTokenizer(**self._shared("tokenizer", own), lpips=self.lpips, model=own.model, job=own.job)

    def _transformer(self, own: TransformerRecipe) -> TrainTransformer:
        tokenizer = self.out / "tokenizer"
        return TrainTransformer(
            **self._shared("transformer", own),
            tokenizer=tokenizer,
            accumulate=self.accumulate,
            model=own.model,
            job=own.job,
        )

    def _shared(self, part: str, own: TokenizerRecipe | TransformerRecipe) -> dict[str, Any]:
        """The options of a part that both parts have. A part that was not begun yet is not resumed."""
        out, training = self.out / part, own.training
        steps, batch_size = self.steps or training.steps, self.batch_size or training.batch_size
        return {
            "data": self.data,
            "held_out": self.held_out,
            "out": out,
            "resume": self.resume and (part == "tokenizer" or (out / CONFIG).exists()),
            "initial": self.initial or own.initial,
            "new_weights": self.new_weights,
            "threads": self.threads,
            "training": dataclasses.replace(training, steps=steps, batch_size=batch_size),
        }


@dataclass(frozen=True)
class ListRecipes:
    """List the recipes, and where their figures come from."""

    def run(self) -> None:
        print("recipes, for: worldgym train --recipe NAME ...\n\n" + "\n".join(map(_described, recipe_names())))


def parse(arguments: Sequence[str]) -> TrainTokenizer | TrainTransformer | TrainRecipe | ListRecipes:
    """Parse the options of ``train``, ``train tokenizer`` or ``train transformer``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        sys.exit(0 if arguments else 2)
    if list(arguments) == ["--recipe"]:
        return ListRecipes()
    if arguments[0].startswith("-"):
        return parse_options(TrainRecipe, arguments, "train", BOTH)
    part, rest = arguments[0], arguments[1:]
    if part not in EXAMPLES:
        raise ConfigError(f"train: unknown part {part!r}; {nearest(part, EXAMPLES)}")
    recipe = find_recipe(read_option(rest, "--recipe") or DEFAULT)
    required: dict[str, Any] = {"data": tyro.MISSING, "held_out": tyro.MISSING, "out": tyro.MISSING}
    if part == "tokenizer":
        own = recipe.tokenizer
        tokenizer = TrainTokenizer(**required, initial=own.initial, model=own.model, job=own.job, training=own.training)
        return parse_options(TrainTokenizer, rest, "train tokenizer", EXAMPLES[part], tokenizer)
    own_transformer = recipe.transformer
    transformer = TrainTransformer(
        **required,
        initial=own_transformer.initial,
        tokenizer=tyro.MISSING,
        model=own_transformer.model,
        job=own_transformer.job,
        training=own_transformer.training,
    )
    return parse_options(TrainTransformer, rest, "train transformer", EXAMPLES[part], transformer)


def _described(name: str) -> str:
    """A recipe in a line, and where its figures come from."""
    about = find_recipe(name).about or "Train the shipped checkpoint of this name again."
    return f"{name}\n{textwrap.indent(textwrap.fill(about, 110), '    ')}\n"

"""What the studies share: options, a toy world to study by default, training that continues, and the files of results.

In the toy world actions push a square over a ground, by its width. A model is pre-trained on grounds of some colours;
another colour is new to it, though everything moves alike. Small networks learn it in a few hundred updates.
"""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from worldgym import WorldModel
from worldgym.cli import INTERRUPTED
from worldgym.config import CompactTokenizerConfig, Sampling, TransformerConfig
from worldgym.data.episode import SUFFIX, Episode, EpisodeInfo
from worldgym.data.mixture import open_recordings
from worldgym.data.recordings import Recordings, Segments, sample_segments
from worldgym.data.summary import check_held_out, summaries
from worldgym.devices import checked_device
from worldgym.errors import WorldGymError
from worldgym.metrics.pixels import psnr
from worldgym.pretrained import CONFIG as CHECKPOINT
from worldgym.pretrained import load, locate
from worldgym.reports.evaluation import evaluate
from worldgym.reports.provenance import provenance
from worldgym.runs.folder import CONFIG
from worldgym.storage.files import atomic_json, atomic_write
from worldgym.training.export import export
from worldgym.training.loop import TrainingConfig
from worldgym.training.recipe import Recipe, TokenizerRecipe, TransformerRecipe, find_recipe
from worldgym.training.runs import train_tokenizer, train_transformer
from worldgym.training.tokenizer import TokenizerTrainingConfig
from worldgym.training.trained import load_world_model_run
from worldgym.training.transformer import TransformerTrainingConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE, SQUARE, TOY_STEPS = 32, 8, 24  # pixels, pixels, steps of an episode
GROUNDS = {"known": ((40, 40, 40), (20, 60, 90), (90, 40, 30)), "new": ((30, 110, 50),)}  # colours, by the look
TOY_HELD_OUT, TOY_HELD_OUT_SEED = 24, 5_000_000  # episodes at most; seed of the first one
TOY_LONGER = 3  # how many times as many updates pre-train the toy model as adapt it
SEGMENTS = 2  # of each held-out episode
GREEDY = {"greedy": Sampling(top_k=1)}


@dataclass(frozen=True)
class Study:
    """What is studied.

    Attributes:
        options: of the command line.
        recipe: how both parts are trained.
        data: folder of episodes to train on, or a mixture.
        held_out: folder of other episodes, or a mixture.
        initial: folder of the checkpoint that is studied, or of the run of its tokenizer.
        out: folder of the study's runs and results.
        device: to train on.
    """

    options: argparse.Namespace
    recipe: Recipe
    data: Path
    held_out: Path
    initial: Path
    out: Path
    device: torch.device

    def with_sizes_of_checkpoint(self) -> "Study":
        """The study with the architecture of its checkpoint, so that new weights and trained ones are of equal size."""
        config = load(self.initial).config
        parts = self.recipe.tokenizer, self.recipe.transformer
        models = config.tokenizer, config.transformer
        tokenizer, transformer = (
            dataclasses.replace(part, model=model) for part, model in zip(parts, models, strict=True)
        )
        return dataclasses.replace(self, recipe=Recipe(tokenizer, transformer))

    def train_tokenizer(self, folder: Path, data: Recordings, initial: Path | None, fixed_codes: bool = False) -> Path:
        """Train a tokenizer in a folder, or go on, and return the folder. What is finished is not repeated."""
        job = dataclasses.replace(self.recipe.tokenizer.job, fixed_codes=fixed_codes)
        part = dataclasses.replace(self.recipe.tokenizer, job=job)
        start, resume = None if initial is None else str(initial), (folder / CONFIG).exists()
        held_out = open_recordings(self.held_out)
        _check_finished(
            train_tokenizer(part, data, held_out, folder, self.device, resume=resume, initial=start), part.training
        )
        return folder

    def train_transformer(
        self, folder: Path, tokenizer: Path, data: Recordings, initial: Path | None, part: TransformerRecipe
    ) -> Path:
        """As :meth:`train_tokenizer`, for a transformer."""
        start, resume = None if initial is None else str(initial), (folder / CONFIG).exists()
        held_out = open_recordings(self.held_out)
        step = train_transformer(part, tokenizer, data, held_out, folder, self.device, resume=resume, initial=start)
        _check_finished(step, part.training)
        return folder

    def train(self, folder: Path, data: Recordings, initial: Path | None) -> WorldModel:
        """Train both parts, from the weights of a checkpoint or from new ones."""
        tokenizer = self.train_tokenizer(folder / "tokenizer", data, initial)
        transformer = self.train_transformer(folder / "transformer", tokenizer, data, initial, self.recipe.transformer)
        return self.load(tokenizer, transformer)

    def load(self, tokenizer: Path, transformer: Path) -> WorldModel:
        """The world model of two runs, or of the run of a tokenizer and the checkpoint that it was adapted to."""
        return load_world_model_run(tokenizer, transformer).world_model.to(self.device)

    def segments(self) -> Segments:
        """Held-out segments, some of every episode."""
        held_out = open_recordings(self.held_out)
        longest = max(len(episode) for episode in held_out.episodes)
        return sample_segments(held_out, self.recipe.transformer.job.segment_length, SEGMENTS, longest)

    def write(self, name: str, figure: "Figure", results: dict[str, Any]) -> None:
        """Write ``NAME.png`` and ``NAME.json``."""
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(self.options).items()}
        about = {**provenance(self.device), "command": shlex.join(["python", *sys.argv]), "settings": settings}
        atomic_json(self.out / f"{name}.json", {**about, **results})
        with atomic_write(self.out / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png")
        print(f"{self.out / name}.png, {self.out / name}.json")


def study_parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all studies have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    own = parser.add_argument_group("recordings of your own (all four; without them a toy world is studied)")
    own.add_argument("--data", type=Path, help="folder of episodes to train on, or a mixture")
    own.add_argument("--held-out", type=Path, help="folder of other episodes, to measure on, or a mixture")
    own.add_argument("--initial", help="pre-trained checkpoint: a shipped name, a folder or a Hub id")
    own.add_argument("--recipe", help="jobs and settings of training: a name of `worldgym train --recipe`, or a file")
    parser.add_argument("--out", type=Path, default=Path("outputs/studies"), help="folder of runs and results; studies "
                        "may share it, and a finished run is not repeated (default: %(default)s)")  # fmt: skip
    parser.add_argument("--steps", type=positive, help="updates of each part (default: the recipe's)")
    parser.add_argument("--toy-episodes", type=positive, default=1000, help="of the toy world (default: %(default)s)")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: the GPU if there is one)")
    return parser


def open_study(parser: argparse.ArgumentParser, new_look: bool, checkpoint: bool = True) -> Study:
    """Parse the command line; record and pre-train the toy world if no recordings are given.

    Args:
        parser: of the command line.
        new_look: study the toy world in the look that is new to the pre-trained model.
        checkpoint: the study needs both parts of the checkpoint, not the tokenizer alone.
    """
    options = parser.parse_args()
    given = [getattr(options, name) for name in ("data", "held_out", "initial", "recipe")]
    if any(given) and not all(given):
        parser.error("give --data, --held-out, --initial and --recipe, or none of them to study a toy world")
    recipe = find_recipe(options.recipe) if options.recipe else toy_recipe()
    if recipe.transformer.job.goal_conditioned:
        parser.error(f"--recipe: expected one without goals, got {options.recipe}")
    recipe, device = with_steps(recipe, options.steps), checked_device(options.device)
    if all(given):
        initial, episodes = locate(options.initial), open_recordings(options.held_out)
        for summary in summaries(load(initial).config.training_data):
            check_held_out(summary, episodes)
        return Study(options, recipe, options.data, options.held_out, initial, options.out, device)
    toy, held_out = options.out / "toy", min(TOY_HELD_OUT, options.toy_episodes)
    for index, look in enumerate(GROUNDS):
        _record_toy(toy / look / "train", look, index * 1_000_000, options.toy_episodes)
        _record_toy(toy / look / "held-out", look, TOY_HELD_OUT_SEED + index * 1_000_000, held_out)
    initial = _pre_train(toy, options, recipe, device, checkpoint)
    folder = toy / ("new" if new_look else "known")
    return Study(options, recipe, folder / "train", folder / "held-out", initial, options.out, device)


def toy_recipe() -> Recipe:
    """Training of the toy world's model."""
    training = TrainingConfig(300, 8, 3e-3, warmup_steps=30, validate_every=100, precision="float32")
    tokenizer = CompactTokenizerConfig(
        SIDE, width=8, depth=1, context_grid=4, frame_grid=2, latent_channels=4, context_codes=16, dynamics_codes=32
    )
    transformer = TransformerConfig(2, 2, hidden_size=64, mlp_size=128, max_positions=tokenizer.layout.length(10))
    clips = TokenizerTrainingConfig(segment_length=8, future_frames=3)
    job = TransformerTrainingConfig(segment_length=8, start_stride=1, dropout=0.0, head_batches=8)
    return Recipe(TokenizerRecipe(tokenizer, clips, training), TransformerRecipe(transformer, job, training))


def with_steps(recipe: Recipe, steps: int | None) -> Recipe:
    """A recipe with another number of updates; None leaves it as it is."""
    if steps is None:
        return recipe
    parts = (
        dataclasses.replace(
            part,
            training=dataclasses.replace(
                part.training, steps=steps, warmup_steps=min(part.training.warmup_steps, max(1, steps // 10))
            ),
        )
        for part in (recipe.tokenizer, recipe.transformer)
    )
    return Recipe(*parts)


def measured(model: WorldModel, segments: Segments, video: Path | None = None) -> dict[str, Any]:
    """Figures of :func:`worldgym.reports.evaluation.evaluate` of all segments, by horizon.

    Tokens are sampled greedily, so that the figures hold no luck.
    """
    figures: dict[str, Any] = evaluate(model, segments, GREEDY, video)["all"]
    return figures


def pooled(values: Sequence[float]) -> float:
    """The PSNR of the mean squared error over all horizons."""
    return psnr(float(np.mean([10 ** (-value / 10) for value in values])))


def positive(text: str) -> int:
    """A whole number from 1, as the type of an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def report_errors(main: Callable[[], None]) -> None:
    """Run a study; bad input ends it with one message."""
    try:
        main()
    except WorldGymError as error:
        sys.exit(f"error: {error}")


def _check_finished(step: int, training: TrainingConfig) -> None:
    if step < training.steps:
        print("stopped; run the same command again to continue", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _record_toy(folder: Path, look: str, seed: int, count: int) -> None:
    """Record episodes of the toy world that are not there yet."""
    paths = {number: folder / f"{number:08d}{SUFFIX}" for number in range(seed, seed + count)}
    missing = {number: path for number, path in paths.items() if not path.exists()}
    for number, path in tqdm(missing.items(), desc=f"record {look}", unit="episode", disable=not missing):
        _toy_episode(look, number).save(path)


def _toy_episode(look: str, seed: int) -> Episode:
    """Random actions (down, right), each -1, 0 or 1; the reward is how far down the square is."""
    rng = np.random.default_rng(seed)
    actions = rng.integers(-1, 2, (TOY_STEPS, 2)).astype(np.float32)
    places = [rng.integers(0, SIDE // SQUARE, 2)]
    for action in actions.astype(int):
        places.append(np.clip(places[-1] + action, 0, SIDE // SQUARE - 1))
    frames = np.empty((TOY_STEPS + 1, SIDE, SIDE, 3), np.uint8)
    frames[:] = GROUNDS[look][seed % len(GROUNDS[look])]
    for frame, (row, column) in zip(frames, SQUARE * np.array(places), strict=True):
        frame[row : row + SQUARE, column : column + SQUARE] = (250, 220, 30)
    rewards = np.array(places[1:], np.float32)[:, 0]
    about = EpisodeInfo("Toy", "push", "random", seed, 1, look)
    return Episode(frames, actions, rewards, np.zeros(TOY_STEPS, np.bool_), about)


def _pre_train(toy: Path, options: argparse.Namespace, recipe: Recipe, device: torch.device, checkpoint: bool) -> Path:
    """The checkpoint of a model of the toy world's first look; or the run of its tokenizer."""
    data, held_out = toy / "known" / "train", toy / "known" / "held-out"
    longer = with_steps(recipe, TOY_LONGER * recipe.tokenizer.training.steps)
    study = Study(options, longer, data, held_out, toy, toy, device)
    print("the toy world's pre-trained model", file=sys.stderr)
    runs = toy / "pre-training"
    if not checkpoint:
        return study.train_tokenizer(runs / "tokenizer", open_recordings(data), None)
    study.train(runs, open_recordings(data), None)
    found = toy / "pre-trained"
    if not (found / CHECKPOINT).exists():
        export(runs / "tokenizer", runs / "transformer", open_recordings(held_out), found, Sampling())
    return found

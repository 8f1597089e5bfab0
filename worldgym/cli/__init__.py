"""The command ``worldgym``.

This is the composition root: it alone may import every folder, and does so inside its functions, so that
``worldgym --help`` answers at once.
"""

import argparse
import dataclasses
import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldgym.errors import CheckpointError, ConfigError, DataError, WorldGymError

if TYPE_CHECKING:
    import torch

    from worldgym.agents.presets import Preset
    from worldgym.data.episode import Episode
    from worldgym.reports.demo import Scene
    from worldgym.envs.learned.start_states import StartStates
    from worldgym.reports.evaluation import Figures
    from worldgym.training.recipe import Recipe
    from worldgym.training.loop import TrainingConfig
    from worldgym.world_model import WorldModel

INTERRUPTED = 130
SHIPPED = "metaworld-64"
SCRATCH = "scratch"
EPISODES = "expert=40,noisy=44,smooth=20,random=16"
Subparsers = Any  # argparse gives this class no public name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit status: 0, 2 for an error that is explained on stderr, 130 when interrupted."""
    options = build_parser().parse_args(arguments)
    try:
        status: int | None = options.run(options)
    except KeyboardInterrupt:
        print("worldgym: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (WorldGymError, OSError) as error:
        print(f"worldgym: {error}", file=sys.stderr)
        return 2
    return status or 0


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="worldgym",
        description="Train agents inside learned video models.",
        epilog="Begin with:  worldgym demo\nEach command explains itself:  worldgym demo --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_collect(commands)
    _add_train(commands)
    _add_export(commands)
    _add_evaluate(commands)
    _add_mbpo(commands)
    _add_drqv2(commands)
    _add_curves(commands)
    _add_checkpoints(commands)
    return parser


def _add(
    commands: Subparsers, name: str, summary: str, example: str, run: Callable[[argparse.Namespace], int | None] | None
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=_Formatter,
    )
    if run is not None:
        parser.set_defaults(run=run)
    return parser


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and examples as they are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        hidden = action.default in (None, False) or not action.option_strings
        return action.help if hidden else super()._get_help_string(action)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: the GPU where there is one)")


def _natural(text: str, least: int = 0) -> int:
    """The type of an option that counts from 0."""
    if not text.isdecimal() or not least <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {2**31 - 1}, got {text!r}")
    return int(text)


def _positive(text: str) -> int:
    """The type of an option that counts from 1."""
    return _natural(text, least=1)


def _rate(text: str) -> float:
    """The type of a learning rate."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


# --------------------------------------------------------------------------------------------------------------- demo


def _add_demo(commands: Subparsers) -> None:
    parser = _add(
        commands,
        "demo",
        "imagine real episodes anew and show both side by side (no simulator needed)",
        "worldgym demo --steps 40 --out outputs/demo",
        _demo,
    )
    parser.add_argument("--checkpoint", default=SHIPPED, help="a shipped name, or a folder with start states")
    parser.add_argument("--task", nargs="+", metavar="TASK", help="(default: all of the checkpoint)")
    parser.add_argument("--steps", type=_positive, default=40, help="to imagine")
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"), help="folder of the video and pictures")
    parser.add_argument("--seed", type=_natural, default=0, help="draws the start states and the tokens")
    _add_device(parser)


def _demo(options: argparse.Namespace) -> None:
    from worldgym.reports.demo import alike, imagine, write
    from worldgym.devices import checked_device
    from worldgym.envs.learned.start_states import StartStates
    from worldgym.pretrained import START_STATES, locate
    from worldgym.reports.provenance import machine
    from worldgym.world_model import WorldModel

    device = checked_device(options.device)
    starts = StartStates(locate(options.checkpoint) / START_STATES)
    model = WorldModel.from_pretrained(options.checkpoint, device=device)
    scenes = alike(_scenes(starts, options, model.config.context_length), options.steps)
    dream = imagine(model, scenes, options.seed)
    for path in write(scenes, dream, options.out):
        print(path)
    print(f"{dream.steps_per_second:.0f} imagined steps a second in a batch of {len(scenes)} on {machine(device)}")


def _scenes(starts: "StartStates", options: argparse.Namespace, context_length: int) -> "list[Scene]":
    """One start state of each task, and what really followed; early ones, where most happens."""
    import numpy as np

    from worldgym.reports.demo import Scene

    rng, scenes = np.random.default_rng(options.seed), []
    for task in options.task or starts.tasks:
        states = [starts.get(task, index, context_length) for index in range(starts.count(task))]
        early = [state for state in states if len(state.actions) >= options.steps] or states
        start = early[int(rng.integers(len(early)))]
        scenes.append(Scene(task, start.frames, start.future_frames, start.actions, start.rewards))
    return scenes


# ------------------------------------------------------------------------------------------------------------ collect


def _add_collect(commands: Subparsers) -> None:
    parser = _add(
        commands,
        "collect",
        "record episodes of the real Meta-World, or of a toy world",
        "worldgym collect --out data/metaworld --tasks plate-slide --episodes expert=10,random=5",
        _collect,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder; episodes already there are kept, not repeated")
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help="plain names; toy and dials are toy worlds (default: the six of the paper)",
    )
    parser.add_argument(
        "--episodes",
        type=_counts,
        default=EPISODES,
        help="episodes a task by behaviour: expert, noisy (the expert with noise), straying (the expert, held actions "
        f"and a random walk by turns), smooth (a random walk), random (default: {EPISODES})",
    )
    parser.add_argument("--seed", type=_natural, default=0, help="of each behaviour's first episode")
    parser.add_argument("--workers", type=_positive, help="processes (default: one a core)")
    parser.add_argument("--look", choices=("fast", "reference"), default="fast", help="fast draws no shadows")


def _counts(text: str) -> dict[str, int]:
    """``expert=2,random=1`` as a dictionary."""
    counts = {}
    for part in text.split(","):
        name, _, count = part.partition("=")
        if not name or not count.isdecimal():
            raise argparse.ArgumentTypeError(f"expected BEHAVIOUR=COUNT,..., such as {EPISODES}; got {part!r}")
        counts[name] = int(count)
    return counts


def _collect(options: argparse.Namespace) -> None:
    import os

    from worldgym.data.recordings import Recordings
    from worldgym.envs.collect import collect
    from worldgym.envs.simulators.metaworld import PAPER_TASKS

    workers = options.workers or os.cpu_count() or 1
    paths = collect(
        options.out, options.tasks or PAPER_TASKS, options.episodes, options.seed, workers, look=options.look
    )
    recordings = Recordings(options.out)
    print(f"{len(paths)} episodes asked for, {len(recordings.episodes)} in {options.out}")


# -------------------------------------------------------------------------------------------------------------- train


def _add_train(commands: Subparsers) -> None:
    example = "worldgym train tokenizer --data data/metaworld --held-out data/held-out --out runs/tokenizer"
    parser = _add(commands, "train", "train one part of a world model", example, None)
    parts = parser.add_subparsers(title="parts", metavar="PART", required=True)
    tokenizer = _add(parts, "tokenizer", "train a tokenizer on recorded frames", example, _train_tokenizer)
    _add_training(tokenizer)
    tokenizer.add_argument(
        "--lpips",
        type=Path,
        metavar="FILE",
        help="safetensors weights of LPIPS, the paper's perceptual loss (keys: worldgym.metrics.lpips); "
        "without them the loss is L1 + 10 x squared error",
    )
    transformer = _add(
        parts,
        "transformer",
        "train a transformer and its reward head on a trained tokenizer's codes",
        "worldgym train transformer --tokenizer runs/tokenizer --data data/metaworld --held-out data/held-out "
        "--out runs/transformer",
        _train_transformer,
    )
    transformer.add_argument("--tokenizer", type=Path, required=True, help="folder of a tokenizer's run")
    _add_training(transformer)


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder of episodes to train on")
    parser.add_argument("--held-out", type=Path, required=True, help="folder of other episodes, to validate on")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoint, metrics, videos")
    parser.add_argument("--resume", action="store_true", help="go on, exactly, with the run in --out")
    parser.add_argument(
        "--recipe",
        default=SHIPPED,
        help="architecture and settings: a shipped checkpoint's name, or a JSON file like its recipe.json",
    )
    parser.add_argument("--steps", type=_positive, help="instead of the recipe's; so are the next ones")
    parser.add_argument("--batch-size", type=_positive)
    parser.add_argument("--learning-rate", type=_rate)
    parser.add_argument("--seed", type=_natural)
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), help="auto asks the hardware")
    parser.add_argument("--threads", type=_positive, help="CPU threads (default: PyTorch's choice)")
    _add_device(parser)


def _train_tokenizer(options: argparse.Namespace) -> int:
    from worldgym.data.recordings import Recordings
    from worldgym.metrics.lpips import LPIPS
    from worldgym.training.recipe import train_tokenizer

    recipe = _recipe(options.recipe).tokenizer
    training = _overridden(recipe.training, options)
    reached = train_tokenizer(
        dataclasses.replace(recipe, training=training),
        Recordings(options.data),
        Recordings(options.held_out),
        options.out,
        _prepared_device(options),
        None if options.lpips is None else LPIPS.from_file(options.lpips),
        options.resume,
    )
    return _told(reached, training.steps)


def _train_transformer(options: argparse.Namespace) -> int:
    from worldgym.data.recordings import Recordings
    from worldgym.training.recipe import train_transformer

    recipe = _recipe(options.recipe).transformer
    recordings = Recordings(options.data)
    training = _overridden(recipe.training, options)
    reached = train_transformer(
        dataclasses.replace(recipe, training=training),
        options.tokenizer,
        recordings,
        Recordings(options.held_out),
        options.out,
        _prepared_device(options),
        _action_names(recordings.episodes[0].info.environment),
        options.resume,
    )
    return _told(reached, training.steps)


def _recipe(name: str) -> "Recipe":
    """The recipe of a shipped checkpoint, or of a JSON file."""
    import worldgym.checkpoints
    from worldgym.training.recipe import load_recipe

    shipped = Path(worldgym.checkpoints.__file__).parent / name / "recipe.json"
    return load_recipe(shipped if shipped.exists() else Path(name))


def _overridden(training: "TrainingConfig", options: argparse.Namespace) -> "TrainingConfig":
    names = ("steps", "batch_size", "learning_rate", "seed", "precision")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return dataclasses.replace(training, **given)


def _prepared_device(options: argparse.Namespace) -> "torch.device":
    import torch

    from worldgym.devices import checked_device

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return checked_device(options.device)


def _told(reached: int, steps: int) -> int:
    """The exit status of a training that ended at this step; what to do next where it was stopped."""
    return 0 if reached >= steps else _stopped(reached, steps)


def _stopped(reached: int, steps: int) -> int:
    print(f"worldgym: stopped at {reached} of {steps} steps; add --resume to go on", file=sys.stderr)
    return INTERRUPTED


def _action_names(environment: str) -> tuple[str, ...]:
    """What each action dimension of a recorded environment means, where we know it."""
    from worldgym.envs.simulators.metaworld import ACTION_NAMES

    return ACTION_NAMES if environment == "Simulator-MetaWorld-v0" else ()


# ------------------------------------------------------------------------------------------------- export, evaluate


def _add_export(commands: Subparsers) -> None:
    parser = _add(
        commands,
        "export",
        "make a checkpoint that ships from the runs of a tokenizer and a transformer",
        "worldgym export --tokenizer runs/tokenizer --transformer runs/transformer --held-out data/held-out "
        "--out checkpoints/mine",
        _export,
    )
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the tokenizer's run")
    parser.add_argument("--transformer", type=Path, required=True, help="folder of the transformer's run")
    parser.add_argument("--held-out", type=Path, required=True, help="folder of episodes that become start states")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--temperature", type=float, default=1.0, help="what its environments draw tokens with")
    parser.add_argument("--top-k", type=_positive, default=100, help="tokens they draw from; 1 is greedy")


def _export(options: argparse.Namespace) -> None:
    from worldgym.reports.card import size
    from worldgym.config import Sampling
    from worldgym.data.recordings import Recordings
    from worldgym.envs.learned.start_states import build_start_states
    from worldgym.pretrained import START_STATES
    from worldgym.training.recipe import export

    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{options.out.name}.", dir=options.out.parent) as aside:
        # Whatever refuses, the recordings or the runs, nothing of the checkpoint is there yet.
        bank = build_start_states(options.held_out, Path(aside))
        sampling = Sampling(options.temperature, options.top_k)
        export(options.tokenizer, options.transformer, Recordings(options.held_out), options.out, sampling)
        (options.out / START_STATES).mkdir(exist_ok=True)
        for path in bank:
            path.replace(options.out / START_STATES / path.name)
    print(f"{options.out}: {size(options.out) / 1e6:.1f} MB; next: worldgym evaluate --checkpoint {options.out} --help")


def _add_evaluate(commands: Subparsers) -> None:
    parser = _add(
        commands,
        "evaluate",
        "measure a world model on held-out episodes, beside repeating the last frame",
        "worldgym evaluate --checkpoint metaworld-64 --data data/held-out --out outputs/figures.json",
        _evaluate,
    )
    parser.add_argument("--checkpoint", default=SHIPPED, help="a shipped name or a folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of held-out episodes")
    parser.add_argument("--out", type=Path, default=Path("outputs/evaluate.json"), help="figures; a .gif lies beside")
    parser.add_argument("--horizon", type=_positive, default=10, help="frames imagined from each start")
    parser.add_argument("--starts", type=_positive, default=5, help="segments drawn from each episode")
    parser.add_argument(
        "--first-steps", type=_positive, default=60, help="of an episode, which segments are drawn from"
    )
    parser.add_argument("--seed", type=_natural, default=0, help="draws the segments and the tokens")
    parser.add_argument(
        "--write-card", action="store_true", help="write the figures into the checkpoint and its README"
    )
    _add_device(parser)


def _evaluate(options: argparse.Namespace) -> None:
    from worldgym.reports.card import horizon_table, task_table
    from worldgym.storage.files import atomic_json

    figures = _measure(options)
    atomic_json(options.out, figures)
    print(horizon_table(figures["by_task"]["all"]), task_table(figures["by_task"]), sep="\n\n")
    perplexity = figures["perplexity"]
    print(f"\nperplexity: context {perplexity['context']:.0f}, dynamics {perplexity['dynamics']:.0f}\n{options.out}")


def _measure(options: argparse.Namespace) -> "Figures":
    """The figures of a checkpoint and where they come from; with ``--write-card`` written into it too."""
    from worldgym.reports.card import write_figures
    from worldgym.config import Sampling
    from worldgym.data.recordings import Recordings, drawn_segments
    from worldgym.data.summary import check_held_out
    from worldgym.devices import checked_device
    from worldgym.reports.evaluation import evaluate, perplexities
    from worldgym.pretrained import locate
    from worldgym.reports.provenance import provenance
    from worldgym.world_model import WorldModel

    device = checked_device(options.device)
    model = WorldModel.from_pretrained(options.checkpoint, device=device)
    recordings, config = Recordings(options.data), model.config
    for trained_on in ("trained_on", "tokenizer_trained_on"):
        if trained_on in config.training_data:
            check_held_out(config.training_data[trained_on], recordings)
    if "trained_on" not in config.training_data and options.write_card:
        raise CheckpointError(
            f"{options.checkpoint} does not say what it was trained on, as one by `worldgym export` does"
        )
    length = config.context_length + options.horizon
    segments = drawn_segments(recordings, length, options.starts, options.first_steps, options.seed)
    samplings = {"sampled": config.sampling, "greedy": Sampling(top_k=1)}
    figures = {
        **provenance(device),
        "horizon": options.horizon,
        "first_steps": options.first_steps,
        "by_task": evaluate(model, segments, samplings, options.out.with_suffix(".gif"), options.seed),
        "perplexity": perplexities(model, segments),
    }
    if options.write_card:
        write_figures(locate(options.checkpoint), config, figures)
    return figures


# ------------------------------------------------------------------------------------------------ mbpo, drqv2, curves


def _add_mbpo(commands: Subparsers) -> None:
    parser = _add(
        commands,
        "mbpo",
        "train an agent in a real simulator and in a world model that learns beside it",
        "worldgym mbpo --task plate-slide --demos 5 --preset cpu --out runs/mbpo",
        _mbpo,
    )
    _add_agent(parser)
    parser.add_argument(
        "--world-model",
        metavar="NAME",
        help=f"a shipped name, a folder, or {SCRATCH} for fresh weights (default: {SHIPPED}, a toy world's {SCRATCH})",
    )
    parser.add_argument(
        "--uncertainty", type=_rate, metavar="NATS", help="end a rollout before a frame the model is less sure of"
    )


def _add_drqv2(commands: Subparsers) -> None:
    parser = _add(
        commands,
        "drqv2",
        "train an agent in a real simulator alone: the baseline of mbpo",
        "worldgym drqv2 --task plate-slide --demos 5 --preset cpu --out runs/drqv2",
        _drqv2,
    )
    _add_agent(parser)


def _add_agent(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", required=True, help="a task of Meta-World, or a toy world: toy, dials")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoint, metrics, videos")
    parser.add_argument(
        "--resume", action="store_true", help="go on, exactly, with the run in --out: same options, and this"
    )
    parser.add_argument(
        "--preset",
        help="paper (100,000 steps, for a GPU), cpu (2,000 steps, ten minutes of a core), toy or dials (default: a toy "
        "world's own, else paper)",
    )
    parser.add_argument("--demos", type=_natural, metavar="COUNT", help="demonstrations (default: the preset's)")
    parser.add_argument(
        "--demos-from", type=Path, metavar="FOLDER", help="where they lie; else the scripted expert gives them"
    )
    parser.add_argument("--steps", type=_positive, help="real steps (default: the preset's)")
    parser.add_argument("--seed", type=_natural, default=0, help="of everything but demonstrations and evaluations")
    parser.add_argument(
        "--set",
        type=_setting,
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="other settings of the preset, such as rollouts=64, model.learning_rate=3e-4 or agent.batch_size=128; a "
        "run's config.json holds all there are",
    )
    parser.add_argument("--threads", type=_positive, help="CPU threads (default: PyTorch's choice)")
    _add_device(parser)


def _setting(text: str) -> tuple[str, Any]:
    """``NAME=VALUE`` with a value as in JSON; a word needs no quotes."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError as error:
        if name and value.isidentifier():
            return name, value
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, such as rollouts=64; got {text!r}") from error


def _mbpo(options: argparse.Namespace) -> int:
    from worldgym.agents.presets import TOYS

    name = options.world_model or (SCRATCH if options.task in TOYS else SHIPPED)
    return _learn(options, name, {"method": f"MBPO ({name})", "world_model": name})


def _drqv2(options: argparse.Namespace) -> int:
    return _learn(options, None, {"method": "DrQ-v2"})


def _learn(options: argparse.Namespace, world_model: str | None, about: dict[str, Any]) -> int:
    """Train an agent, in the world model of this name too unless it is None."""
    from worldgym.agents.drqv2 import DrQv2
    from worldgym.agents.mbpo import MBPO
    from worldgym.agents.presets import FRAME_STACK
    from worldgym.agents.mbpo.run import time_table, train
    from worldgym.runs.folder import check_run_folder as check_run

    check_run(options.out, options.resume)
    preset, device = _preset(options), _prepared_device(options)
    envs = [_simulator(options.task) for _ in range(2)]
    try:
        frames, actions = envs[0].observation_space.shape, envs[0].action_space.shape
        agent = DrQv2(frames, FRAME_STACK, actions[0], preset.agent, options.seed, device)
        model = None if world_model is None else _learning_world_model(world_model, preset, device)
        demonstrations = _demonstrations(options, preset, envs[0])
        learner = MBPO(envs[0], model, agent, preset.loop, demonstrations)
        about = {**about, "demonstrations": len(demonstrations)}
        if not train(learner, envs[1], options.out, about, options.resume):
            return _stopped(learner.step, preset.loop.steps)
    finally:
        for env in envs:
            env.close()
    print(f"{options.out}\n\n{time_table(options.out)}")
    return 0


def _preset(options: argparse.Namespace) -> "Preset":
    """The preset asked for, with the settings given beside it."""
    from worldgym.agents.presets import changed, preset

    given = {name: getattr(options, name, None) for name in ("steps", "seed", "uncertainty")}
    settings = {name: value for name, value in given.items() if value is not None}
    if twice := sorted(settings.keys() & dict(options.set)):  # a seed is always given: the agent's is the same
        raise ConfigError(f"{twice[0]} has an option of its own: give --{twice[0]} instead of --set {twice[0]}=...")
    return changed(preset(options.task, options.preset), settings | dict(options.set))


def _simulator(task: str) -> Any:
    import gymnasium as gym

    from worldgym.envs.registry import find_task

    spec, name = find_task(task)
    return gym.make(spec.simulator_id, task=name)


def _learning_world_model(name: str, preset: "Preset", device: "torch.device") -> "WorldModel":
    """A checkpoint to go on with, or fresh weights of the preset's architecture, by default the shipped one's."""
    from worldgym.config import WorldModelConfig, from_dict
    from worldgym.storage.files import read_json
    from worldgym.pretrained import CONFIG, locate
    from worldgym.training.online import fresh_world_model
    from worldgym.world_model import WorldModel

    if name != SCRATCH:
        return WorldModel.from_pretrained(name, device=device)
    config = preset.world_model or from_dict(WorldModelConfig, read_json(locate(SHIPPED) / CONFIG), SHIPPED)
    config = dataclasses.replace(config, training_data={}, figures={})  # they tell of other weights
    return fresh_world_model(config, preset.loop.seed).to(device)


def _demonstrations(options: argparse.Namespace, preset: "Preset", env: Any) -> "list[Episode]":
    """Those in a folder, or the scripted expert's, which are recorded into the run's folder first."""
    from worldgym.agents.common.demonstrations import load_demonstrations
    from worldgym.envs.collect import collect

    count, folder, task = options.demos, options.demos_from, env.unwrapped.task
    if folder is None:
        count, folder = preset.demonstrations if count is None else count, options.out / "demonstrations"
        if not count:
            return []
        collect(folder, [task], {"expert": count}, workers=1)
    sizes = {"frame_shape": env.observation_space.shape, "action_dim": env.action_space.shape[0]}
    found = load_demonstrations(folder, task=task, **sizes)
    if count is not None and len(found) < count:
        raise DataError(f"{folder} holds {len(found)} demonstrations of {task}, {count} were asked for")
    return found[:count]


def _add_curves(commands: Subparsers) -> None:
    parser = _add(
        commands,
        "curves",
        "draw success and return against real steps of several runs, and write their numbers",
        "worldgym curves runs/mbpo-0 runs/mbpo-1 runs/drqv2-0 runs/drqv2-1 --out outputs/curves.png",
        _curves,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of `worldgym mbpo` and `drqv2`")
    parser.add_argument("--out", type=Path, default=Path("outputs/curves.png"), help="picture; a .json lies beside")


def _curves(options: argparse.Namespace) -> None:
    from worldgym.agents.curves import curves, write_curves

    for path in write_curves(curves(options.runs), options.out):
        print(path)


# -------------------------------------------------------------------------------------------------------- checkpoints


def _add_checkpoints(commands: Subparsers) -> None:
    _add(commands, "checkpoints", "list the checkpoints that ship", "worldgym checkpoints", _checkpoints)


def _checkpoints(options: argparse.Namespace) -> None:
    from worldgym.reports.card import checkpoint_table
    from worldgym.checkpoints import shipped

    known = shipped()
    print(checkpoint_table(known.values()) if known else "none: make one with worldgym train and worldgym export")

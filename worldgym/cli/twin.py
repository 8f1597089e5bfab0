"""``worldgym twin``: from a Gymnasium id to its learned environment, in one command."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldgym.checkpoints import DEFAULT
from worldgym.cli import INTERRUPTED
from worldgym.cli.options import Natural, OptionalPositive, OptionalPositiveFloat, OptionalText, Positive, parse_options

if TYPE_CHECKING:
    from worldgym.data.recordings import Recordings
    from worldgym.training.recipe import Recipe

EXAMPLE = """worldgym twin --env CartPole-v1 --out twins/cartpole --quick
  worldgym twin --env CarRacing-v3 --out twins/car-racing --hours 2"""
PLAN = "plan.json"
HELD_OUT_SEED, HELD_OUT_SHARE, LEAST_HELD_OUT, MOST_HELD_OUT = 1_000_000, 0.1, 6, 20  # episodes of a behaviour
COLLECTING_SHARE, TOKENIZER_SHARE, TRANSFORMER_SHARE = 0.1, 0.25, 0.5  # of the time; the rest evaluates
STEPS, STEPS_AN_HOUR = 10_000, 60_000  # recorded at most: fewer are learned by heart, more not seen often enough
HOURS, QUICK_HOURS = 1.0, 5 / 60
TIMED_UPDATES = 24  # of which the second half is timed
LABEL_PERPLEXITY, LABEL_FRAMES = 8.0, 10  # codes that a soft target spreads over; frames by which it is fitted
TEMPERATURE = 0.1  # of sampling: the soft targets of a short training leave distributions wide
LEAST_UPDATES = 20
HEAD_BATCHES, QUICK_HEAD_BATCHES = 200, 120  # of imagined segments, to which the heads are fitted
FIRST_SHARE = 0.8  # of contexts that are an episode's first frame, as after every reset


@dataclass(frozen=True)
class Twin:
    """Learn a Gymnasium environment: record episodes, train both parts, evaluate, write the model card.

    It stops when it is interrupted, and the same command continues. --out becomes a checkpoint for
    gym.make("WorldModel-v0", checkpoint=OUT); recordings and training runs stay in OUT/work.
    """

    env: str
    """Id of the environment, such as CarRacing-v3; module:Id imports a package first."""
    out: Path
    """Folder of the checkpoint."""
    hours: OptionalPositiveFloat = None
    """How long it may take, about (default: 1; five minutes with --quick)."""
    quick: bool = False
    """A rough twin, by smaller networks."""
    policy: OptionalText = None
    """Who acts in a third of the episodes, as for worldgym collect (default: random and sticky actions alone)."""
    frame_skip: Positive = 1
    """Steps of the environment in one step of the twin."""
    max_steps: Positive = 500
    """The most recorded steps of an episode."""
    seed: Natural = 0
    """Of the first episode and of the training."""
    workers: OptionalPositive = None
    """Processes that record (default: one a core)."""
    device: OptionalText = None
    """Such as cpu or cuda:1 (default: the GPU if there is one)."""

    def run(self) -> int:
        from worldgym.data.recordings import Recordings
        from worldgym.runs.log import summary_writer_class

        summary_writer_class()  # training needs it: better found before anything is recorded
        plan = self._plan()
        self._collect(plan)
        data, held_out = (Recordings(self._work / name) for name in ("train", "held-out"))
        recipe = _recipe(self.quick, self.seed)
        if not self._train(plan, recipe, data, held_out):
            print("worldgym: stopped; run the same command again to continue", file=sys.stderr)
            return INTERRUPTED
        self._finish()
        print(f'{self.out} is ready: gym.make("WorldModel-v0", checkpoint="{self.out}"); see {self.out}/README.md')
        return 0

    @property
    def _work(self) -> Path:
        return self.out / "work"

    @property
    def _seconds(self) -> float:
        return 3600 * (self.hours or (QUICK_HOURS if self.quick else HOURS))

    def _plan(self) -> dict[str, Any]:
        """What to do, decided once by recording one episode of each behaviour (two of the first), and kept in a file.

        Entries: ``settings``, by which the twin is known again; ``episodes``, numbers by behaviour; later also
        ``tokenizer_updates``, ``label_width`` and ``transformer_updates``.
        """
        import time

        from worldgym.envs.behaviours import find_behaviour
        from worldgym.envs.collect import record
        from worldgym.envs.registry import find_task
        from worldgym.errors import ConfigError
        from worldgym.storage.files import atomic_json, read_json

        path = self._work / PLAN
        settings = {"env": self.env, "quick": self.quick, "frame_skip": self.frame_skip, "seed": self.seed}
        if path.exists():
            plan = read_json(path)
            if plan["settings"] != settings:
                raise ConfigError(f"{self.out} holds another twin, of {plan['settings']}: choose another --out")
            return plan
        spec, task = find_task(self.env)
        policies = self._policies()
        names = [*policies, "random", "sticky"]
        seconds, steps = 0.0, 0
        for number, name in enumerate(names[:1] + names):
            begin, env = time.perf_counter(), spec.make(task, **self._options())
            if spec.name:  # of these an environment is made once a process
                begin = time.perf_counter()
            try:
                episode = record(env, name, self.seed, None, self.max_steps, policies.get(name) or find_behaviour(name))
            finally:
                env.close()
            if number:  # the first episode is not timed: it loads the environment's libraries
                seconds += time.perf_counter() - begin
                steps += len(episode)
        in_time = COLLECTING_SHARE * self._seconds / seconds * len(names) * (self.workers or 1)
        wanted = (STEPS + STEPS_AN_HOUR * self._seconds / 3600) / steps * len(names)
        count = max(LEAST_HELD_OUT, int(min(in_time, wanted) / len(names)))
        plan = {"settings": settings, "episodes": dict.fromkeys(names, count)}
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_json(path, plan)
        return plan

    def _options(self) -> dict[str, Any]:
        """Arguments of the environment."""
        from worldgym.envs.registry import find_task
        from worldgym.errors import ConfigError

        spec, _ = find_task(self.env)
        if not spec.name:
            return {"frame_skip": self.frame_skip}
        if self.frame_skip > 1:
            raise ConfigError(f"--frame-skip: {spec.simulator_id} has one of its own, {spec.frame_skip}; leave it out")
        return {}

    def _policies(self) -> dict[str, Any]:
        from worldgym.agents.policies import find_policy

        return {} if self.policy is None else {"policy": find_policy(self.policy)}

    def _collect(self, plan: dict[str, Any]) -> None:
        import math
        import os

        from worldgym.envs.collect import collect

        counts = plan["episodes"]
        held_out = {
            name: min(MOST_HELD_OUT, max(LEAST_HELD_OUT, math.ceil(HELD_OUT_SHARE * count)))
            for name, count in counts.items()
        }
        for name, episodes, seed in (("train", counts, self.seed), ("held-out", held_out, HELD_OUT_SEED + self.seed)):
            collect(
                self._work / name,
                [self.env],
                episodes,
                seed,
                self.workers or os.cpu_count() or 1,
                policies=self._policies(),
                options=self._options(),
                steps=self.max_steps,
            )

    def _train(self, plan: dict[str, Any], recipe: "Recipe", data: "Recordings", held_out: "Recordings") -> bool:
        """Train both parts, or resume; whether they are finished."""
        from functools import partial

        from worldgym.cli.options import prepare_device
        from worldgym.runs.folder import CONFIG
        from worldgym.training.runs import train_tokenizer, train_transformer

        device = prepare_device(self.device)
        runs = {name: self._work / name for name in ("tokenizer", "transformer")}
        parts: dict[str, tuple[Any, Any, float]] = {
            "tokenizer": (recipe.tokenizer, train_tokenizer, TOKENIZER_SHARE),
            "transformer": (
                recipe.transformer,
                lambda part, *rest, **more: train_transformer(part, runs["tokenizer"], *rest, **more),
                TRANSFORMER_SHARE,
            ),
        }
        for name, (part, train, share) in parts.items():
            if name == "transformer":
                width = self._label_width(plan, runs["tokenizer"], held_out)
                part = replace(part, job=replace(part.job, label_width=width, noise_width=width))
            start = partial(train, recordings=data, held_out=held_out, device=device)
            steps = self._updates(plan, name, part, start, share * self._seconds)
            part = replace(part, training=replace(part.training, steps=steps, **_intervals(steps)))
            if start(part, folder=runs[name], resume=(runs[name] / CONFIG).exists()) < steps:
                return False
        return True

    def _label_width(self, plan: dict[str, Any], tokenizer_run: Path, held_out: "Recordings") -> float:
        """The width of soft targets that fits the tokenizer's codebook, measured once and kept in the plan."""
        import torch

        from worldgym.data.recordings import to_batch
        from worldgym.storage.files import atomic_json
        from worldgym.training.code_kernels import fitting_width
        from worldgym.training.encoded import encode_batch
        from worldgym.training.trained import load_tokenizer_run

        if "label_width" not in plan:
            tokenizer = load_tokenizer_run(tokenizer_run).tokenizer
            length = tokenizer.layout.context_length + LABEL_FRAMES
            segments = [held_out.segment(index, 0, length) for index in range(len(held_out.episodes))]
            codes = torch.cat([encode_batch(tokenizer, to_batch([segment])).future for segment in segments])
            plan["label_width"] = fitting_width(tokenizer.codebooks()[1], codes, LABEL_PERPLEXITY)
            atomic_json(self._work / PLAN, plan)
        return float(plan["label_width"])

    def _updates(self, plan: dict[str, Any], name: str, part: Any, start: Any, seconds: float) -> int:
        """The number of updates that fit the time, measured once and kept in the plan."""
        import json
        import statistics
        import tempfile

        from worldgym.runs.log import METRICS
        from worldgym.storage.files import atomic_json
        from worldgym.training.speed import RATE

        key = f"{name}_updates"
        if key not in plan:
            training = replace(part.training, steps=TIMED_UPDATES, log_every=1, validate_every=TIMED_UPDATES)
            # The heads, which are fitted after the last update, are not timed.
            job = replace(part.job, head_batches=1) if name == "transformer" else part.job
            with tempfile.TemporaryDirectory(dir=self._work) as folder:
                timed = replace(part, job=job, training=training)
                if start(timed, folder=Path(folder) / "timing") < TIMED_UPDATES:
                    raise KeyboardInterrupt  # stopped: there is nothing to continue yet
                lines = (Path(folder) / "timing" / METRICS).read_text(encoding="utf-8").splitlines()
            rates = [line[RATE] for line in map(json.loads, lines) if RATE in line]
            each = part.training.batch_size * statistics.fmean(1 / rate for rate in rates[len(rates) // 2 :])
            plan[key] = max(LEAST_UPDATES, int(seconds / each))
            atomic_json(self._work / PLAN, plan)
        return int(plan[key])

    def _finish(self) -> None:
        """Make the checkpoint, with first frames, figures and card."""
        from worldgym.cli.evaluate import Evaluate
        from worldgym.cli.export import Export
        from worldgym.cli.starts import Starts
        from worldgym.data.recordings import Recordings
        from worldgym.envs.registry import find_task
        from worldgym.pretrained import read_config

        tokenizer, transformer, held_out = (self._work / name for name in ("tokenizer", "transformer", "held-out"))
        Export(tokenizer, transformer, held_out, self.out, TEMPERATURE).run()
        Starts(self.out, env=find_task(self.env)[0].simulator_id).run()
        longest = max(len(episode) for episode in Recordings(held_out).episodes)
        config = read_config(self.out)
        horizon = max(1, min(Evaluate.horizon, longest + 1 - config.context_length))
        # As the twin is used: from a reset, and in the middle of an episode after its real frames.
        shown = config.kept_frames or None
        figures = self._work / "evaluate.json"
        Evaluate(held_out, str(self.out), figures, horizon=horizon, shown=shown, write_card=True).run()


def _recipe(quick: bool, seed: int) -> "Recipe":
    """The recipe of the shipped checkpoint for short runs, with smaller networks for a quick twin.

    Many updates with small batches serve a short run better; see docs/experiments.md, "a twin of CartPole, again".
    """
    from worldgym.checkpoints import shipped
    from worldgym.config import CompactTokenizerConfig
    from worldgym.training.recipe import RECIPE, Recipe, load_recipe

    found = load_recipe(shipped()[DEFAULT] / RECIPE)
    tokenizer, transformer = found.tokenizer, found.transformer
    if quick:
        assert isinstance(tokenizer.model, CompactTokenizerConfig)
        small = replace(tokenizer.model, width=24, context_grid=4, context_codes=256, dynamics_codes=256)
        frames = tokenizer.model.layout.horizon(transformer.model.max_positions)
        tokenizer = replace(tokenizer, model=small)
        transformer = replace(
            transformer,
            model=replace(
                transformer.model,
                layers=3,
                hidden_size=128,
                mlp_size=384,
                max_positions=small.layout.length(frames),
            ),
            training=replace(transformer.training, learning_rate=1.5e-3),
        )
    tokenizer = replace(
        tokenizer,
        job=replace(tokenizer.job, segment_length=100, first_share=FIRST_SHARE),
        training=replace(tokenizer.training, batch_size=4, learning_rate=1e-3, seed=seed),
    )
    batches = QUICK_HEAD_BATCHES if quick else HEAD_BATCHES
    job = replace(transformer.job, first_share=FIRST_SHARE, later_share=0.5, head_batches=batches)
    return Recipe(tokenizer, replace(transformer, job=job, training=replace(transformer.training, seed=seed)))


def _intervals(steps: int) -> dict[str, int]:
    """Warm-up and intervals of a run of so many updates."""
    return {
        "warmup_steps": min(200, max(1, steps // 10)),
        "validate_every": max(1, steps // 3),
        "save_every": max(1, min(250, steps // 5)),
    }


def parse(arguments: Sequence[str]) -> Twin:
    """Parse the command's options."""
    return parse_options(Twin, arguments, "twin", EXAMPLE)

"""``worldgym evaluate``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldgym.checkpoints import DEFAULT
from worldgym.cli.options import Natural, OptionalPath, OptionalPositive, OptionalText, Positive, parse_options
from worldgym.errors import CheckpointError

if TYPE_CHECKING:
    from worldgym.config import WorldModelConfig
    from worldgym.data.recordings import Recordings
    from worldgym.reports.evaluation import Figures

FIRST_SEED = 4_000_000  # of the simulator in the report
CANDIDATES, OPTIMISED_STEPS = 64, 40  # action sequences of which the best is replayed, and their length
EXAMPLE = "worldgym evaluate --checkpoint metaworld-64 --data data/held-out --out outputs/figures.json"


@dataclass(frozen=True)
class Evaluate:
    """Measure a world model on held-out episodes: imagined frames and rewards against the recorded ones, by horizon.

    The last context frame, repeated, is measured beside it.
    """

    data: Path
    """Folder of held-out episodes, or a mixture."""
    checkpoint: str = DEFAULT
    """A shipped name or a folder."""
    out: Path = Path("outputs/evaluate.json")
    """File of the figures; a GIF is written beside it."""
    horizon: Positive = 10
    """Frames imagined from each start; a protocol has its own."""
    starts: Positive = 5
    """Segments sampled from each episode."""
    shown: OptionalPositive = None
    """Start as an environment that was reset at the episode's first frame and then followed real steps: the model is
    shown that frame and at most so many of the real frames before each start (default: only the context, the frames
    right before the start). At most as many as a position window keeps when it slides, for a checkpoint whose does."""
    first_steps: Positive = 60
    """Steps of an episode from which segments are sampled."""
    seed: Natural = 0
    """Chooses the segments and the sampled tokens."""
    write_card: bool = False
    """Write the figures into the checkpoint's config.json and README.md."""
    report: OptionalPath = None
    """Folder for a report of how far the model can be trusted: a page, report.html, and its figures, report.json. Where
    the simulator is installed, policies of graded skill act in both worlds (default: no report)."""
    policies: Positive = 20
    """Policies of graded skill in the report: the expert with more and more random actions."""
    episodes: Positive = 6
    """Episodes of each of these policies, and starts from which actions are optimised."""
    protocol: OptionalText = None
    """Evaluate as the paper does instead: bair, robonet, vp2 or metaworld. Many futures of every test video are
    sampled; PSNR, SSIM and LPIPS are those of the best, FVD is that of all. Writes a table (.md) and a plot (.png)
    beside the figures."""
    videos: Positive = 256
    """Test videos of a protocol."""
    samples: Positive = 100
    """Futures of each of them."""
    lpips: OptionalPath = None
    """Safetensors weights of LPIPS (keys: worldgym.metrics.lpips), for a protocol (default: not measured)."""
    i3d: OptionalPath = None
    """Weights of I3D (file: worldgym.metrics.i3d), for the FVD of a protocol (default: not measured)."""
    device: OptionalText = None
    """Such as cpu or cuda:1 (default: the GPU if there is one)."""

    def run(self) -> None:
        if self.protocol is not None:
            self._run_protocol(self.protocol)
            return
        from worldgym.reports.tables import horizon_table, task_table
        from worldgym.storage.files import atomic_json

        figures = self._measure()
        atomic_json(self.out, figures)
        if self.report is not None:
            self._write_report(self.report, figures)
        print(horizon_table(figures["by_task"]["all"]), task_table(figures["by_task"]), sep="\n\n")
        perplexity = figures["perplexity"]
        events = ", ".join(f"{name} {value:.2f}" for name, value in figures["events"].items())
        print(f"\n{events}" if events else "")
        print(f"perplexity: context {perplexity['context']:.0f}, dynamics {perplexity['dynamics']:.0f}\n{self.out}")
        for sentence in figures["cautions"]:
            print(f"worldgym: {sentence}", file=sys.stderr)

    def _run_protocol(self, name: str) -> None:
        from worldgym.data.recordings import Recordings
        from worldgym.devices import checked_device
        from worldgym.errors import ConfigError
        from worldgym.metrics.i3d import I3D
        from worldgym.metrics.lpips import LPIPS
        from worldgym.reports.protocol import find_protocol, run_protocol
        from worldgym.reports.protocol_files import protocol_table, write_protocol
        from worldgym.reports.provenance import provenance
        from worldgym.world_model import WorldModel

        protocol, device = find_protocol(name), checked_device(self.device)
        others = self.write_card, self.report is not None, self.shown is not None
        if self.horizon not in (Evaluate.horizon, protocol.horizon) or any(others):
            raise ConfigError(
                f"protocol: {name} predicts {protocol.horizon} frames from the context alone, and writes no card and "
                "no report: leave out --horizon, --shown, --write-card and --report"
            )
        lpips = None if self.lpips is None else LPIPS.from_file(self.lpips).to(device)
        i3d = None if self.i3d is None else I3D.from_file(self.i3d).to(device)
        model, recordings = WorldModel.from_pretrained(self.checkpoint, device=device), Recordings(self.data)
        _check_not_trained_on(model.config, recordings)
        figures = run_protocol(
            model,
            recordings,
            protocol,
            self.videos,
            self.samples,
            self.seed,
            lpips,
            None if i3d is None else i3d.features,
        )
        missing = {"lpips": "--lpips names no weights"} if lpips is None else {}
        if i3d is None:
            missing["fvd"] = "--i3d names no weights"
        figures = {**provenance(device), "protocol": name, "checkpoint": self.checkpoint, **figures, "missing": missing}
        files = write_protocol(self.out, figures, f"{self.checkpoint}: {name}")
        print(protocol_table(figures))
        for path in files:
            print(path)

    def _check_fits(self, config: "WorldModelConfig") -> None:
        """Raise ConfigError for a model that cannot be measured so."""
        from worldgym.errors import ConfigError

        if config.goal_conditioned:
            raise ConfigError(f"{self.checkpoint} takes a goal among its context frames, of which this is no measure")
        most = config.kept_frames if config.action_dim else 0
        if self.shown is not None and self.shown > most:
            raise ConfigError(
                f"shown: expected at most {most} frames, which the window of {self.checkpoint} keeps, got {self.shown}"
                if most
                else f"shown: {self.checkpoint} has no actions or no window that slides; leave --shown out"
            )

    def _write_report(self, folder: Path, figures: "Figures") -> None:
        from worldgym.errors import ConfigError, DependencyNotInstalled, RenderingError
        from worldgym.pretrained import locate
        from worldgym.reports.trust_page import render_page
        from worldgym.storage.files import atomic_json, atomic_write

        try:
            figures["trust"] = self._trust()
        except (ConfigError, DependencyNotInstalled, RenderingError) as error:
            figures["missing"] = f"Not measured: {error}"
        atomic_json(folder / "report.json", figures)
        with atomic_write(folder / "report.html") as temporary:
            temporary.write_text(render_page(locate(self.checkpoint).resolve().name, figures), encoding="utf-8")
        print(folder / "report.html")

    def _trust(self) -> "dict[str, Any]":
        """Policies in both worlds, and optimised actions, of every task."""
        import gymnasium as gym
        import numpy as np

        from worldgym.devices import checked_device
        from worldgym.envs.behaviours import mixed
        from worldgym.envs.registry import find_task
        from worldgym.errors import ConfigError
        from worldgym.pretrained import locate, read_config
        from worldgym.reports.trust import measure_optimism, rank_policies
        from worldgym.world_model import WorldModel

        device = str(checked_device(self.device))
        options: dict[str, Any] = {"checkpoint": self.checkpoint, "device": device, "max_episode_steps": -1}
        seeds, found = range(FIRST_SEED, FIRST_SEED + self.episodes), {}
        model = WorldModel.from_pretrained(self.checkpoint, device=device)
        for task in read_config(locate(self.checkpoint)).tasks:
            spec, name = find_task(task)
            simulator: Any = gym.make(spec.simulator_id, task=name)
            if not hasattr(simulator.unwrapped, "expert_action"):
                raise ConfigError(f"{spec.simulator_id} has no scripted expert, from which policies are graded")
            learned: Any = gym.make_vec("WorldModel-v0", self.episodes, task=task, **options)
            shares = np.linspace(0, 1, self.policies)
            policies = {f"expert, {share:.0%} random": mixed(float(share)) for share in shares}
            found[task] = {
                "ranking": rank_policies(learned, simulator, policies, seeds),
                "optimism": measure_optimism(model, simulator, seeds, CANDIDATES, OPTIMISED_STEPS),
            }
            learned.close()
            simulator.close()
        return found

    def _measure(self) -> "Figures":
        """The figures of a checkpoint and how they were measured; with ``write_card`` also written into it."""
        from worldgym.config import Sampling
        from worldgym.data.branches import sample_branches
        from worldgym.data.mixture import open_recordings
        from worldgym.data.recordings import sample_segments
        from worldgym.devices import checked_device
        from worldgym.pretrained import locate
        from worldgym.reports.card import write_figures
        from worldgym.reports.cautions import cautions
        from worldgym.reports.evaluation import evaluate, perplexities
        from worldgym.reports.events import event_figures
        from worldgym.reports.provenance import provenance
        from worldgym.world_model import WorldModel

        device = checked_device(self.device)
        model = WorldModel.from_pretrained(self.checkpoint, device=device)
        recordings, config = open_recordings(self.data), model.config
        self._check_fits(config)
        _check_not_trained_on(config, recordings)
        if "trained_on" not in config.training_data and self.write_card:
            raise CheckpointError(
                f"{self.checkpoint}: expected training data in config.json, as `worldgym export` writes it; found none"
            )
        drawn = self.starts, self.first_steps, self.seed
        if self.shown is None:
            segments = sample_segments(recordings, config.context_length + self.horizon, *drawn)
        else:
            segments = sample_branches(recordings, config.context_length, self.horizon, self.shown, *drawn)
        samplings = {"sampled": config.sampling, "greedy": Sampling(top_k=1)}
        figures: Figures = {
            **provenance(device),
            "horizon": self.horizon,
            "first_steps": self.first_steps,
            "shown": self.shown,
            "by_task": evaluate(model, segments, samplings, self.out.with_suffix(".gif"), self.seed),
            "perplexity": perplexities(model, segments),
            "events": event_figures(model, recordings, segments, self.horizon, self.seed),
        }
        figures["cautions"] = cautions(figures, config.layout.dynamics_codes)
        if self.write_card:
            write_figures(locate(self.checkpoint), config, figures)
        return figures


def _check_not_trained_on(config: "WorldModelConfig", recordings: "Recordings") -> None:
    from worldgym.data.summary import check_held_out, summaries

    for summary in summaries(config.training_data):
        check_held_out(summary, recordings)


def parse(arguments: Sequence[str]) -> Evaluate:
    """Parse the command's options."""
    return parse_options(Evaluate, arguments, "evaluate", EXAMPLE)

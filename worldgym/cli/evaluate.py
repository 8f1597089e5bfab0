"""``worldgym evaluate``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from worldgym.checkpoints import DEFAULT
from worldgym.cli.options import Natural, OptionalText, Positive, parse_options
from worldgym.errors import CheckpointError

if TYPE_CHECKING:
    from worldgym.reports.evaluation import Figures

EXAMPLE = "worldgym evaluate --checkpoint metaworld-64 --data data/held-out --out outputs/figures.json"


@dataclass(frozen=True)
class Evaluate:
    """Measure a world model on held-out episodes: imagined frames and rewards against the recorded ones, by horizon.

    The last context frame, repeated, is measured beside it.
    """

    data: Path
    """Folder of held-out episodes."""
    checkpoint: str = DEFAULT
    """A shipped name or a folder."""
    out: Path = Path("outputs/evaluate.json")
    """File of the figures; a GIF is written beside it."""
    horizon: Positive = 10
    """Frames imagined from each start."""
    starts: Positive = 5
    """Segments sampled from each episode."""
    first_steps: Positive = 60
    """Steps of an episode from which segments are sampled."""
    seed: Natural = 0
    """Chooses the segments and the sampled tokens."""
    write_card: bool = False
    """Write the figures into the checkpoint's config.json and README.md."""
    device: OptionalText = None
    """Such as cpu or cuda:1 (default: the GPU if there is one)."""

    def run(self) -> None:
        from worldgym.reports.tables import horizon_table, task_table
        from worldgym.storage.files import atomic_json

        figures = self._measure()
        atomic_json(self.out, figures)
        print(horizon_table(figures["by_task"]["all"]), task_table(figures["by_task"]), sep="\n\n")
        perplexity = figures["perplexity"]
        events = ", ".join(f"{name} {value:.2f}" for name, value in figures["events"].items())
        print(f"\n{events}" if events else "")
        print(f"perplexity: context {perplexity['context']:.0f}, dynamics {perplexity['dynamics']:.0f}\n{self.out}")

    def _measure(self) -> "Figures":
        """The figures of a checkpoint and how they were measured; with ``write_card`` also written into it."""
        from worldgym.config import Sampling
        from worldgym.data.recordings import Recordings, sample_segments
        from worldgym.data.summary import check_held_out, summaries
        from worldgym.devices import checked_device
        from worldgym.pretrained import locate
        from worldgym.reports.card import write_figures
        from worldgym.reports.evaluation import evaluate, perplexities
        from worldgym.reports.events import event_figures
        from worldgym.reports.provenance import provenance
        from worldgym.world_model import WorldModel

        device = checked_device(self.device)
        model = WorldModel.from_pretrained(self.checkpoint, device=device)
        recordings, config = Recordings(self.data), model.config
        for summary in summaries(config.training_data):
            check_held_out(summary, recordings)
        if "trained_on" not in config.training_data and self.write_card:
            raise CheckpointError(
                f"{self.checkpoint}: expected training data in config.json, as `worldgym export` writes it; found none"
            )
        length = config.context_length + self.horizon
        segments = sample_segments(recordings, length, self.starts, self.first_steps, self.seed)
        samplings = {"sampled": config.sampling, "greedy": Sampling(top_k=1)}
        figures = {
            **provenance(device),
            "horizon": self.horizon,
            "first_steps": self.first_steps,
            "by_task": evaluate(model, segments, samplings, self.out.with_suffix(".gif"), self.seed),
            "perplexity": perplexities(model, segments),
            "events": event_figures(model, recordings, segments, self.horizon, self.seed),
        }
        if self.write_card:
            write_figures(locate(self.checkpoint), config, figures)
        return figures


def parse(arguments: Sequence[str]) -> Evaluate:
    """Parse the command's options."""
    return parse_options(Evaluate, arguments, "evaluate", EXAMPLE)

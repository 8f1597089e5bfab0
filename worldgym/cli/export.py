"""``worldgym export``."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worldgym.cli.options import Positive, PositiveFloat, parse_options

EXAMPLE = (
    "worldgym export --tokenizer runs/tokenizer --transformer runs/transformer --held-out data/held-out "
    "--out checkpoints/mine"
)


@dataclass(frozen=True)
class Export:
    """Make a checkpoint from the runs of a tokenizer and a transformer, with start states for its environments."""

    tokenizer: Path
    """Folder of the tokenizer's run; or a checkpoint, by its folder or shipped name."""
    transformer: Path
    """Folder of the transformer's run; or a checkpoint whose tokenizer the other run adapted (--job.fixed-codes)."""
    held_out: Path
    """Folder of episodes whose frames become start states, or a mixture."""
    out: Path
    """Folder of the checkpoint."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature of its environments."""
    top_k: Positive = 100
    """Number of tokens that its environments sample from; 1 is greedy."""

    def run(self) -> None:
        from worldgym.config import Sampling
        from worldgym.data.mixture import open_recordings
        from worldgym.data.start_states import build_start_states
        from worldgym.pretrained import START_STATES
        from worldgym.reports.card import size
        from worldgym.training.export import export
        from worldgym.training.trained import check_finished, load_tokenizer_run

        check_finished(self.tokenizer)
        context_length = load_tokenizer_run(self.tokenizer).config.context_length
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{self.out.name}.", dir=self.out.parent) as temporary:
            # First whatever can fail, so that nothing of the checkpoint is written then.
            bank = build_start_states(self.held_out, Path(temporary), context_length)
            sampling = Sampling(self.temperature, self.top_k)
            export(self.tokenizer, self.transformer, open_recordings(self.held_out), self.out, sampling)
            (self.out / START_STATES).mkdir(exist_ok=True)
            for path in bank:
                path.replace(self.out / START_STATES / path.name)
        print(f"{self.out}: {size(self.out) / 1e6:.1f} MB; next: worldgym evaluate --checkpoint {self.out} --help")


def parse(arguments: Sequence[str]) -> Export:
    """Parse the command's options."""
    return parse_options(Export, arguments, "export", EXAMPLE)

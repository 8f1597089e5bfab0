"""``worldgym demo``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from worldgym.checkpoints import DEFAULT
from worldgym.cli.options import Natural, OptionalText, Positive, Texts, parse_options

if TYPE_CHECKING:
    from worldgym.data.start_states import StartStates
    from worldgym.reports.demo import RecordedClip

EXAMPLE = "worldgym demo --steps 40 --out outputs/demo"


@dataclass(frozen=True)
class Demo:
    """Imagine recorded episodes and show real and imagined frames side by side. Needs no simulator.

    Writes a video, a GIF, a sheet of frames and a plot of the rewards.
    """

    checkpoint: str = DEFAULT
    """A shipped name, or a folder with start states."""
    task: Texts = ()
    """Tasks to show (default: all of the checkpoint)."""
    steps: Positive = 40
    """Steps to imagine."""
    out: Path = Path("outputs/demo")
    """Folder of the video and pictures."""
    seed: Natural = 0
    """Chooses the start states and the sampled tokens."""
    device: OptionalText = None
    """Such as cpu or cuda:1 (default: the GPU if there is one)."""

    def run(self) -> None:
        from worldgym.data.start_states import StartStates
        from worldgym.devices import checked_device
        from worldgym.pretrained import START_STATES, locate
        from worldgym.reports.demo import imagine_clips, truncate_to_shortest, write_demo
        from worldgym.reports.provenance import machine
        from worldgym.world_model import WorldModel

        device = checked_device(self.device)
        starts = StartStates(locate(self.checkpoint) / START_STATES)
        model = WorldModel.from_pretrained(self.checkpoint, device=device)
        clips = truncate_to_shortest(self._clips(starts, model.config.context_length), self.steps)
        imagined = imagine_clips(model, clips, self.seed)
        for path in write_demo(clips, imagined, self.out):
            print(path)
        speed = f"{imagined.steps_per_second:.0f} imagined steps a second"
        print(f"{speed} in a batch of {len(clips)} on {machine(device)}")

    def _clips(self, starts: "StartStates", context_length: int) -> "list[RecordedClip]":
        """One episode of each task from its first frame on, as learned environments begin, or from an early frame."""
        import numpy as np

        from worldgym.reports.demo import RecordedClip

        rng, clips = np.random.default_rng(self.seed), []
        for task in self.task or starts.tasks:
            begins = np.flatnonzero(starts.first_frames(task) == 0)
            if len(begins):
                start = starts.get(task, int(begins[rng.integers(len(begins))]), 1)
                context = np.repeat(start.frames, context_length, axis=0)
            else:
                start = starts.get(task, int(rng.integers(starts.count(task))), context_length)
                context = start.frames
            clips.append(RecordedClip(task, context, start.future_frames, start.actions, start.rewards))
        return clips


def parse(arguments: Sequence[str]) -> Demo:
    """Parse the command's options."""
    return parse_options(Demo, arguments, "demo", EXAMPLE)

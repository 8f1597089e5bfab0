"""``worldgym predict``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldgym.checkpoints import DEFAULT
from worldgym.cli.options import (
    Natural,
    OptionalPositive,
    OptionalPositiveFloat,
    OptionalText,
    Positive,
    parse_options,
)

if TYPE_CHECKING:
    from worldgym.config import WorldModelConfig
    from worldgym.data.clips import Clip, Cut

EXAMPLE = "worldgym predict --checkpoint thuml/ivideogpt-oxe-64-act-free --input clip.npz --out outputs/clip"


@dataclass(frozen=True)
class Predict:
    """Imagine how a recording goes on, several times, and show it beside what was recorded.

    Takes action-free, action-conditioned and goal-conditioned models. Writes prediction.mp4, prediction.gif, sheet.png
    (a row of recorded frames above the imagined ones, with their PSNR) and figures.json. The first frames, as many as
    the checkpoint's context, are given to the model; for a goal-conditioned one also the frame after the last that is
    imagined. Frames of another size are resized: each pixel is the mean of the area that it covers.
    """

    input: Path
    """An npz file, a video, an episode of ours, or a file or folder that `worldgym convert` reads."""
    out: Path
    """Folder of the results."""
    checkpoint: str = DEFAULT
    """A shipped name, a folder, or a Hugging Face Hub id."""
    dataset_name: OptionalText = None
    """A data set of the paper, such as bridge or bair_robot_pushing, whose step size and camera are taken."""
    image_key: OptionalText = None
    """The camera, where there are several (default: that of the data set, or the only one)."""
    step_size: OptionalPositive = None
    """Take one in so many frames (default: that of the data set, or 1)."""
    episode: Natural = 0
    """Which episode, where there are several."""
    start: Natural = 0
    """Index of the first context frame."""
    horizon: OptionalPositive = None
    """Frames to imagine (default: as many as were recorded, up to 16 with the context)."""
    samples: Positive = 5
    """Imagined futures."""
    temperature: OptionalPositiveFloat = None
    """Of sampling tokens (default: the checkpoint's)."""
    top_k: OptionalPositive = None
    """Of sampling tokens; 1 is greedy (default: the checkpoint's)."""
    seed: Natural = 0
    """Of the sampled tokens."""
    hide_context: bool = False
    """Write hidden_context.png too: the recorded frames, decoded without the view of the context."""
    device: OptionalText = None
    """Such as cpu or cuda:1 (default: the GPU if there is one)."""

    def run(self) -> None:
        from worldgym.config import Sampling
        from worldgym.data.clips import read_clip
        from worldgym.devices import checked_device
        from worldgym.reports.prediction import predict, prediction_figures, write_hidden_context, write_prediction
        from worldgym.reports.provenance import provenance
        from worldgym.world_model import WorldModel

        device, cut = checked_device(self.device), self._cut()
        model = WorldModel.from_pretrained(self.checkpoint, device=device)
        clip = read_clip(self.input, cut, model.config)
        self._report_size(clip, model.config)
        if self.hide_context:  # first, because it fails for other tokenizers
            write_hidden_context(self.out / "hidden_context.png", model, clip)
        default = model.config.sampling
        sampling = Sampling(self.temperature or default.temperature, self.top_k or default.top_k)
        imagined = predict(model, clip, self.samples, sampling, self.seed)
        figures: dict[str, Any] = {
            **provenance(device),
            "checkpoint": self.checkpoint,
            "input": str(self.input),
            "step_size": cut.step_size,
            "start": cut.start,
            "context_length": model.config.context_length,
            "horizon": len(clip.future),
            "samples": self.samples,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "seed": self.seed,
            **prediction_figures(clip, imagined),
        }
        for path in write_prediction(self.out, clip, imagined, figures, model.config.goal_conditioned):
            print(path)
        ratios = {name: sum(values) / len(values) for name, values in figures["psnr"].items()}
        print(
            f"PSNR over {len(clip.future)} frames: mean of {self.samples} samples {ratios['mean']:.1f}, best "
            f"{ratios['best']:.1f}, last context frame repeated {ratios['last_frame']:.1f}"
        )

    def _cut(self) -> "Cut":
        from worldgym.data.clips import Cut
        from worldgym.data.convert.open_x_embodiment import find_set

        known = None if self.dataset_name is None else find_set(self.dataset_name)
        step_size, image_key = (known.step_size, known.image_key) if known else (1, None)
        return Cut(self.episode, self.start, self.step_size or step_size, self.horizon, self.image_key or image_key)

    def _report_size(self, clip: "Clip", config: "WorldModelConfig") -> None:
        if clip.size != (config.resolution, config.resolution):
            print(
                f"worldgym: frames of {clip.size[0]} x {clip.size[1]} pixels were resized by area to "
                f"{config.resolution} x {config.resolution}, the resolution of the model",
                file=sys.stderr,
            )


def parse(arguments: Sequence[str]) -> Predict:
    """Parse the command's options."""
    return parse_options(Predict, arguments, "predict", EXAMPLE)

r"""The paper's study of scaling (section 4.4, figure 9b): how fast does the held-out loss of larger transformers fall?

    python tests/benchmarks/study_scaling.py
    python tests/benchmarks/study_scaling.py --data oxe.json --held-out oxe-held-out.json --out outputs/oxe \
        --initial thuml/ivideogpt-oxe-64-act-free --recipe oxe-64-act-free --sizes 12x768 24x1024

Transformers of --sizes are trained from new weights on the codes of one tokenizer, that of --initial, alike but for
their size. The loss is the cross-entropy of the codes of held-out frames, in nats a code. Compute is 6 x weights x
tokens (Kaplan et al., 2020), without the embedding of tokens, which is looked up. Writes scaling.png (loss against
updates and against compute) and scaling.json; runs are in the folder scaling.
"""

import argparse
import dataclasses
import re
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from studies import Study, open_study, report_errors, study_parser
from tqdm import tqdm

from worldgym.config import TransformerConfig
from worldgym.data.mixture import open_recordings
from worldgym.reports.tables import table
from worldgym.runs.log import read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "scaling"
VALIDATIONS = 15  # points of a curve
LOSS = "validation/cross_entropy"


def size(text: str) -> tuple[int, int]:
    """Layers and hidden size, as ``12x768``."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"expected layers x hidden size, such as 12x768, got {text!r}")
    return int(found[1]), int(found[2])


def resized(model: TransformerConfig, layers: int, hidden: int) -> TransformerConfig:
    """A transformer with heads of the same width, and feed-forward layers of the same share."""
    return dataclasses.replace(
        model,
        layers=layers,
        hidden_size=hidden,
        heads=max(1, hidden // model.head_dim),
        key_value_heads=None,
        mlp_size=hidden * model.mlp_size // model.hidden_size,
    )


def curve(study: Study, layers: int, hidden: int) -> dict[str, Any]:
    """Train a transformer; its held-out loss by updates and by compute."""
    part = study.recipe.transformer
    every = max(1, part.training.steps // VALIDATIONS)
    part = dataclasses.replace(
        part,
        model=resized(part.model, layers, hidden),
        job=dataclasses.replace(part.job, head_batches=1),
        training=dataclasses.replace(part.training, validate_every=every),
    )
    folder = study.out / NAME / f"{layers}x{hidden}"
    tqdm.write(f"{layers} layers of {hidden}", sys.stderr)
    run = study.train_transformer(folder, study.initial, open_recordings(study.data), None, part)
    model = study.load(study.initial, run)
    parameters = {name: weight.numel() for name, weight in model.transformer.named_parameters()}
    computed = sum(count for name, count in parameters.items() if "embed_tokens" not in name)
    tokens = part.training.batch_size * model.config.layout.length(
        part.job.segment_length - model.config.context_length
    )
    points = [(line["step"], line[LOSS]) for line in read_metrics(run) if LOSS in line]
    return {
        "layers": layers,
        "hidden size": hidden,
        "parameters": sum(parameters.values()),
        "tokens an update": tokens,
        "updates": [step for step, _ in points],
        "flop": [6 * computed * tokens * step for step, _ in points],
        "cross-entropy": [loss for _, loss in points],
    }


def plot(curves: dict[str, dict[str, Any]]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key, label in zip(panels, ("updates", "flop"), ("updates", "compute (FLOP)"), strict=True):
        for name, found in curves.items():
            axes.plot(
                found[key], found["cross-entropy"], ".-", label=f"{name}: {found['parameters'] / 1e6:.3g}M weights"
            )
        axes.set_xlabel(label)
    panels[0].set_ylabel("held-out cross-entropy (nats a code)")
    panels[1].set_xscale("log")
    panels[0].legend(fontsize=8)
    return figure


def at_equal_compute(curves: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The losses at the largest compute that all reached, between two validations by interpolation."""
    compute = min(found["flop"][-1] for found in curves.values())
    return {
        name: float(np.interp(np.log(compute), np.log(found["flop"]), found["cross-entropy"]))
        for name, found in curves.items()
    }


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--sizes", type=size, nargs="+", default=[(2, 64), (4, 128)], metavar="LAYERSxHIDDEN",
                        help="transformers to train (default: 2x64 4x128)")  # fmt: skip
    study = open_study(parser, new_look=False, checkpoint=False)
    curves = {f"{layers}x{hidden}": curve(study, layers, hidden) for layers, hidden in study.options.sizes}
    equal = at_equal_compute(curves)
    rows = [
        [
            name,
            f"{found['parameters'] / 1e6:.3g}",
            f"{found['flop'][-1]:.2g}",
            f"{found['cross-entropy'][-1]:.3f}",
            f"{equal[name]:.3f}",
        ]
        for name, found in curves.items()
    ]
    print(table(["layers x hidden", "weights (M)", "compute (FLOP)", "last loss", "loss at equal compute"], rows))
    study.write(NAME, plot(curves), {"models": curves, "cross-entropy at equal compute": equal})


if __name__ == "__main__":
    report_errors(main)

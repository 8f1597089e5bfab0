r"""The paper's study of zero-shot prediction (section 4.4, figure 8): is a new tokenizer enough for a new look?

    python tests/benchmarks/study_zero_shot.py
    python tests/benchmarks/study_zero_shot.py --data data/bair --held-out data/bair-test --out outputs/bair \
        --initial thuml/ivideogpt-oxe-64-act-free --recipe bair-64-act-free

Three world models imagine the same held-out segments: the checkpoint --initial as it is; with its tokenizer adapted to
--data, its codebooks and its transformer left as they are; and with both parts fine-tuned on --data. Writes
zero-shot.png (PSNR by horizon; dashed: what each tokenizer alone reaches), zero-shot.json, and a GIF of each model;
runs are in the folder zero-shot.
"""

from typing import TYPE_CHECKING, Any

from studies import measured, open_study, pooled, report_errors, study_parser

from worldgym.data.mixture import open_recordings
from worldgym.reports.tables import number, table
from worldgym.storage.tensors import digest
from worldgym.world_model import WorldModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "zero-shot"
COLOURS = {"unchanged": "tab:blue", "tokenizer adapted": "tab:orange", "fine-tuned": "tab:green"}


def plot(models: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, colour in COLOURS.items():
        figures = models[name]["figures"]
        horizons = range(1, len(figures["greedy"]["psnr"]) + 1)
        axes.plot(horizons, figures["greedy"]["psnr"], color=colour, label=name)
        axes.plot(horizons, figures["reconstruction"]["psnr"], "--", color=colour, linewidth=1)
    axes.plot(horizons, figures["last_frame"]["psnr"], ":", color="gray", label="last frame repeated")
    axes.set_xlabel("horizon (frames)")
    axes.set_ylabel("PSNR of imagined frames (dB)")
    axes.legend(fontsize=8)
    return figure


def main() -> None:
    study = open_study(study_parser(__doc__), new_look=True).with_sizes_of_checkpoint()
    data, segments, folder = open_recordings(study.data), study.segments(), study.out / NAME
    models: dict[str, Any] = {}

    def add(name: str, model: WorldModel) -> None:
        figures = measured(model, segments, folder / f"{name.replace(' ', '-')}.gif")
        models[name] = {
            "psnr": pooled(figures["greedy"]["psnr"]),
            "psnr of the tokenizer alone": pooled(figures["reconstruction"]["psnr"]),
            "transformer": digest(model.transformer.state_dict()),
            "figures": figures,
        }

    folder.mkdir(parents=True, exist_ok=True)
    add("unchanged", WorldModel.from_pretrained(study.initial).to(study.device))
    adapted = study.train_tokenizer(folder / "adapted-tokenizer", data, study.initial, fixed_codes=True)
    add("tokenizer adapted", study.load(adapted, study.initial))
    add("fine-tuned", study.train(folder / "fine-tuned", data, study.initial))
    last = pooled(models["unchanged"]["figures"]["last_frame"]["psnr"])
    values = ("psnr", "psnr of the tokenizer alone")
    rows = [[name, *(number(model[value], ".2f") for value in values)] for name, model in models.items()]
    print(table(["model", "PSNR (dB)", "tokenizer alone (dB)"], [*rows, ["last frame repeated", f"{last:.2f}", ""]]))
    study.write(NAME, plot(models), {"models": models, "last frame repeated": last})


if __name__ == "__main__":
    report_errors(main)

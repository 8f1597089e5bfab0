"""The paper's study of tokenizers (figure 9c, appendix B.5): frames alone as 4x4 or 16x16 codes, or compressed.

Run it: ``python tests/benchmarks/bench_tokenizers.py --data data/train --held-out data/held-out --out outputs/study``.

Each tokenizer is trained alike, for ``--steps`` updates; then the reconstruction of held-out clips, and time and memory
of one update of a transformer on its codes and of one imagined clip are measured. The networks are small enough for a
CPU: ``--channels 128 256 512 --codes 8192 --layers 12 --hidden-size 768`` are the paper's. Writes a table (.md), a plot
(.png) and figures (.json).
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measuring import Rounds, peak_growth
from torch import Tensor
from tqdm import trange

from worldgym.config import (
    CompressiveTokenizerConfig,
    IndependentTokenizerConfig,
    TokenizerConfig,
    TransformerConfig,
    WorldModelConfig,
)
from worldgym.data.recordings import Recordings, to_unit, validation_segments
from worldgym.metrics.pixels import psnr, squared_error
from worldgym.reports.provenance import provenance
from worldgym.reports.tables import number, table
from worldgym.storage.files import atomic_json, atomic_write
from worldgym.tokenizer import build_tokenizer
from worldgym.tokenizer.base import Tokenizer
from worldgym.training.tokenizer import TokenizerTrainer, TokenizerTrainingConfig
from worldgym.transformer.transformer import Transformer
from worldgym.world_model import WorldModel
from worldgym.world_model.images import encode_contexts

CONTEXT, FUTURE = 2, 10
COLUMNS = {
    "tokens a frame": "tokens a frame",
    "parameters": "parameters (M)",
    "psnr": "PSNR (dB)",
    "tokenizer seconds an update": "tokenizer update (s)",
    "transformer seconds an update": "transformer update (s)",
    "transformer update memory": "transformer update memory (MB)",
    "tokenize": "tokenize (s)",
    "generate": "generate (s)",
    "detokenize": "detokenize (s)",
    "generation memory": "generation memory (MB)",
}
SPECS = {"tokens a frame": ".0f", "psnr": ".2f"}


def tokenizers(options: argparse.Namespace) -> dict[str, TokenizerConfig]:
    shared: dict[str, Any] = {"channels": tuple(options.channels), "layers_per_block": options.blocks}
    shared |= {"latent_channels": options.latent_channels, "context_length": CONTEXT}
    return {
        "independent 4x4": IndependentTokenizerConfig(**shared, codes=options.codes, grid=4),
        "independent 16x16": IndependentTokenizerConfig(**shared, codes=options.codes, grid=16),
        "compressive": CompressiveTokenizerConfig(**shared, context_codes=options.codes, dynamics_codes=options.codes),
    }


def train(
    config: TokenizerConfig, data: Recordings, held_out: Recordings, options: argparse.Namespace, name: str
) -> tuple[Tokenizer, float]:
    """A tokenizer after some updates, and the seconds of the median one."""
    torch.manual_seed(0)
    model = build_tokenizer(config).to(options.device).train()
    clips = TokenizerTrainingConfig(segment_length=CONTEXT + FUTURE, future_frames=4)
    trainer = TokenizerTrainer(model, clips, options.batch, data, held_out)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], options.rate)
    times = []
    for step in trange(options.steps, desc=name, unit="update"):
        begin = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = options.rate * min(1.0, (step + 1) / 50)
        loss, _ = trainer.loss(np.random.default_rng([0, step]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        trainer.after_update()
        times.append(time.perf_counter() - begin)
    return model.eval(), float(np.median(times))


@torch.no_grad()
def reconstruction(model: Tokenizer, clips: Tensor) -> float:
    """PSNR of the pooled error of the future frames of clips uint8 ``[N, L, H, W, 3]``."""
    errors = []
    for chunk in clips.split(8):
        real = to_unit(chunk.to(next(model.parameters()).device))
        errors.append(squared_error(model(real).future.clamp(0, 1), real[:, CONTEXT:]).cpu())
    return psnr(float(torch.cat(errors).mean()))


def measure(
    name: str, config: TokenizerConfig, clips: Tensor, tokenizer: Tokenizer, options: argparse.Namespace
) -> Any:
    """Time and memory of a transformer on these codes: one update, and one clip that is imagined."""
    layout, device = config.layout, torch.device(options.device)
    sizes = TransformerConfig(
        layers=options.layers,
        heads=options.hidden_size // 64,
        hidden_size=options.hidden_size,
        mlp_size=4 * options.hidden_size,
        max_positions=layout.length(FUTURE),
    )
    whole = WorldModelConfig(tokenizer.config, sizes)  # type: ignore[arg-type]
    transformer = Transformer.build(whole).to(device)
    tokens = torch.randint(layout.dynamics_codes, (1, layout.length(FUTURE)), device=device)

    def update() -> None:
        logits = layout.code_logits(transformer(tokens, logits_from=layout.prefix_length).logits)
        targets = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=device)
        F.cross_entropy(logits.flatten(0, 2).float(), targets.flatten()).backward()
        transformer.zero_grad()

    _, update_memory = peak_growth(update, device)
    training = Rounds({"update": update}, options.seconds, device)
    model = WorldModel(whole, tokenizer, transformer)
    context, frames = clips[:1, :CONTEXT].to(device), to_unit(clips[:1].to(device))

    @torch.no_grad()
    def tokenize() -> None:
        _, features = encode_contexts(tokenizer, context, model.dtype)
        tokenizer.encode_future(frames[:, CONTEXT:], features)

    def generate() -> Tensor:
        return model.rollout(context, horizon=FUTURE, decode=False).tokens

    codes, generation_memory = peak_growth(generate, device)
    jobs = {"tokenize": tokenize, "generate": generate, "detokenize": lambda: model.decode(context, codes)}
    rounds = Rounds(jobs, options.seconds, device)
    return {
        "tokens a frame": layout.tokens_per_frame,
        "parameters": sum(weight.numel() for weight in tokenizer.parameters()) / 1e6,
        "transformer seconds an update": training.seconds("update"),
        "transformer update memory": None if update_memory is None else update_memory / 1e6,
        **{job: rounds.seconds(job) for job in jobs},
        "generation memory": None if generation_memory is None else generation_memory / 1e6,
    }


def plot(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.2), dpi=110, layout="constrained")
    shown = ("psnr", "transformer seconds an update", "generate", "transformer update memory")
    names = [f"{name}\n({row['tokens a frame']} tokens)" for name, row in rows.items()]
    for axes, key in zip(figure.subplots(1, len(shown)), shown, strict=True):
        bars = axes.bar(names, [row[key] or 0 for row in rows.values()], color=["tab:blue", "tab:green", "tab:orange"])
        axes.bar_label(bars, fmt="%.3g", fontsize=7)
        axes.set_title(COLUMNS[key], fontsize=9)
        axes.tick_params(labelsize=6.5)
        if key == "psnr":
            axes.set_ylim(min(row[key] for row in rows.values()) - 3)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--data", "--held-out", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 32, 64])
    defaults = {"steps": 300, "batch": 4, "blocks": 1, "codes": 512, "latent-channels": 16, "layers": 4}
    for name, value in {**defaults, "hidden-size": 128}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seconds", type=float, default=6.0, help="spent on each timing")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    data, held_out = Recordings(options.data), Recordings(options.held_out)
    clips = validation_segments(held_out, CONTEXT + FUTURE, (10,)).batch.frames
    rows = {}
    for name, config in tokenizers(options).items():
        tokenizer, seconds = train(config, data, held_out, options, name)
        quality = {"psnr": reconstruction(tokenizer, clips), "tokenizer seconds an update": seconds}
        rows[name] = {**quality, **measure(name, config, clips, tokenizer, options)}
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    facts = {**provenance(torch.device(options.device)), "settings": settings, "tokenizers": rows}
    lines = [[name, *(number(row[key], SPECS.get(key, ".3g")) for key in COLUMNS)] for name, row in rows.items()]
    text = table(["tokenizer", *COLUMNS.values()], lines)
    atomic_json(options.out / "tokenizers.json", facts)
    with atomic_write(options.out / "tokenizers.md") as temporary:
        temporary.write_text(
            f"# Tokenizers\n\nOne clip of {CONTEXT} context and {FUTURE} future frames, {facts['machine']}, "
            f"{options.steps} updates of {options.batch} clips.\n\n{text}\n"
        )
    plot(options.out / "tokenizers.png", rows)
    print(text)


if __name__ == "__main__":
    main()

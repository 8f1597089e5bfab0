"""How fast the models imagine, beside what else could be done: all columns from one run on one machine.

For each model, precision and batch: imagined steps a second of ``WorldModel.step``; the same through a loop that reads
its past anew for every frame, as the reference does (rereading.py); what the machine could do at best (roofline.py);
memory. Below that whole environments, and the real Meta-World simulator with rendering.

Both loops are timed at the middle of the position window, where a step costs what it does on average over the window:
what it costs depends on how long the past is, not on what it says. Environments run on from reset to reset, so that
their figures include the encoding of new starts. All that is compared is timed in turn, round by round, and the best
call counts, which other jobs on the machine disturb least; ratios are the median of the rounds'.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from measuring import Job, Rounds, peak_growth
from report import Row, megabytes, page, provided, rate
from rereading import RereadingLoop
from roofline import Ceilings, Work, decoder_work, transformer_work
from torch import Tensor

from worldgym import WorldModel
from worldgym.config import CompressiveTokenizerConfig, TransformerConfig, WorldModelConfig
from worldgym.devices import checked_device, free_memory
from worldgym.errors import ConfigError, DependencyNotInstalled, RenderingError
from worldgym.storage.files import atomic_json, atomic_write
from worldgym.tokenizer import build_tokenizer
from worldgym.transformer.decoding.frame import imagine_frame
from worldgym.transformer.transformer import Transformer

CHECKPOINT = "metaworld-64"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
GPU_BATCHES = [1, 8, 16, 32, 64, 128, 256]
BATCHES = {
    ("cpu", "shipped"): [1, 8, 16, 32, 128],
    ("cpu", "paper"): [1, 8, 32],
    ("cuda", "shipped"): GPU_BATCHES,
    ("cuda", "paper"): GPU_BATCHES,
}
REREAD_BATCHES = (1, 16)
REREAD_AIMS = {1: 10, 16: 20}
ROOFLINE_AIM, ROOFLINE_FROM = 2.0, 32  # times the roofline's time, from this batch on
CPU_ENV_AIMS = {1: 30, 32: 200}  # steps a second
CUDA_AIMS = {1: 100, 64: 2000, 256: 5000}  # of the paper's model in bfloat16


@dataclass
class Cell:
    """One model, precision and batch, timed in seconds a step of all rows; None where it was not tried."""

    model: str
    dtype: str
    batch: int
    step: float
    spread: float
    """The median step over the best one."""
    codes: float
    """The transformer's part of the step; the rest is decoding."""
    reread: float | None
    reread_ratio: float | None
    work: tuple[Work, Work]
    """Of transformer and decoder."""
    weights: int
    """Bytes, like the following."""
    estimate: int
    peak: int | None
    reread_peak: int | None
    bounds: tuple[float, float] = (0.0, 0.0)
    """What the two parts take at the least."""

    def row(self) -> Row:
        """For the table, in rates and MB."""
        decoding = self.step - self.codes
        return {
            "model": self.model,
            "dtype": self.dtype,
            "batch": str(self.batch),
            "steps/s": rate(self.batch / self.step),
            "spread": f"{self.spread:.2f}",
            "re-reading": "" if self.reread is None else rate(self.batch / self.reread),
            "times": "" if self.reread_ratio is None else f"{self.reread_ratio:.1f}",
            "roofline": rate(self.batch / sum(self.bounds)),
            "of roofline": f"{self.step / sum(self.bounds):.1f}x",
            "codes ms": f"{1000 * self.codes:.1f} ({self.codes / self.bounds[0]:.1f}x)",
            "pixels ms": f"{1000 * decoding:.1f} ({decoding / self.bounds[1]:.1f}x)",
            "weights MB": megabytes(self.weights),
            "memory()": megabytes(self.estimate),
            "peak": megabytes(self.peak),
            "re-reading peak": megabytes(self.reread_peak),
        }


def build(name: str, device: torch.device, dtype: str) -> WorldModel:
    """The shipped checkpoint, or the paper's architecture with random weights."""
    if name == "shipped":
        return WorldModel.from_pretrained(CHECKPOINT, device, dtype)
    torch.manual_seed(0)
    tokenizer, transformer = CompressiveTokenizerConfig(), TransformerConfig()
    config = WorldModelConfig(tokenizer, transformer, action_dim=4, reward=True)
    parts = build_tokenizer(tokenizer), Transformer.build(config)
    return WorldModel(config, *parts).to(device, DTYPES[dtype])


class Middle:
    """A batch in the middle of its position window, where every step begins anew."""

    def __init__(self, model: WorldModel, batch: int) -> None:
        layout, side = model.layout, model.config.resolution
        shape = (batch, model.config.context_length, side, side, 3)
        self.model = model
        self.state = model.start(torch.randint(256, shape, dtype=torch.uint8))
        self.frames = layout.horizon(model.config.transformer.max_positions) // 2
        self.past = layout.length(self.frames)
        self.action = torch.rand(batch, model.config.action_dim) * 2 - 1
        self.noise = torch.rand(batch, layout.tokens_per_frame).to(model.device)

    def stepped(self) -> "Middle":
        """Itself after one step."""
        self.state.cache.set_filled(self.past)
        self.model.step(self.state, self.action)
        return self

    def codes(self) -> None:
        """What the transformer has to do for that."""
        self.state.cache.set_filled(self.past)
        imagine_frame(self.model.transformer, self.state.cache, self._placed_action(), self.noise)

    def rereading(self, loop: RereadingLoop) -> Job:
        """The same step there, its past embedded beforehand."""
        layout, batch = self.model.layout, len(self.state)
        shape = batch, layout.context_length, layout.tokens_per_context_frame
        context = torch.randint(layout.context_codes, shape, device=self.model.device)
        codes = torch.randint(layout.dynamics_codes, (batch, self.frames, layout.tokens_per_frame))
        action = self._placed_action()
        past = loop.past(context, codes.to(self.model.device), action[:, None].expand(-1, self.frames, -1))
        return lambda: loop.frame(past, self.state.features, action, action)

    def _placed_action(self) -> Tensor:
        return self.action.to(self.model.device, self.model.dtype)


def cells(name: str, dtype: str, ceilings: Ceilings, options: argparse.Namespace) -> list[Cell]:
    """All batches of one model in one precision that fit memory."""
    model, measured = build(name, options.device, dtype), []
    loop = RereadingLoop(model)
    if dtype == "float32":
        loop.check()
    for batch in options.batches or BATCHES[options.device.type, name]:
        needed, free = model.memory(batch), free_memory(options.device)
        if free is not None and needed > free:
            print(f"{name} {dtype} {batch}: left out, {megabytes(free)} MB fit {model.largest_batch(free)}")
            continue
        cell = _cell(name, dtype, model, loop, batch, options)
        ceilings.measure([DTYPES[dtype]], {part.working_set for part in cell.work})
        print(f"{name} {dtype} {batch}: {rate(batch / cell.step)} steps a second", flush=True)
        measured.append(cell)
    return measured


def _cell(
    name: str, dtype: str, model: WorldModel, loop: RereadingLoop, batch: int, options: argparse.Namespace
) -> Cell:
    middle, peak = peak_growth(lambda: Middle(model, batch).stepped(), options.device)
    jobs: dict[str, Job] = {"step": middle.stepped, "codes": middle.codes}
    reread, reread_peak = batch in REREAD_BATCHES, None
    if reread:
        jobs["reread"] = middle.rereading(loop)
        reread_peak = peak_growth(jobs["reread"], options.device)[1]
    rounds = Rounds(jobs, options.seconds, options.device)
    return Cell(
        model=name,
        dtype=dtype,
        batch=batch,
        step=rounds.seconds("step"),
        spread=rounds.spread("step"),
        codes=rounds.seconds("codes"),
        reread=rounds.seconds("reread") if reread else None,
        reread_ratio=rounds.ratio("reread", "step") if reread else None,
        work=(transformer_work(model, batch, middle.past), decoder_work(model, batch, middle.state.features)),
        weights=sum(each.nbytes for part in (model.tokenizer, model.transformer) for each in part.parameters()),
        estimate=model.memory(batch),
        peak=peak,
        reread_peak=reread_peak,
    )


class Steps:
    """Some random steps of an environment in a row, with the resets that fall due."""

    def __init__(self, name: str, env: gym.Env[Any, Any] | gym.vector.VectorEnv, count: int) -> None:
        self.name, self.env, self.count = name, env, count
        self.slots = getattr(env, "num_envs", 1)
        env.reset(seed=0)
        env.action_space.seed(0)

    def __call__(self) -> None:
        for _ in range(self.count):
            ended = self.env.step(self.env.action_space.sample())[3]
            if self.slots == 1 and ended:
                self.env.reset()


def environments(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Steps a second of learned environments and of the simulator in both looks, in turn."""
    jobs = [job for dtype in options.dtypes for job in _learned(dtype, options.device)]
    try:
        for look in ("fast", "reference"):
            simulator = gym.make("Simulator-MetaWorld-v0", task="hammer", look=look)
            jobs.append(Steps(f"Simulator-MetaWorld-v0 look={look}", simulator, 10))
    except (DependencyNotInstalled, RenderingError) as error:
        print(f"without the simulator: {error}")
    rounds = Rounds({str(index): job for index, job in enumerate(jobs)}, options.seconds, options.device)
    rows = []
    for index, job in enumerate(jobs):
        speed = job.slots * job.count / rounds.seconds(str(index))
        rows.append(
            {"environment": job.name, "slots": job.slots, "steps/s": speed, "spread": rounds.spread(str(index))}
        )
        job.env.close()
    return rows


def _learned(dtype: str, device: torch.device) -> list[Steps]:
    """One environment and 32 slots of the shipped checkpoint; a call starts anew once, as one in a window does."""
    about = {"checkpoint": CHECKPOINT, "device": device, "dtype": dtype}
    single = gym.make("WorldModel-MetaWorld-v0", task="hammer", **about)
    many = gym.make_vec("WorldModel-MetaWorld-v0", num_envs=32, **about)
    model = single.unwrapped.world_model
    window = model.layout.horizon(model.config.transformer.max_positions)
    return [Steps(f"WorldModel-MetaWorld-v0 {dtype}", env, window) for env in (single, many)]


def aims(measured: Sequence[Cell], envs: Sequence[Mapping[str, Any]], device: torch.device) -> list[Row]:
    """What the figures are held against, and whether they reach it."""
    rows: list[Row] = []

    def add(what: str, reached: float, aim: float, met: bool) -> None:
        rows.append({"aim": what, "asked": f"{aim:g}", "reached": rate(reached), "met": "yes" if met else "NO"})

    for cell in measured:
        where = f"{cell.model} {cell.dtype}, batch {cell.batch}"
        speed, bound = cell.batch / cell.step, cell.step / sum(cell.bounds)
        if cell.model == "shipped" and cell.reread_ratio is not None:
            asked = REREAD_AIMS[cell.batch]
            add(f"{where}: times the re-reading loop", cell.reread_ratio, asked, cell.reread_ratio >= asked)
        if cell.batch >= ROOFLINE_FROM:
            add(f"{where}: times the roofline's time, at most", bound, ROOFLINE_AIM, bound <= ROOFLINE_AIM)
        if device.type == "cuda" and (cell.model, cell.dtype) == ("paper", "bfloat16") and cell.batch in CUDA_AIMS:
            add(f"{where}: steps a second", speed, CUDA_AIMS[cell.batch], speed >= CUDA_AIMS[cell.batch])
    for env in envs:
        if device.type == "cpu" and env["environment"].startswith("WorldModel"):
            asked = CPU_ENV_AIMS[env["slots"]]
            add(
                f"{env['environment']}, slots {env['slots']}: steps a second",
                env["steps/s"],
                asked,
                env["steps/s"] >= asked,
            )
    return rows


def _device(name: str) -> torch.device:
    try:
        return checked_device(name)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  bench_imagination.py                                  everything, in some minutes\n"
        "  bench_imagination.py --models shipped --seconds 1     a first look, in one\n"
        "  bench_imagination.py --models paper --batches 128     much of the big model: ten minutes on a CPU\n"
        "  bench_imagination.py --device cuda --dtypes bfloat16  on a GPU",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        choices=("shipped", "paper"),
        default=["shipped", "paper"],
        help=f"shipped: the checkpoint {CHECKPOINT}; paper: its 114M + 138M architecture, random (default both)",
    )
    parser.add_argument(
        "--batches",
        nargs="+",
        type=int,
        metavar="B",
        help=f"default 1 to 256 on a GPU, else {BATCHES['cpu', 'shipped']}, paper {BATCHES['cpu', 'paper']}; "
        f"the re-reading loop runs at {REREAD_BATCHES}",
    )
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="default both")
    parser.add_argument("--device", type=_device, default=torch.device("cpu"), help="such as cuda (default cpu)")
    parser.add_argument(
        "--seconds", type=float, default=5, metavar="S", help="to time each job of a cell, at least twice (default 5)"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"), help="folder (default outputs/bench)")
    return parser.parse_args()


@torch.inference_mode()
def main() -> None:
    options, load = arguments(), os.getloadavg()[0]
    ceilings = Ceilings(options.device)
    dtypes = [DTYPES[name] for name in options.dtypes]
    ceilings.measure(dtypes, [])
    pairs = [(name, dtype) for name in options.models for dtype in options.dtypes]
    measured = [cell for name, dtype in pairs for cell in cells(name, dtype, ceilings, options)]
    envs = environments(options) if "shipped" in options.models else []
    ceilings.measure(dtypes, [])
    for cell in measured:
        transformer, decoder = (ceilings.seconds(part, DTYPES[cell.dtype]) for part in cell.work)
        cell.bounds = transformer, decoder
    facts, reached = provided(options.device, load), aims(measured, envs, options.device)
    env_rows = [
        {name: rate(value) if isinstance(value, float) else str(value) for name, value in env.items()} for env in envs
    ]
    text = page(facts, ceilings, [[cell.row() for cell in measured], env_rows, reached])
    with atomic_write(options.out / "imagination.md") as aside:
        aside.write_text(text + "\n", encoding="utf-8")
    values = {**facts, **ceilings.values(), "cells": [asdict(cell) for cell in measured], "environments": envs}
    atomic_json(options.out / "imagination.json", {**values, "aims": reached})
    print(f"\n{text}\n\nwritten to {options.out}/imagination.md and .json")


if __name__ == "__main__":
    main()

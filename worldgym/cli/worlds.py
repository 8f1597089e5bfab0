"""``worldgym worlds``: simulators, and the learned worlds that stand for them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worldgym.cli.options import OptionalPath, Positive, Texts, parse_options

if TYPE_CHECKING:
    from worldgym.envs.registry import SimulatorSpec

EXAMPLE = "worldgym worlds --measure"
SHOWN_TASKS = 3


@dataclass(frozen=True)
class Worlds:
    """List the simulators that worldgym knows, and the checkpoints that imagine them.

    With --measure, every simulator that is installed runs random actions in its first task, and so does its learned
    environment, each by itself.
    """

    names: Texts = ()
    """Simulators, such as MetaWorld (default: all)."""
    measure: bool = False
    """Measure frames a second; whether the first task has a scripted expert is tried too."""
    steps: Positive = 60
    """Steps that are timed."""
    out: OptionalPath = None
    """JSON file of the figures (default: none is written)."""

    def run(self) -> None:
        from worldgym.devices import checked_device
        from worldgym.reports.provenance import provenance
        from worldgym.storage.files import atomic_json

        worlds = {spec.name: self._describe(spec) for spec in self._specs()}
        if self.out is not None:
            atomic_json(self.out, {**provenance(checked_device(None)), "worlds": worlds})
        print(_table(worlds, self.measure))

    def _specs(self) -> list["SimulatorSpec"]:
        from worldgym.envs.registry import specs
        from worldgym.errors import ConfigError, nearest

        known = {name: spec for name, spec in specs().items() if name}
        for name in self.names:
            if name not in known:
                raise ConfigError(f"unknown simulator {name!r}; {nearest(name, known)}")
        return [known[name] for name in self.names or known]

    def _describe(self, spec: "SimulatorSpec") -> dict[str, Any]:
        from worldgym.errors import DependencyNotInstalled, InvalidOption, RenderingError

        about: dict[str, Any] = {"id": spec.simulator_id, "install": spec.install, "tasks": list(spec.tasks)}
        if spec.checkpoint is not None:
            about |= {"learned": spec.world_model_id, "checkpoint": spec.checkpoint, **_fidelity(spec.checkpoint)}
        if not self.measure:
            return about
        try:
            env = spec.make(spec.tasks[0])
        except (DependencyNotInstalled, RenderingError) as error:
            return {**about, "problem": str(error)}
        about["real_fps"] = self._rate(env)
        try:
            env.unwrapped.expert_action()  # type: ignore[attr-defined]
            about["expert"] = True
        except InvalidOption:
            about["expert"] = False
        env.close()
        if spec.checkpoint is not None:
            import gymnasium as gym

            learned = gym.make(spec.world_model_id, task=spec.tasks[0], dtype="bfloat16")
            about["imagined_fps"] = self._rate(learned.unwrapped)
            learned.close()
        return about

    def _rate(self, env: Any) -> float:
        """Steps a second under random actions, after one that warms up."""
        env.reset(seed=0)
        env.action_space.seed(0)
        step: Callable[[], Any] = lambda: env.step(env.action_space.sample())  # noqa: E731
        step()
        start = time.perf_counter()
        for _ in range(self.steps):
            ended = step()
            if ended[2] or ended[3]:
                env.reset()
        return self.steps / (time.perf_counter() - start)


def _fidelity(checkpoint: str) -> dict[str, Any]:
    """PSNR at the last measured horizon, over the last frame, and the reward's R² there."""
    from worldgym.pretrained import locate, read_config

    figures = read_config(locate(checkpoint)).figures
    if not figures:
        return {}
    found = figures["by_task"]["all"]
    psnr, still = (found[name]["psnr"][-1] for name in ("sampled", "last_frame"))
    rewards = found["sampled"].get("reward_r2")
    return {
        "horizon": figures["horizon"],
        "psnr": psnr,
        "psnr_over_last_frame": psnr - still,
        "reward_r2": None if rewards is None else rewards[-1],
    }


def _table(worlds: dict[str, dict[str, Any]], measured: bool) -> str:
    from worldgym.reports.tables import number, table

    header = ["simulator", "tasks", "install", "learned", "PSNR over last frame", "reward R²"]
    header += ["frames/s real", "frames/s imagined", "expert"] if measured else []
    rows = []
    for about in worlds.values():
        tasks = about["tasks"]
        more = f", and {len(tasks) - SHOWN_TASKS} more" if len(tasks) > SHOWN_TASKS else ""
        gain, horizon = about.get("psnr_over_last_frame"), about.get("horizon")
        row = [
            about["id"],
            ", ".join(tasks[:SHOWN_TASKS]) + more,
            about["install"] or "-",
            about.get("checkpoint", "-"),
            "-" if gain is None else f"{number(gain, '+.1f')} dB at {horizon}",
            number(about.get("reward_r2"), ".2f"),
        ]
        if measured:
            row += [number(about.get("real_fps"), ".0f"), number(about.get("imagined_fps"), ".0f")]
            row.append("not installed" if "problem" in about else "yes" if about["expert"] else "no")
        rows.append(row)
    return table(header, rows)


def parse(arguments: Sequence[str]) -> Worlds:
    """Parse the command's options."""
    return parse_options(Worlds, arguments, "worlds", EXAMPLE)

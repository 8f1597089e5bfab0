"""``worldgym returns``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worldgym.checkpoints import DEFAULT
from worldgym.cli.options import Address, Natural, OptionalPath, OptionalText, Positive, Texts, parse_options
from worldgym.errors import ConfigError

EXAMPLE = """worldgym returns --checkpoint metaworld-64 --tasks plate-slide --behaviours random expert
  worldgym returns --tasks plate-slide --policy runs/mbpo/agent.safetensors"""
POLICY_ROWS = IN_SIMULATOR, IN_LEARNED = "acting in the simulator", "acting in the learned environment"
LONGEST = 1000  # steps of an episode in a learned environment without a limit


@dataclass(frozen=True)
class Returns:
    """Compare the returns of whole episodes in a learned environment and in its simulator.

    Both start at the same first frames and take the same actions, which the behaviour chooses in the simulator. With
    --data they are those of recorded episodes, and no simulator is needed. With --policy an agent chooses them, once
    in the simulator and once in the learned environment, where it sees imagined frames: the two rows tell whether an
    agent is promised more than it earns.
    """

    checkpoint: str = DEFAULT
    """A shipped name or a folder."""
    tasks: Texts = ()
    """Tasks to compare (default: all of the checkpoint)."""
    behaviours: Texts = ()
    """Who acts: expert, noisy, clumsy, straying, smooth, sticky, random (default: random, and expert where there is
    one, else sticky)."""
    episodes: Positive = 12
    """Episodes of each task and behaviour; of recorded ones at most so many."""
    policy: OptionalText = None
    """Compare this agent in place of behaviours: an agent.safetensors of worldgym drqv2 or mbpo, a .zip of
    stable-baselines3, which can run code when it is loaded, or module:function."""
    data: OptionalPath = None
    """Folder of recorded episodes to compare with (default: episodes of the simulator)."""
    seed: Natural = 3_000_000
    """Of the simulator's first reset; the others count up from it."""
    dtype: str = "float32"
    """Precision of the learned environment."""
    out: Path = Path("outputs/returns.json")
    """File of the figures."""
    device: OptionalText = None
    """Such as cpu or cuda:1 (default: the GPU if there is one)."""

    ray: Address = None
    """Compare on a Ray cluster, each task and behaviour on one CPU, or on one GPU with --device cuda: HOST:PORT of its
    head, auto for the one of this machine, or local to start one here. Its machines need worldgym, the simulator and
    the checkpoint (default: here, one after the other)."""

    def run(self) -> None:
        from worldgym.cluster import absolute, map_ordered
        from worldgym.devices import checked_device
        from worldgym.pretrained import locate, read_config
        from worldgym.reports.provenance import provenance
        from worldgym.reports.returns import returns_table
        from worldgym.storage.files import atomic_json

        device = checked_device(self.device if self.ray is None else "cpu")
        if self.data is not None:
            figures = self._recorded(self.data)
            atomic_json(self.out, {**provenance(device), "data": str(self.data), "returns": figures})
            print(returns_table(figures), self.out, sep="\n\n")
            return
        tasks = self.tasks or read_config(locate(self.checkpoint)).tasks
        if self.policy is not None and self.behaviours:
            raise ConfigError("policy: compared in place of behaviours; leave out --behaviours or --policy")
        pairs = [(task, behaviour) for task in tasks for behaviour in self._behaviours(task)]
        policy = None if self.policy is None else absolute(self.policy)
        compare = replace(self, checkpoint=absolute(self.checkpoint), policy=policy).compare
        figures = {task: {} for task in tasks}
        for (task, behaviour), found in zip(pairs, map_ordered(compare, pairs, self.ray, self.device), strict=True):
            figures[task][behaviour] = found
        atomic_json(self.out, {**provenance(device, self.ray), "returns": figures})
        print(returns_table(figures), self.out, sep="\n\n")

    def _behaviours(self, task: str) -> Sequence[str]:
        return POLICY_ROWS if self.policy is not None else self.behaviours or _default_behaviours(task)

    def _recorded(self, folder: Path) -> dict[str, dict[str, Any]]:
        """The figures of recorded episodes, by task and behaviour."""
        from tqdm import tqdm

        from worldgym.data.recordings import Recordings
        from worldgym.devices import checked_device
        from worldgym.reports.returns import recorded_returns
        from worldgym.world_model import WorldModel

        if self.policy is not None:
            raise ConfigError("policy: recorded episodes have their actions; leave out --policy or --data")
        if self.ray is not None:
            raise ConfigError("ray: recorded episodes are imagined on this machine; leave out --ray or --data")
        model = WorldModel.from_pretrained(self.checkpoint, device=checked_device(self.device), dtype=self.dtype)
        groups: dict[tuple[str, str], list[Any]] = {}
        for episode in Recordings(folder).episodes:
            groups.setdefault((episode.info.task, episode.info.behaviour), []).append(episode)
        wanted = {
            pair: episodes[: self.episodes]
            for pair, episodes in groups.items()
            if pair[0] in (self.tasks or [pair[0]]) and pair[1] in (self.behaviours or [pair[1]])
        }
        if not wanted:
            raise ConfigError(
                f"data: {folder} has no episodes of these tasks and behaviours; it has "
                + ", ".join(f"{task} ({behaviour})" for task, behaviour in groups)
            )
        figures: dict[str, dict[str, Any]] = {}
        for (task, behaviour), episodes in tqdm(sorted(wanted.items()), "returns", unit="group"):
            figures.setdefault(task, {})[behaviour] = recorded_returns(model, episodes).figures()
        return figures

    def compare(self, pair: tuple[str, str]) -> dict[str, float]:
        """The figures of a task and a behaviour; what a worker does."""
        import gymnasium as gym

        from worldgym.devices import checked_device
        from worldgym.envs.registry import find_task
        from worldgym.reports.returns import compare_returns, imagined_play

        task, behaviour = pair
        options: dict[str, Any] = {"checkpoint": self.checkpoint, "device": str(checked_device(self.device))}
        spec, name = find_task(task)
        simulator = gym.make(spec.simulator_id, task=name)
        learned = gym.make_vec(
            "WorldModel-v0", self.episodes, task=task, max_episode_steps=-1, dtype=self.dtype, **options
        )
        seeds = range(self.seed, self.seed + self.episodes)
        if behaviour == IN_LEARNED:
            steps = learned.unwrapped.world_model.config.max_episode_steps or LONGEST  # type: ignore[attr-defined]
            found = imagined_play(learned, simulator, seeds, self._policy(), steps)
        elif behaviour == IN_SIMULATOR:
            found = compare_returns(learned, simulator, seeds, self._policy())
        else:
            found = compare_returns(learned, simulator, seeds, _policies(behaviour))
        learned.close()
        simulator.close()
        return found.figures()

    def _policy(self) -> Callable[[Any, int], Any]:
        from worldgym.agents.policies import find_policy
        from worldgym.envs.behaviours import behaviour_rng

        policy = find_policy(str(self.policy))
        return lambda env, seed: policy(env, behaviour_rng("policy", seed))


def _default_behaviours(task: str) -> tuple[str, str]:
    import gymnasium as gym

    from worldgym.envs.registry import find_task

    spec, name = find_task(task)
    simulator = gym.make(spec.simulator_id, task=name)
    has_expert = hasattr(simulator.unwrapped, "expert_action")
    simulator.close()
    return "random", "expert" if has_expert else "sticky"


def _policies(name: str) -> Callable[[Any, int], Any]:
    from worldgym.envs.behaviours import behaviour_rng, find_behaviour

    behaviour = find_behaviour(name)
    return lambda env, seed: behaviour(env, behaviour_rng(name, seed))


def parse(arguments: Sequence[str]) -> Returns:
    """Parse the command's options."""
    return parse_options(Returns, arguments, "returns", EXAMPLE)

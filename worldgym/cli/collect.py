"""``worldgym collect``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.constructors import PrimitiveConstructorSpec

from worldgym.cli.options import Address, Natural, OptionalPositive, OptionalText, Texts, optional, parse_options

EXAMPLE = """worldgym collect --out data/train --tasks plate-slide --episodes expert=10,random=5
  worldgym collect --out data/lander --env LunarLander-v3 --episodes random=100,sticky=100
  worldgym collect --out data/agent --tasks plate-slide --policy runs/mbpo/agent.safetensors --episodes 20
  worldgym collect --out data/train --ray 10.0.0.1:6379"""
EPISODES = "expert=40,noisy=44,smooth=20,random=16"
ANY_EPISODES = "random=100,sticky=100"


POLICY = ""


def _counts(text: str) -> dict[str, int]:
    """``expert=2,random=1`` as a dictionary; a number alone is under :data:`POLICY`."""
    if text.isdecimal():
        return {POLICY: int(text)}
    counts = {}
    for part in text.split(","):
        name, _, count = part.partition("=")
        if not name or not count.isdecimal():
            raise ValueError(f"expected BEHAVIOUR=COUNT,..., such as {EPISODES}; got {part!r}")
        counts[name] = int(count)
    return counts


def _is_counts(value: Any) -> bool:
    return value is None or isinstance(value, dict)


Counts = Annotated[
    dict[str, int] | None,
    PrimitiveConstructorSpec[dict[str, int] | None](
        nargs=1,
        metavar="BEHAVIOUR=COUNT,...|COUNT",
        instance_from_str=lambda texts: _counts(texts[0]),
        is_instance=_is_counts,
        str_from_instance=lambda counts: [str(counts)],
    ),
    optional("BEHAVIOUR=COUNT,...|COUNT"),
]


@dataclass(frozen=True)
class Collect:
    """Record episodes of a simulator. Episodes that are already in the folder are kept and not repeated."""

    out: Path
    """Folder of the recordings."""
    env: OptionalText = None
    """Id of a simulator, such as Simulator-Toy-v0, or of any Gymnasium environment, such as CarRacing-v3 (default: the
    simulator that has the tasks)."""
    tasks: Texts = ()
    """Tasks to record (default: the simulator's usual ones, as `worldgym worlds` lists them; without --env
    Meta-World's)."""
    episodes: Counts = None
    """Episodes a task by behaviour: expert, noisy (the expert with noise), clumsy (the expert, pushed to a side, so
    that it often misses), straying (the expert, constant actions and a
    random walk in turns), smooth (a random walk), sticky (random actions that are held), random; with --policy a number
    (default: expert=40,noisy=44,smooth=20,random=16; random=100,sticky=100 for Gymnasium environments)."""
    policy: OptionalText = None
    """Who acts: a behaviour; an agent.safetensors of worldgym drqv2 or mbpo; a .zip of stable-baselines3, which can run
    code when it is loaded; module:function, called with each frame; or module:Class, which makes such a function for
    each episode (default: as --episodes says)."""
    seed: Natural = 0
    """Of each behaviour's first episode; the others count up from it."""
    workers: OptionalPositive = None
    """Processes (default: one a core, of this machine or of the cluster)."""
    ray: Address = None
    """Record on a Ray cluster: HOST:PORT of its head, auto for the one of this machine, or local to start one here. Its
    machines need worldgym and the simulator; this one writes the episodes (default: processes of this machine)."""
    look: OptionalText = None
    """How the simulator draws (default: its fastest way)."""
    resolution: OptionalPositive = None
    """Height and width of frames, for Gymnasium environments (default: 64)."""
    frame_skip: OptionalPositive = None
    """Steps of the environment in one recorded step, for Gymnasium environments (default: 1)."""
    max_steps: OptionalPositive = None
    """The most recorded steps of an episode (default: the environment's own limit)."""

    def run(self) -> None:
        from worldgym.data.recordings import Recordings
        from worldgym.envs.collect import collect

        tasks = self._tasks()
        self._check_options(tasks)
        episodes, policies = self._episodes(tasks)
        given = {"resolution": self.resolution, "frame_skip": self.frame_skip}
        options = {name: value for name, value in given.items() if value is not None}
        paths = collect(
            self.out,
            tasks,
            episodes,
            self.seed,
            self.workers,
            self.look,
            policies,
            options=options,
            steps=self.max_steps,
            ray=self.ray,
        )
        recordings = Recordings(self.out)
        print(f"{len(paths)} episodes requested, {len(recordings.episodes)} in {self.out}")

    def _check_options(self, tasks: list[str]) -> None:
        """Raise ConfigError for an option that only Gymnasium environments have, beside a simulator."""
        from worldgym.envs.registry import find_task
        from worldgym.errors import ConfigError

        for task in tasks:
            spec, _ = find_task(task)
            for name in ("resolution", "frame_skip"):
                if spec.name and getattr(self, name) is not None:
                    option = name.replace("_", "-")
                    raise ConfigError(f"--{option}: {spec.simulator_id} has one of its own; leave it out")

    def _episodes(self, tasks: list[str]) -> tuple[dict[str, int], dict[str, Any]]:
        """Numbers of episodes by behaviour, and the behaviour that --policy gives."""
        from worldgym.agents.policies import find_policy
        from worldgym.envs.behaviours import BEHAVIOURS
        from worldgym.envs.registry import find_task
        from worldgym.errors import ConfigError

        if self.policy is None:
            default = EPISODES if find_task(tasks[0])[0].name else ANY_EPISODES
            episodes = self.episodes or _counts(default)
            if POLICY in episodes:
                raise ConfigError(
                    f"--episodes {episodes[POLICY]}: give --policy too, or BEHAVIOUR=COUNT, such as {default}"
                )
            return episodes, {}
        if self.episodes is None or POLICY not in self.episodes:
            raise ConfigError("--policy: give the number of episodes too, such as --episodes 20")
        if self.policy in BEHAVIOURS:
            return {self.policy: self.episodes[POLICY]}, {}
        name = _policy_name(self.policy)
        return {name: self.episodes[POLICY]}, {name: find_policy(self.policy)}

    def _tasks(self) -> list[str]:
        """Plain names of the tasks to record."""
        from worldgym.checkpoints import DEFAULT
        from worldgym.envs.registry import find_spec, find_task, specs
        from worldgym.errors import ConfigError, nearest

        if self.env is None:
            default = next(spec.tasks for spec in specs().values() if spec.checkpoint == DEFAULT)
            return [find_task(task)[1] for task in self.tasks] or list(default)
        spec = find_spec(self.env)
        if spec is None and self.env.startswith("Simulator-"):
            known = [spec.simulator_id for spec in specs().values()]
            raise ConfigError(f"unknown simulator {self.env!r}; {nearest(self.env, known)}")
        if spec is None or not spec.name:
            return [self.env]
        return [spec.check_task(task) for task in self.tasks] or list(spec.tasks)


def _policy_name(policy: str) -> str:
    """The name of a policy's episodes. That of a file depends on what is in it: agents' files are all called alike."""
    import hashlib

    path = Path(policy)
    if not path.is_file():
        return f"policy-{policy}".replace(":", "-")
    return f"policy-{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"


def parse(arguments: Sequence[str]) -> Collect:
    """Parse the command's options."""
    return parse_options(Collect, arguments, "collect", EXAMPLE)

"""What ``worldgym mbpo`` and ``worldgym drqv2`` share: options, environments, demonstrations, the run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import gymnasium as gym
import tyro

from worldgym.agents.drqv2 import DrQv2, DrQv2Config
from worldgym.agents.mbpo import MBPO, MBPOConfig
from worldgym.agents.presets import FRAME_STACK, Preset, preset
from worldgym.cli.environments import make_env
from worldgym.cli.options import (
    OptionalNatural,
    OptionalPath,
    OptionalPositive,
    OptionalText,
    parse_options,
    prepare_device,
    read_option,
    report_stopped,
)
from worldgym.data.episode import Episode
from worldgym.envs.registry import SimulatorSpec, find_task, specs
from worldgym.errors import ConfigError, DataError, UnknownTask
from worldgym.world_model import WorldModel

if TYPE_CHECKING:
    import torch

T = TypeVar("T", bound="AgentOptions")


@dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """Options of a run. Defaults of the settings are those of the preset."""

    task: str
    """Task of the environment, such as plate-slide, or toy and dials, which are toy worlds."""
    out: Path
    """Folder of the run: checkpoints, metrics, videos, and in the end the agent."""
    env: OptionalText = None
    """Id of the environment to act in, such as WorldModel-MetaWorld-v0 (default: the simulator that has the task)."""
    evaluation_env: OptionalText = None
    """Id of the environment for evaluations (default: as --env). With --env WorldModel-MetaWorld-v0, name
    Simulator-MetaWorld-v0 to see what an agent that never saw the simulator does in it."""
    resume: bool = False
    """Continue the run in --out, exactly; repeat the other options."""
    preset: OptionalText = None
    """Defaults of all settings: paper (100,000 steps, for a GPU), cpu (2,000 steps, ten minutes on one core), toy or
    dials (default: a toy world's own, else paper)."""
    pretrain: Literal["bc"] | None = None
    """bc: clone the demonstrations first, act as the clone from the first step on, and stay close to them later. It
    changes the defaults of --warmup-clone-updates, --seed-steps, --agent.clone-weight and --agent.stddev-start."""
    demos: OptionalNatural = None
    """Number of demonstrations (default: the preset's)."""
    demos_from: OptionalPath = None
    """Folder of the demonstrations (default: the scripted expert records them)."""
    threads: OptionalPositive = None
    """CPU threads (default: PyTorch's choice)."""
    device: OptionalText = None
    """Such as cpu or cuda:1 (default: the GPU if there is one)."""
    loop: Annotated[MBPOConfig, tyro.conf.arg(name="")]
    agent: DrQv2Config

    def train(self, method: str, world_model: "str | None") -> int:
        """Run or resume; the exit status.

        Args:
            method: name of the method in plots.
            world_model: a shipped name, a folder or ``scratch``; None trains without a world model.
        """
        from worldgym.agents.mbpo.run import time_table, train
        from worldgym.runs.folder import check_run_folder

        check_run_folder(self.out, self.resume)
        device, defaults = (
            prepare_device(self.device, self.threads),
            preset_of(self.task, self.preset, self.pretrain == "bc"),
        )
        envs = [self._make_env(env_id) for env_id in (self.env, self.evaluation_env or self.env)]
        try:
            frames, actions = envs[0].observation_space.shape, envs[0].action_space.shape
            if actions is None or len(actions) != 1:
                raise ConfigError(
                    f"task: expected continuous actions (Box [A]), which DrQ-v2 and MBPO need, {self.task} has "
                    f"{envs[0].action_space}: train an agent of stable-baselines3 in its twin"
                )
            agent = DrQv2(frames, FRAME_STACK, actions[0], self.agent, self.loop.seed, device)
            model = None if world_model is None else self._world_model(world_model, defaults, device, actions[0])
            demonstrations = self._demonstrations(defaults, envs[0])
            learner = MBPO(envs[0], model, agent, self.loop, demonstrations)
            about = {"method": method, "world_model": world_model, **_describe(envs, demonstrations)}
            if not train(learner, envs[1], self.out, about, self.resume):
                return report_stopped(learner.step, self.loop.steps)
        finally:
            for env in envs:
                env.close()
        print(f"{self.out}\n\n{time_table(self.out)}")
        return 0

    def _make_env(self, env_id: str | None) -> Any:
        if env_id is not None:
            return make_env(env_id, task=self.task)
        spec, task = find_task(self.task)
        return gym.make(spec.simulator_id, task=task)

    def _demonstrations(self, defaults: Preset, env: Any) -> list[Episode]:
        """Those in a folder, or the scripted expert's, which are recorded into the run's folder first."""
        from worldgym.agents.common.demonstrations import load_demonstrations
        from worldgym.envs.collect import collect

        count, folder, task = self.demos, self.demos_from, env.unwrapped.task
        if folder is None:
            count, folder = defaults.demonstrations if count is None else count, self.out / "demonstrations"
            if not count:
                return []
            collect(folder, [task], {"expert": count}, workers=1)
        sizes = {"frame_shape": env.observation_space.shape, "action_dim": env.action_space.shape[0]}
        found = load_demonstrations(folder, task=task, **sizes)
        if count is not None and len(found) < count:
            raise DataError(f"{folder}: expected {count} demonstrations of {task}, found {len(found)}")
        return found[:count]

    def _world_model(self, name: str, defaults: Preset, device: "torch.device", action_dim: int) -> WorldModel:
        """A checkpoint to train further, or fresh weights of the preset's architecture."""
        import dataclasses

        from worldgym.checkpoints import DEFAULT
        from worldgym.pretrained import locate, read_config
        from worldgym.training.initial import fresh_world_model, with_actions

        if name != SCRATCH:
            model = WorldModel.from_pretrained(name, device=device)
            return model if model.config.action_dim else with_actions(model, action_dim)
        config = defaults.world_model or read_config(locate(DEFAULT))
        if config.action_dim != action_dim:
            config = dataclasses.replace(config, action_dim=action_dim, action_names=(), tasks=(self.task,))
        config = dataclasses.replace(config, training_data={}, figures={})  # they describe other weights
        return fresh_world_model(config, self.loop.seed).to(device)


def _describe(envs: list[Any], demonstrations: list[Episode]) -> dict[str, Any]:
    """What a run acts in and begins with, so that it is resumed in no other world and with no other demonstrations."""
    import torch

    from worldgym.storage.tensors import digest

    actions = {str(index): torch.from_numpy(episode.actions) for index, episode in enumerate(demonstrations)}
    return {
        "env": envs[0].spec.id,
        "evaluation_env": envs[1].spec.id,
        "demonstrations": len(demonstrations),
        "demonstrated_actions": digest(actions)[:16],
    }


DEFAULT_TASK = "plate-slide"
"""The task whose settings --help shows."""
SCRATCH = "scratch"
"""The name of a world model with fresh weights."""


def family(task: str) -> SimulatorSpec:
    """The simulator family that has a task; Meta-World for an unknown one, which is named when it is made."""
    try:
        return find_task(task)[0]
    except UnknownTask:
        return specs()["MetaWorld"]


def preset_of(task: str, name: str | None = None, cloning: bool = False) -> Preset:
    """The preset for a task, with rewards scaled by what its simulator usually gives."""
    return preset(task, name, cloning, family(task).largest_reward)


def parse_agent_options(kind: type[T], arguments: Sequence[str], command: str, example: str) -> T:
    """Parse the options of an agent's command with the defaults of the preset that they name."""
    task = read_option(arguments, "--task") or DEFAULT_TASK
    defaults = preset_of(task, read_option(arguments, "--preset"), read_option(arguments, "--pretrain") == "bc")
    default = kind(task=tyro.MISSING, out=tyro.MISSING, loop=defaults.loop, agent=defaults.agent)
    return parse_options(kind, arguments, command, example, default)

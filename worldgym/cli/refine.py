"""``worldgym refine``: rounds of data from where policies go."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from worldgym.checkpoints import DEFAULT
from worldgym.cli import INTERRUPTED
from worldgym.cli.options import Natural, OptionalText, Positive, Texts, parse_options

EXAMPLE = "worldgym refine --data data/train --held-out data/held-out --out runs/refine --tasks plate-slide --rounds 2"
FIRST_SEED, SEEDS_A_ROUND = 5_000_000, 10_000  # of recorded episodes
STACK, SLOTS, HORIZON = 3, 16, 128  # frames an agent sees; episodes imagined at once, and their steps between updates
CLONED, CLONE_STAGES = 5, (300, 800, 1800)  # expert episodes, and updates at which clones are kept
LEARNING_RATE_SHARE = 0.3  # of the recipe's: the model is trained already


@dataclass(frozen=True)
class Refine:
    """Train policies in the present world, record what they do in the simulator, train the world on it, and again.

    A policy that is trained in a learned world finds what is wrong with it. Every round trains short-lived policies
    (PPO of stable-baselines3) in the world and clones recorded experts, lets them act in the simulator, compares what
    they were promised with what they earned, adds the episodes to the recordings and trains the transformer further.
    Clones nearly do what experts do, and often fail close to the goal, where a world that has seen experts succeed
    promises success. What is finished is kept: the same command continues. Each round leaves a checkpoint,
    OUT/round-N/world, and gap.json.
    """

    data: tuple[Path, ...]
    """Folders of episodes that every round trains on too."""
    held_out: Path
    """Folder of other episodes, to validate on."""
    out: Path
    """Folder of the rounds."""
    checkpoint: str = DEFAULT
    """The world to begin with: a shipped name or a folder."""
    tasks: Texts = ()
    """Tasks (default: all of the checkpoint)."""
    rounds: Positive = 3
    """Rounds to have done in the end."""
    policies: Natural = 2
    """Policies trained in the world, of each task and round."""
    clones: Natural = 1
    """Clones of 5 recorded expert episodes, of each task and round; each is kept at three stages."""
    policy_steps: Positive = 20_000
    """Imagined steps that a policy is trained for."""
    episodes: Positive = 10
    """Episodes that each policy records."""
    updates: Positive = 500
    """Updates of the transformer in a round."""
    seed: Natural = 0
    """Of policies and training."""
    device: OptionalText = None
    """Such as cpu or cuda:1 (default: the GPU if there is one)."""

    def run(self) -> int:
        from worldgym.data.recordings import Recordings
        from worldgym.errors import DataError
        from worldgym.pretrained import locate, read_config
        from worldgym.training.recipe import RECIPE, load_recipe

        world = locate(self.checkpoint)
        # What can be missing is found before hours of training.
        if not self.data:
            raise DataError("--data: expected at least one folder of episodes")
        Recordings(*self.data), Recordings(self.held_out), load_recipe(world / RECIPE)
        tasks = list(self.tasks or read_config(world).tasks)
        gaps = {}
        for number in range(1, self.rounds + 1):
            folder = self.out / f"round-{number}"
            policies = {
                task: self._train_policies(world, task, folder, number) + self._clone_experts(task, folder, number)
                for task in tasks
            }
            for task, files in policies.items():
                self._record(task, files, folder, number)
            gaps[number] = self._measure_gap(world, tasks, folder)
            if not self._train_world(world, folder, number):
                print("worldgym: stopped; run the same command again to continue", file=sys.stderr)
                return INTERRUPTED
            world = folder / "world"
        print(_table(gaps), f"\n{world}: the last round's world")
        return 0

    def _train_policies(self, world: Path, task: str, folder: Path, number: int) -> list[Path]:
        """Files of the round's policies, trained in the world unless they are there."""
        from stable_baselines3 import PPO
        from stable_baselines3.common.vec_env import VecFrameStack

        from worldgym.agents.sb3 import make_vec_env
        from worldgym.data.names import file_name

        files = []
        for index in range(self.policies):
            path = folder / "policies" / f"{file_name(task)}-{index}.zip"
            files.append(path)
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            seed = self.seed + 1000 * number + index
            envs = VecFrameStack(make_vec_env("WorldModel-v0", SLOTS, seed, checkpoint=world, task=task), STACK)
            # Policies explore differently, so that they find different mistakes.
            entropy = 0.01 * index
            agent = PPO("CnnPolicy", envs, n_steps=HORIZON, batch_size=128, n_epochs=4, seed=seed, ent_coef=entropy)
            agent.learn(self.policy_steps, progress_bar=False)
            partial = path.with_suffix(".partial.zip")
            agent.save(partial)
            partial.replace(path)
            envs.close()
        return files

    def _clone_experts(self, task: str, folder: Path, number: int) -> list[Path]:
        """Files of the round's clones of recorded experts, at all stages."""
        import numpy as np

        from worldgym.agents.cloning import clone
        from worldgym.agents.presets import preset
        from worldgym.data.names import file_name
        from worldgym.data.recordings import Recordings
        from worldgym.errors import DataError

        found: list[Path] = []
        experts = [
            file
            for file in Recordings(*self.data).episodes
            if file.info.task == task and file.info.behaviour == "expert"
        ]
        if self.clones and not experts:
            raise DataError(f"--data: expected expert episodes of {task} to clone, found none; or give --clones 0")
        for index in range(self.clones):
            seed = self.seed + 1000 * number + index
            chosen = np.random.default_rng(seed).permutation(len(experts))[:CLONED]
            names = (f"clone-{file_name(task)}-{index}-{updates}.safetensors" for updates in CLONE_STAGES)
            files = [folder / "policies" / name for name in names]
            clone([experts[row].load() for row in chosen], files, CLONE_STAGES, preset(task, "cpu").agent, seed)
            found += files
        return found

    def _record(self, task: str, files: list[Path], folder: Path, number: int) -> None:
        """What the policies do in the simulator."""
        from worldgym.agents.policies import find_policy
        from worldgym.envs.collect import collect

        policies = {f"policy-{index}": find_policy(str(path.resolve())) for index, path in enumerate(files)}
        seed = FIRST_SEED + SEEDS_A_ROUND * number
        counts = dict.fromkeys(policies, self.episodes)
        collect(folder / "data", [task], counts, seed, workers=1, policies=policies)

    def _measure_gap(self, world: Path, tasks: list[str], folder: Path) -> dict[str, dict[str, float]]:
        """What the world promises under the policies' actions, and what they earned: mean returns by task."""
        from worldgym.cli.options import prepare_device
        from worldgym.data.recordings import Recordings
        from worldgym.reports.returns import recorded_returns
        from worldgym.storage.files import atomic_json, read_json
        from worldgym.world_model import WorldModel

        path = folder / "gap.json"
        if path.exists():
            return dict(read_json(path))
        episodes, figures = Recordings(folder / "data").episodes, {}
        model = WorldModel.from_pretrained(world, device=prepare_device(self.device))
        for task in tasks:
            files = [file for file in episodes if file.info.task == task]
            figures[task] = recorded_returns(model, files).figures()
        atomic_json(path, figures)
        return figures

    def _train_world(self, world: Path, folder: Path, number: int) -> bool:
        """Train the transformer further on all recordings and export the round's world; whether it is finished."""
        import shutil

        from worldgym.cli.export import Export
        from worldgym.cli.options import prepare_device
        from worldgym.data.recordings import Recordings
        from worldgym.pretrained import CONFIG, FIRST_FRAMES, read_config
        from worldgym.training.recipe import RECIPE, load_recipe
        from worldgym.training.runs import train_transformer

        if (folder / "world" / CONFIG).exists():
            return True
        config, recipe = read_config(world), load_recipe(world / RECIPE).transformer
        training = replace(
            recipe.training,
            steps=self.updates,
            warmup_steps=min(50, self.updates),
            learning_rate=LEARNING_RATE_SHARE * recipe.training.learning_rate,
            validate_every=self.updates,
            seed=self.seed + number,
        )
        rounds = (self.out / f"round-{earlier}" / "data" for earlier in range(1, number + 1))
        run = folder / "transformer"
        step = train_transformer(
            replace(recipe, training=training),
            world,
            Recordings(*self.data, *rounds),
            Recordings(self.held_out),
            run,
            prepare_device(self.device),
            config.action_names,
            resume=(run / CONFIG).exists(),
            initial=str(world),
        )
        if step < self.updates:
            return False
        Export(world, run, self.held_out, folder / "world", config.sampling.temperature, config.sampling.top_k).run()
        if (world / FIRST_FRAMES).is_dir():
            shutil.copytree(world / FIRST_FRAMES, folder / "world" / FIRST_FRAMES, dirs_exist_ok=True)
        return True


def _table(gaps: dict[int, dict[str, dict[str, float]]]) -> str:
    """What policies were promised and what they earned, round by round."""
    from worldgym.reports.tables import number, table

    rows = [
        [str(round_number), task, f"{found['imagined']:.0f}", f"{found['real']:.0f}", number(found["ratio"], ".2f")]
        for round_number, by_task in gaps.items()
        for task, found in by_task.items()
    ]
    return table(["round", "task", "promised", "earned", "ratio"], rows)


def parse(arguments: Sequence[str]) -> Refine:
    """Parse the command's options."""
    return parse_options(Refine, arguments, "refine", EXAMPLE)

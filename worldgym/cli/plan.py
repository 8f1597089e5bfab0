"""``worldgym plan``."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from worldgym.checkpoints import DEFAULT
from worldgym.cli.options import (
    Natural,
    OptionalPath,
    OptionalPositive,
    OptionalPositiveFloat,
    OptionalText,
    Positive,
    parse_options,
)

if TYPE_CHECKING:
    from worldgym.agents.planning import Cost, Planner, PlanningAgent
    from worldgym.agents.planning.model import PlanningModel

EXAMPLE = "worldgym plan --task plate-slide --planner icem --candidates 256 --horizon 12 --episodes 20 --out runs/plan"
GOAL_COSTS = ("goal", "goal-success")
NOT_SETTINGS = ("out", "episodes", "device", "budget")  # they change no episode
STD_OF_PROPOSALS = 0.1
GOAL_STEPS = 300  # that scripted experts have to reach a goal, however long episodes are
PLAN, RANDOM, PROPOSAL = "plan", "random", "proposal"


@dataclass(frozen=True)
class PlanCommand:
    """Act in an environment by planning in a learned world, or in the simulator itself.

    OUT gets a folder for the planner and one for each baseline (random actions; the proposal alone, on the same
    episodes), and in each, for every episode, its figures and its video: execution, what the newest plan imagined for
    the step, and where the plan ends. plan.json sums up. What is finished is kept: the same command continues.
    """

    task: str
    """Task of the environment, such as plate-slide."""
    out: Path
    """Folder of the results."""
    env: str = "Simulator-MetaWorld-v0"
    """Id of the environment to act in."""
    planner: Literal["icem", "cem", "mppi", "shooting"] = "icem"
    """iCEM, CEM, MPPI or random shooting."""
    candidates: Positive = 256
    """Action sequences in the first iteration."""
    horizon: Positive = 12
    """Steps of each."""
    iterations: OptionalPositive = None
    """Rounds of sampling (default: the planner's)."""
    std: OptionalPositiveFloat = None
    """Standard deviation of the first iteration's noise; actions are in [-1, 1] (default: 0.5; 0.1 with --proposal, so
    that plans stay close to what the policy would do)."""
    hold: Positive = 1
    """Steps for which each decision of a plan is held."""
    replan_every: Positive = 1
    """Steps of a plan that are carried out before the next one."""
    episodes: Positive = 20
    """Episodes of each row."""
    seed: Natural = 0
    """Of the first episode's reset, and of the planner; the episodes count up from it."""
    max_steps: OptionalPositive = None
    """Steps of an episode (default: the environment's own limit)."""
    model: Literal["learned", "simulator"] = "learned"
    """What plans are made in; the simulator is the upper bound."""
    checkpoint: str = DEFAULT
    """The learned world: a shipped name, a folder or a Hub id."""
    cost: Literal["reward", "success", "goal", "goal-success"] = "reward"
    """What plans are for: rewards, the probability of success, the distance of pixels to a goal, or the last two
    together, weighted as in VP2."""
    goal: OptionalPath = None
    """Picture of the goal, of the environment's size (default: in each episode, where the simulator's scripted expert
    would first succeed)."""
    proposal: OptionalPath = None
    """agent.safetensors whose policy proposes plans."""
    terminal_value: bool = False
    """Add the value of the proposal's critics at the end of a plan: for agents that were trained with rewards."""
    pessimism: float = 0.0
    """Standard deviations of the predicted reward that are subtracted from it."""
    max_uncertainty: OptionalPositiveFloat = None
    """Uncertainty beyond which an imagined frame, and all after it, earn nothing (default: all are trusted)."""
    dtype: str = "bfloat16"
    """Precision of the learned world."""
    budget: Positive = 1024
    """Megabytes that candidates may take at once."""
    device: OptionalText = None
    """Such as cpu or cuda:1 (default: the GPU if there is one)."""

    def run(self) -> None:
        from worldgym.cli.environments import make_env
        from worldgym.devices import checked_device
        from worldgym.reports.provenance import provenance
        from worldgym.storage.files import atomic_json

        device = checked_device(self.device)
        self._check_resumable()
        limit: dict[str, Any] = {} if self.max_steps is None else {"max_episode_steps": self.max_steps}
        env = make_env(self.env, task=self.task, **limit)
        try:
            agent = self._agent(env, device)
            rows = self._rows(agent)
            about = {**provenance(device), "settings": self._settings()}
            atomic_json(self.out / "plan.json", {**about, "results": {}})
            results = {name: self._run_row(env, name, policy, agent) for name, policy in rows.items()}
        finally:
            env.close()
        atomic_json(self.out / "plan.json", {**about, "results": results})
        print(_table(results), f"\n{self.out}")

    def _settings(self) -> dict[str, Any]:
        """The options on which episodes depend, as JSON types."""
        found = {name: value for name, value in asdict(self).items() if name not in NOT_SETTINGS}
        return {name: str(value) if isinstance(value, Path) else value for name, value in found.items()}

    def _check_resumable(self) -> None:
        """Raise ConfigError if the folder holds episodes of other settings."""
        from worldgym.errors import ConfigError
        from worldgym.storage.files import read_json

        path = self.out / "plan.json"
        if not path.exists():
            return
        old, new = dict(read_json(path)).get("settings", {}), self._settings()
        if different := [f"{name} {old.get(name)!r}" for name in new if old.get(name) != new[name]]:
            raise ConfigError(f"{self.out} holds episodes with {', '.join(different)}: choose another --out")

    def _agent(self, env: Any, device: Any) -> "PlanningAgent":
        from worldgym.agents.drqv2 import DrQv2
        from worldgym.agents.planning import LearnedModel, PlanningAgent, SimulatorModel, agent_proposal, critic_value
        from worldgym.agents.planning.spaces import check_fits
        from worldgym.world_model import WorldModel

        model: PlanningModel
        if self.model == "simulator":
            model = SimulatorModel(env)
        else:
            model = LearnedModel(WorldModel.from_pretrained(self.checkpoint, device, self.dtype), self.budget * 2**20)
        check_fits(env, model)
        proposal, terminal = None, None
        if self.proposal is not None:
            policy = DrQv2.from_file(self.proposal, device)
            proposal = agent_proposal(policy)
            # A policy that was only cloned, or hardly trained, has critics that know nothing.
            terminal = critic_value(policy) if self.terminal_value else None
        cost = self._cost(env, terminal)
        return PlanningAgent(model, self._planner(), cost, proposal, self.replan_every, self.seed)

    def _planner(self) -> "Planner":
        from worldgym.agents.planning import CEM, ICEM, MPPI, RandomShooting
        from worldgym.errors import ConfigError

        sizes: dict[str, Any] = {"candidates": self.candidates, "horizon": self.horizon, "hold": self.hold}
        sizes["elites"] = min(ICEM.elites, max(2, self.candidates // 4))
        sizes["std"] = self.std or (ICEM.std if self.proposal is None else STD_OF_PROPOSALS)
        if self.planner == "shooting":
            if self.iterations not in (None, 1):
                raise ConfigError(f"iterations: random shooting has one, got {self.iterations}")
            return RandomShooting(**sizes)
        rounds = {} if self.iterations is None else {"iterations": self.iterations}
        kinds: dict[str, Callable[..., Planner]] = {"icem": ICEM, "cem": CEM, "mppi": MPPI}
        return kinds[self.planner](**sizes, **rounds)

    def _cost(self, env: Any, terminal: Any) -> "Cost":
        import numpy as np

        from worldgym.agents.planning import RewardCost, SuccessCost
        from worldgym.agents.planning.goals import read_goal
        from worldgym.agents.planning.oracle import check_goals
        from worldgym.errors import ConfigError

        if self.cost in GOAL_COSTS:
            if self.goal is not None:
                return self._goal_cost(read_goal(self.goal, env.observation_space.shape[0]))
            check_goals(env)
            return self._goal_cost(np.zeros(env.observation_space.shape, np.uint8))  # each episode has its own
        if self.goal is not None:
            raise ConfigError(f"expected --goal with {' or '.join(GOAL_COSTS)} as the cost, got {self.cost}")
        if self.cost == "success":
            return SuccessCost()
        return RewardCost(pessimism=self.pessimism, max_uncertainty=self.max_uncertainty, terminal=terminal)

    def _goal_cost(self, goal: Any) -> "Cost":
        from worldgym.agents.planning import GoalCost, GoalSuccessCost

        return GoalCost(goal) if self.cost == "goal" else GoalSuccessCost(goal)

    def _rows(self, agent: "PlanningAgent") -> dict[str, Any]:
        """Behaviours by the names of their rows."""
        from worldgym.agents.policies import DrQv2Policy
        from worldgym.envs.behaviours import find_behaviour

        rows: dict[str, Any] = {PLAN: agent.behaviour, RANDOM: find_behaviour("random")}
        return rows if self.proposal is None else {**rows, PROPOSAL: DrQv2Policy(self.proposal)}

    def _run_row(self, env: Any, name: str, behaviour: Any, agent: "PlanningAgent") -> dict[str, Any]:
        """The episodes of one row that are not there yet, and the mean figures of all."""
        from tqdm import tqdm

        from worldgym.agents.planning.oracle import ScriptedGoal, scripted_goal
        from worldgym.agents.planning.trial import run_trial
        from worldgym.envs.behaviours import behaviour_rng
        from worldgym.reports.video import write_mp4, write_png
        from worldgym.storage.files import atomic_json, read_json

        drawn: ScriptedGoal | None = None

        def make_policy(inner: Any, seed: int) -> Any:
            nonlocal drawn
            if name == PLAN and self.goal is None and self.cost in GOAL_COSTS:
                drawn = scripted_goal(inner, GOAL_STEPS)
                agent.cost = self._goal_cost(drawn.frame)
            return behaviour(inner, behaviour_rng(name, seed))

        figures: list[dict[str, Any]] = []
        with tqdm(total=self.episodes, desc=name, unit="episode") as bar:
            for seed in range(self.seed, self.seed + self.episodes):
                path = self.out / name / f"episode-{seed:08d}.json"
                if not path.exists():
                    planning = agent if name == PLAN else None
                    with tqdm(desc=f"seed {seed}", unit="step", leave=False) as steps:
                        trial = run_trial(env, make_policy, seed, planning, steps.update)
                    write_mp4(path.with_suffix(".mp4"), trial.clip())
                    if trial.plans:
                        write_png(path.with_suffix(".png"), trial.strip())
                    if drawn is not None:
                        write_png(path.with_suffix(".goal.png"), drawn.frame)
                    goal = {} if drawn is None else {"goal_solved": drawn.solved}
                    atomic_json(path, {**trial.figures(), **goal})
                figures.append(dict(read_json(path)))
                bar.update()
                bar.set_postfix_str(f"{sum(entry['success'] for entry in figures)} succeeded")
        return _means(figures)


def _means(figures: list[dict[str, Any]]) -> dict[str, Any]:
    count = len(figures)
    means: dict[str, Any] = {
        "episodes": count,
        "success": sum(entry["success"] for entry in figures) / count,
        "return": sum(entry["return"] for entry in figures) / count,
    }
    if "seconds_a_plan" in figures[0]:
        means["seconds_a_plan"] = sum(entry["seconds_a_plan"] for entry in figures) / count
    return means


def _table(results: dict[str, dict[str, Any]]) -> str:
    from worldgym.reports.tables import number, table

    rows = [
        [
            name,
            str(found["episodes"]),
            f"{found['success']:.2f}",
            f"{found['return']:.0f}",
            number(found.get("seconds_a_plan"), ".2f"),
        ]
        for name, found in results.items()
    ]
    return table(["row", "episodes", "success", "return", "seconds a plan"], rows)


def parse(arguments: Sequence[str]) -> PlanCommand:
    """Parse the command's options."""
    return parse_options(PlanCommand, arguments, "plan", EXAMPLE)

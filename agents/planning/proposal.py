"""A policy that proposes plans: it acts in the model, and a planner improves what it does.

Shapes: M proposals, S stacked frames, T steps, A action dimension.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from worldgym.agents.drqv2 import DrQv2
from worldgym.agents.planning.cost import TerminalValue
from worldgym.agents.planning.model import Act, PlanningModel
from worldgym.agents.planning.planner import coloured_noise
from worldgym.config import check_numbers
from worldgym.isolation import torch_defaults


@dataclass(frozen=True)
class Proposal:
    """How a policy takes part in planning.

    Attributes:
        act: maps the last frames, uint8 ``[M, S, H, W, 3]``, to actions float32 ``[M, A]`` in [-1, 1].
        frame_stack: S.
        candidates: proposals, M. The first is the policy's own plan; the others are made with noise.
        noise: standard deviation of that noise, which is smooth in time.
        centre: whether the search begins at the policy's plan. Otherwise it begins at the rest of the last plan, and
            the proposals are candidates alone.
    """

    act: Act
    frame_stack: int
    candidates: int = 16
    noise: float = 0.2
    centre: bool = True

    def __post_init__(self) -> None:
        check_numbers(self, above_zero=("frame_stack", "candidates"), from_zero=("noise",))

    def propose(self, model: PlanningModel, horizon: int, generator: torch.Generator) -> Tensor:
        """Let the policy act in the model, which has observed the present: actions float32 ``[M, T, A]``."""
        like = torch.zeros(horizon, model.action_dim)
        noise = self.noise * coloured_noise(self.candidates, like, 1.0, generator)
        noise[0] = 0
        return model.follow(self.act, self.frame_stack, noise, generator)


def agent_proposal(agent: DrQv2, candidates: int = 16, noise: float = 0.2, centre: bool = True) -> Proposal:
    """A DrQ-v2 agent's policy, without exploration."""
    return Proposal(lambda stacks: agent.act(stacks, explore=False), agent.spec.frame_stack, candidates, noise, centre)


def critic_value(agent: DrQv2) -> TerminalValue:
    """The value of a DrQ-v2 agent's critics at its own action, the smaller of the two, in units of the rewards."""

    @torch_defaults(grad=False)
    def value(stacks: Tensor) -> Tensor:
        features = agent.encoder(stacks.to(agent.device))
        return torch.minimum(*agent.target(features, agent.actor(features))) / agent.config.reward_scale

    return TerminalValue(value, agent.spec.frame_stack)

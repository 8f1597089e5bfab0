"""Planning: visual model-predictive control in a learned world, or in the simulator itself."""

from worldgym.agents.planning.agent import PlanningAgent
from worldgym.agents.planning.cem import CEM
from worldgym.agents.planning.cost import Cost, FunctionCost, RewardCost, SuccessCost, TerminalValue
from worldgym.agents.planning.futures import ALL_FRAMES, Futures
from worldgym.agents.planning.goals import ContextCodeCost, DynamicsCodeCost, GoalCost, GoalSuccessCost
from worldgym.agents.planning.icem import ICEM
from worldgym.agents.planning.model import LearnedModel, PlanningModel
from worldgym.agents.planning.mppi import MPPI
from worldgym.agents.planning.oracle import SimulatorModel
from worldgym.agents.planning.planner import Plan, Planner
from worldgym.agents.planning.proposal import Proposal, agent_proposal, critic_value
from worldgym.agents.planning.random_shooting import RandomShooting

__all__ = [
    "ALL_FRAMES",
    "CEM",
    "ICEM",
    "MPPI",
    "ContextCodeCost",
    "Cost",
    "DynamicsCodeCost",
    "FunctionCost",
    "Futures",
    "GoalCost",
    "GoalSuccessCost",
    "LearnedModel",
    "Plan",
    "Planner",
    "PlanningAgent",
    "PlanningModel",
    "Proposal",
    "RandomShooting",
    "RewardCost",
    "SimulatorModel",
    "SuccessCost",
    "TerminalValue",
    "agent_proposal",
    "critic_value",
]

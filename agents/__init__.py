"""Agents, which take environments as arguments: none yet."""

"""Agents. They take environments as arguments."""

"""The simulators, one file a family."""

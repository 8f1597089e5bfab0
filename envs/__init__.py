"""The learned environments and the simulators, behind the same spaces."""

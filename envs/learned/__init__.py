"""The learned environments."""

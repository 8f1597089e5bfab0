"""Metrics of frames and rewards."""

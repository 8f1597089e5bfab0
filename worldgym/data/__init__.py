"""Recorded episodes: files, checks, segments, and where learned environments start."""

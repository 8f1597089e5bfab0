"""Writing recordings in the formats of other projects: one file a format.

``output`` holds what the formats share, ``statistics`` and ``video`` what LeRobot's takes besides tables.
"""

"""Converting recordings of other projects into episodes: one file a format.

``formats`` names the formats and finds out which one a folder has, ``source`` holds what they share, and ``writing``
writes the episodes.
"""

"""Codes and actions -> codes: the transformer, its key/value cache and its sampling."""

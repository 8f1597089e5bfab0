"""Reports for people: evaluation, model card, demonstration, videos, and how figures were measured."""

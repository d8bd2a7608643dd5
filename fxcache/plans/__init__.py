"""Plans: which steps of a run are computed, and what the others are made of, known before it begins."""

from .plan import Plan, Quality

__all__ = ["Plan", "Quality"]

"""Plans: which steps of a run are computed, and what the others are made of, known before it begins."""

from .plan import Plan

__all__ = ["Plan"]

"""Policies: when a step is a hit. Pure functions on tensors, inlined into the graph by the passes."""

"""Functions that become nodes of the graph: the clock, the decision, the conditional."""

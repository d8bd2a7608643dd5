"""The functions that become nodes of the graph: the clock, the decision, the conditional. Pure but for the state."""

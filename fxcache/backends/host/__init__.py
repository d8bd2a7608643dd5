"""The decision on the host: which compiled stages run after which, and who writes the state."""

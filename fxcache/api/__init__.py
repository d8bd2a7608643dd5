"""The verbs: transform, compile, export, load, explain. Here the backend is chosen."""

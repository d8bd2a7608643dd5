"""What a forward reads and writes besides its tensors: Python values, the code that it runs, settings."""

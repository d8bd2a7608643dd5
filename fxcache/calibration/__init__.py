"""Calibration: plans fitted to what a model and its sampler really do."""

"""Backends: ways of running a transformed graph other than eagerly."""

"""Adapters to engines and user interfaces, each of which imports its engine only where it is used."""

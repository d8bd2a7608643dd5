"""Tests of the parts that a capture stands on, one file for each."""

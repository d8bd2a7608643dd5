"""The version of fxcache."""

__version__ = "0.1.0"

"""Everything that only a GPU can show, checked and timed by one command.

    python -m bench.gpu                          # the accelerator that torch sees; under 8 minutes
    python -m bench.gpu --quick                  # a smaller model, a part of the settings
    python -m bench.gpu --device cpu --quick     # what can be checked without one
    python -m bench.gpu --only timings --budget 1000

Nothing is downloaded. Prints a table, writes `gpu-<card>.json` (with tracebacks) and `gpu-<card>.md`, exits
with 1 where a check failed. What a version or a machine cannot do is a row that says so, and so is what the
budget left no time for. Each section is a file here, listed in `sections.py`.
"""

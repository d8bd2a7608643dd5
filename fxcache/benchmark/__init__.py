"""The DrawBench benchmark that fxcache was made for, as `fxcache bench run | metrics | report`.

    sweep → prompts → runner → records, images      run:     what a setting costs
                             → quality/              metrics: what it does to the pictures
                             → tables, plots, page   report:  both, side by side

It is measured on any diffusers pipeline folder, or on the embedded model with no download.
"""

"""A zoo of forms, not of names: how codebases other than diffusers write their models.

A small file for each form, its model written from scratch in plain torch: nothing of any codebase is in it
but how it is written down. `test_forms.py` lists them, and holds each against the plain model.
"""

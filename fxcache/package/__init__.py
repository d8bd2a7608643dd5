"""A program as a file and back: the AOTInductor package, its manifest, and the model that stands for it."""

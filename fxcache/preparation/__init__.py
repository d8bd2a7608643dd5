"""A call of a denoiser, of given sizes, such as its pipeline makes: caught from the pipeline, or made up."""

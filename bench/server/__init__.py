"""A server's point of view: mixed requests in threads, some cancelled, on one set of weights.

    python -m bench.server --requests 10000

Is every picture what its request draws alone, does memory stay flat, how many captures are there, and what is
the 99th percentile of the latency against the plain model? It serves nobody: a harness, not a server of ours.

    requests.py   what clients ask for
    models.py     what is shared by all threads: cached models of one set of weights, or the plain one
    drawing.py    one request to its end: by a pipeline, or step by step, interleaved with others
    serving.py    threads that take requests from a queue, and what became of each
    watching.py   memory, state, captures
    __main__.py   rounds of it all, and the report
"""

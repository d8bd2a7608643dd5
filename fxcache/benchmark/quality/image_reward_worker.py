"""Runs under the Python that has image-reward: a job as JSON on stdin, scores as JSON on stdout.

Imports nothing of fxcache. Where the model's folder holds `bert-base-uncased/`, its tokenizer is read
from there and nothing is downloaded.
"""

import json
import os
import sys


def main() -> None:
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the package prints while it loads; only scores may reach the caller
    job = json.load(sys.stdin)
    import ImageReward
    import torch

    os.chdir(os.path.dirname(job["checkpoint"]))
    model = ImageReward.load(job["checkpoint"], device=job["device"], med_config=job["text_config"])
    with torch.no_grad():
        scores = [float(model.score(text, path)) for text, path in job["pairs"]]
    json.dump(scores, answer)
    answer.flush()


if __name__ == "__main__":
    main()

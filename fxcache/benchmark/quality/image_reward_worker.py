"""Runs under the Python that has image-reward: a JSON line in, a JSON line out.

The first line says which model, and is answered when it is loaded; each further one holds pairs of text and
picture, and is answered with their scores. Imports nothing of fxcache. Where the model's folder holds
`bert-base-uncased/`, its tokenizer is read from there and nothing is downloaded.
"""

import json
import os
import sys


def main() -> None:
    here = os.path.dirname(os.path.abspath(__file__))  # its clip.py is not the package that ImageReward means
    sys.path[:] = [place for place in sys.path if os.path.abspath(place) != here]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the package prints while it loads; only scores may reach the caller
    job = json.loads(sys.stdin.readline())
    import ImageReward
    import torch

    os.chdir(os.path.dirname(job["checkpoint"]))
    model = ImageReward.load(job["checkpoint"], device=job["device"], med_config=job["text_config"])
    answers.write(json.dumps("loaded") + "\n")
    with torch.no_grad():
        for line in sys.stdin:
            scores = [float(model.score(text, path)) for text, path in json.loads(line)]
            answers.write(json.dumps(scores) + "\n")


if __name__ == "__main__":
    main()

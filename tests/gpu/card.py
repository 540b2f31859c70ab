"""Whether there is a card: python -m tests.gpu.card exits with 1 if there is none."""

from __future__ import annotations

import sys

import torch


def has_card() -> bool:
    return torch.cuda.is_available()


if __name__ == "__main__" and not has_card():
    sys.exit(
        f"make gpu: no card: torch {torch.__version__} finds no CUDA device. Run it where there is "
        "one, with a torch built for CUDA: make gpu PYTHON=python3"
    )

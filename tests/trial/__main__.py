"""A first user's day with a teacher of 262,144 outputs: from conversations to students.

    python -m tests.trial DIRECTORY

Each step is a process of its own. Prints a line for each with its time and the most memory it had,
and exits with 1 if a step fails, needs 6 GB or more, or does not do what is claimed. Takes two
cores a few minutes, and some more the first time, when the teacher is converted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.trial.day import steps
from tests.trial.steps import run_step


def main(directory: Path) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    directory.mkdir(parents=True, exist_ok=True)
    seconds, has_failed = 0.0, False
    for step in steps(directory):
        outcome = run_step(step, directory)
        seconds += outcome.seconds
        has_failed = has_failed or bool(outcome.failed)
        said = "; ".join(outcome.failed) or "ok"
        print(
            f"{step.name:22} {outcome.seconds:6.1f} s  {outcome.peak_bytes / 1e9:5.2f} GB  {said}",
            flush=True,
        )
    print(f"{'all':22} {seconds:6.1f} s")
    sys.exit(has_failed)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))

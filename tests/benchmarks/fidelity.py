"""What selections lose, on SmolLM2-135M and the Python language reference.

    python -m tests.benchmarks.fidelity docs/fidelity

is `softtargets fidelity` with the demo's teacher and text; its options may follow the directory.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from softtargets.cli import main
from softtargets.demo.reference_text import write_corpus
from softtargets.demo.smollm import teacher_directory

if __name__ == "__main__":
    output, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        text, _ = write_corpus(Path(name))
        arguments = [str(teacher_directory()), "--input", str(text), *options]
        # The command writes over nothing; what is there is of an earlier run of this one.
        written = Path(name) / "fidelity"
        main(["fidelity", *arguments, "--output", str(written)], standalone_mode=False)
        shutil.copytree(written, output, dirs_exist_ok=True)

"""Run an example in one process of torchrun, and fail where its process group outlives it.

A thread of gloo that drops a tensor while Python shuts down ends the process with an abort. It
happens in few runs of many; that the threads are there happens in all.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    """Run the program sys.argv[1] with what follows as its arguments."""
    program = Path(sys.argv[1])
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(program.parent))
    names = runpy.run_path(
        str(program), run_name="__main__"
    )  # As a program's globals, they live on.
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    left = sorted(thread for thread in threads if "gloo" in thread)
    if left:
        sys.exit(f"{program.name} ends, its {len(names)} names alive, beside threads: {left}")


if __name__ == "__main__":
    main()

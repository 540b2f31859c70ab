"""vLLM's server on the CPU, in the environment that `make servers` builds."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.object_store import free_port

PYTHON = "SOFTTARGETS_VLLM"
"""The environment variable with the Python of that environment."""
NAME = "smol"
MOST_ENTRIES = 128
_STARTING_SECONDS = 300
_OPTIONS = (
    "--max-model-len", "1025", "--enforce-eager", "--max-logprobs", str(MOST_ENTRIES),
    "--max-num-seqs", "8", "--no-enable-prefix-caching", "--host", "127.0.0.1",
)  # fmt: skip
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(slots=True)
class VllmProcess:
    """A server and the processes that it started."""

    process: subprocess.Popen[bytes]
    url: str

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        """End all of them at once, as a machine does that goes down."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def peak_bytes(self) -> int:
        """Return the most memory that each of them had, together."""
        found = 0
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                lines = status.read_text().splitlines()
                group = os.getpgid(int(status.parent.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
            peaks = [line.split()[1] for line in lines if line.startswith("VmHWM")]
            if group == self.process.pid and peaks:
                found += int(peaks[0]) << 10
        return found


@contextmanager
def run_vllm(
    model: Path, log: Path, *, dtype: str, port: int | None = None
) -> Iterator[VllmProcess]:
    """Run a server until it is ready, and kill it afterwards."""
    port = port or free_port()
    command = [os.environ[PYTHON], "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(model), "--served-model-name", NAME, "--dtype", dtype]
    command += [*_OPTIONS, "--port", str(port)]
    environment = os.environ | _ENVIRONMENT
    for name in ("PYTHONPATH", "OMP_NUM_THREADS"):
        environment.pop(name, None)
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, start_new_session=True
        )
    server = VllmProcess(process, f"http://127.0.0.1:{port}")
    try:
        _wait(server, log)
        yield server
    finally:
        if process.poll() is None:
            server.kill()


def _wait(server: VllmProcess, log: Path) -> None:
    end = time.monotonic() + _STARTING_SECONDS
    while time.monotonic() < end:
        if server.process.poll() is not None:
            break
        try:
            with urlopen(f"{server.url}/health"):
                return
        except URLError:
            time.sleep(0.5)
    raise RuntimeError(f"vLLM did not start:\n{log.read_text()[-2000:]}")

"""Code of documents, run in processes that are forked from a server which has imported torch.

A line of a shell that says `softtargets` starts a small program of that name. It passes what it was
given on to this process, which has the command run in a process of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.reduction import DupFd
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.processes import CONTEXT, server_address, use_server

_CLIENT = """#!{python} -SE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
call = [sys.argv, os.getcwd(), dict(os.environ)]
socket.send_fds(server, [b"!"], [0, 1, 2])
server.sendall(json.dumps(call).encode())
server.shutdown(socket.SHUT_WR)
sys.exit(int(server.recv(16) or 1))
"""


def run_shell(code: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run commands in bash, up to the first that fails."""
    with _server(directory) as programs:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=directory,
            env=os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )


def run_python(code: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run code as `python -W error -c` does."""
    return _run(_python, code, directory)


def run_module(arguments: Sequence[str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a module with arguments as `python -m` does."""
    return _run(_module, arguments, directory)


def _run(
    program: Callable[..., None], argument: Any, directory: Path
) -> subprocess.CompletedProcess[str]:
    with TemporaryDirectory() as place, open(os.devnull) as nothing:
        files = [Path(place) / name for name in ("stdout", "stderr")]
        with files[0].open("w") as out, files[1].open("w") as err:
            streams = tuple(_Stream(one.fileno()) for one in (nothing, out, err))
            own = str(directory), dict(os.environ), server_address(), streams
            process = CONTEXT.Process(target=program, args=(argument, own))
            process.start()
            process.join()
        printed = [path.read_text() for path in files]
    return subprocess.CompletedProcess(argument, process.exitcode or 0, *printed)


class _Stream:
    """A file of this process that another one gets."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> Any:
        return _received, (DupFd(self._descriptor),)


def _received(descriptor: Any) -> int:
    return int(descriptor.detach())


@contextmanager
def _server(directory: Path) -> Iterator[Path]:
    """Yield a directory with a program `softtargets` that is run here."""
    programs = directory / ".programs"
    programs.mkdir(exist_ok=True)
    address, program = programs / "socket", programs / "softtargets"
    address.unlink(missing_ok=True)
    program.write_text(_CLIENT.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        thread = threading.Thread(target=_serve, args=(listener,))
        thread.start()
        try:
            yield programs
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            caller, _ = listener.accept()
        except OSError:  # The shell has ended.
            return
        threading.Thread(target=_answer, args=(caller,)).start()


def _answer(caller: socket.socket) -> None:
    with caller:
        _, descriptors, *_ = socket.recv_fds(caller, 1, 3)
        arguments, *own = json.loads(b"".join(iter(lambda: caller.recv(1 << 16), b"")))
        place = (*own, server_address(), tuple(map(_Stream, descriptors)))
        process = CONTEXT.Process(target=_command, args=(arguments, place))
        process.start()
        for descriptor in descriptors:
            os.close(descriptor)
        process.join()
        caller.sendall(str(process.exitcode).encode())


_Place = tuple[str, Mapping[str, str], str, tuple[int, ...]]
"""A directory, an environment, the address of the server, and three streams."""


def _command(arguments: list[str], place: _Place) -> None:
    from softtargets.cli import main

    _take(*place)
    sys.argv = arguments
    main(prog_name="softtargets")


def _python(code: str, place: _Place) -> None:
    _take(*place)
    warnings.simplefilter("error")
    sys.path.insert(0, "")
    names = sys.modules["__main__"].__dict__
    exec(compile(code, "<string>", "exec"), names)


def _module(arguments: Sequence[str], place: _Place) -> None:
    _take(*place)
    sys.argv = list(arguments)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def _take(
    directory: str, environment: Mapping[str, str], server: str, streams: tuple[int, ...]
) -> None:
    """Make a place this process's own."""
    multiprocessing.set_start_method(None, force=True)  # As in a program that somebody starts.
    use_server(server)
    os.chdir(directory)
    os.environ.update(environment)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # Those of multiprocessing are closed, or belong to the server.
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, closefd=False)  # noqa: SIM115
        for number, mode in enumerate(("r", "w", "w"))
    )

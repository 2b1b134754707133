"""Commands of users, run by a process that has imported what takes seconds.

``warm.start(folder)`` puts ``influcoder`` and ``python`` into a folder for PATH. Each hands its
arguments, environment, working folder, streams and bound on memory to a server, which forks and
does in the fork what the command would have done in a process of its own.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import resource
import runpy
import socket
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import NoReturn

COMMANDS = ("influcoder", "python")
FORKS = multiprocessing.get_context("forkserver")
"""Starts processes of a test that have imported what takes seconds already."""
FORKS.set_forkserver_preload(
    ["lightning.pytorch", "peft", "torch.distributed.fsdp", "torchdata.stateful_dataloader",
     "transformers.models.llama.modeling_llama", "influcoder_lightning.callback.influence_callback",
     "influcoder_lightning.scoring.run"]
)  # fmt: skip
_CLIENT = """\
#!{python} -SE
import json, os, resource, socket, sys
name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
warm = arguments[:2] == ["-m", "influcoder_lightning.cli.helper"]
if name == "python" and not warm and not (arguments and arguments[0].endswith(".py")):
    os.execv({python!r}, [{python!r}, *arguments])
server = socket.socket(socket.AF_UNIX)
server.connect({place!r})
socket.send_fds(server, [b"x"], [0, 1, 2])
asked = {{"name": name, "arguments": arguments, "folder": os.getcwd(), "env": dict(os.environ)}}
asked["command"] = os.path.abspath(sys.argv[0])
asked["memory"] = resource.getrlimit(resource.RLIMIT_AS)
server.sendall(json.dumps(asked).encode())
server.shutdown(socket.SHUT_WR)
sys.exit(int(server.recv(16)))
"""


def start(folder: Path) -> subprocess.Popen[str]:
    """Start the server, and put the commands into ``folder``; its end is the caller's affair."""
    place = str(folder / "server")
    for name in COMMANDS:
        path = folder / name
        path.write_text(_CLIENT.format(python=sys.executable, place=place), encoding="utf-8")
        path.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, place], stdout=subprocess.PIPE, text=True, cwd=folder
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    return server


def serve(place: str) -> None:
    """Answer one command after the other."""
    from influcoder_lightning.recipes import recipe_called
    from influcoder_lightning.run.config import RECIPES

    for name in RECIPES:
        recipe_called(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen()
    print("ready", flush=True)
    while True:
        client, _ = listener.accept()
        _, streams, _, _ = socket.recv_fds(client, 1, 3)
        asked = json.loads(b"".join(iter(lambda: client.recv(1 << 16), b"")))  # noqa: B023
        keeper = os.fork()
        if keeper == 0:
            _keep(client, asked, streams)
        os.waitpid(keeper, 0)
        client.close()
        for stream in streams:
            os.close(stream)


def _keep(client: socket.socket, asked: dict, streams: list[int]) -> NoReturn:
    """Run the command in a fork of this fork, and tell the client how it ended.

    The server goes on meanwhile: a command may start another one.
    """
    if os.fork() == 0:
        child = os.fork()
        if child == 0:
            client.close()
            os._exit(_run(asked, streams))
        for stream in streams:
            os.close(stream)
        _, status = os.waitpid(child, 0)
        client.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _run(asked: dict, streams: list[int]) -> int:
    """The command, in a fork of the server; its exit code."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    # New ones: a terminal's lines are shown at once, a file's are not.
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    resource.setrlimit(resource.RLIMIT_AS, tuple(asked["memory"]))
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["env"])
    code: object = 0
    if "UNDRAWN" in os.environ:  # nobody looks at the figures of this command
        sys.path.insert(0, str(Path(__file__).parent))
        undrawn = __import__("undrawn").undrawn
        sys.path.pop(0)
        undrawn().start()
    try:
        if asked["name"] == "python":
            script, *arguments = asked["arguments"]
            if script == "-m":
                script, *arguments = arguments
            sys.executable = asked["command"]  # what Lightning starts its further processes with
            sys.argv, sys.path[0] = [script, *arguments], str(Path(script).resolve().parent)
            if asked["arguments"][0] == "-m":
                runpy.run_module(script, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(script, run_name="__main__")
        else:
            from influcoder_lightning.cli import main

            sys.argv = [str(Path(sys.executable).with_name("influcoder")), *asked["arguments"]]
            sys.executable = str(Path(asked["command"]).with_name("python"))  # of further devices
            main()
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    # As the interpreter ends; the first closes joblib's pool, whose processes hold the streams.
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code if isinstance(code, int) else 1


if __name__ == "__main__":
    serve(sys.argv[1])

"""Where there are no processes to fork, one does everything: importing these modules asks for nothing of Unix."""

import subprocess
import sys
from pathlib import Path

import app.processes

WITHOUT_UNIX = """
import asyncio, logging.handlers, mmap, multiprocessing, select, signal, socket, subprocess
import fastapi, numpy, onnxruntime, orjson, prometheus_client, uvicorn
import os
for module, names in {
    os: ("fork", "waitpid", "setpgid"),
    signal: ("SIGCHLD", "SIGKILL", "pthread_sigmask", "SIG_BLOCK", "SIG_UNBLOCK"),
    socket: ("AF_UNIX", "send_fds", "recv_fds"),
}.items():
    for name in names:
        delattr(module, name)
"""


def test_every_module_can_be_imported_where_there_is_no_fork() -> None:
    modules = [f"app.processes.{file.stem}" for file in Path(app.processes.__file__).parent.glob("*.py")]
    code = WITHOUT_UNIX + "".join(f"import {module.removesuffix('.__init__')}\n" for module in sorted(modules))
    code += "from app.main import worker_count\nfrom app.settings import Settings\nprint(worker_count(Settings()))\n"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "1\n", ended.stderr

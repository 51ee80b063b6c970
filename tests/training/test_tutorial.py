"""The shell of the README's section on training runs as it stands there, on drawn shapes."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from shapes import SHAPES, write_folders

README = Path(__file__).parents[2] / "README.md"


def test_the_tutorial_goes_from_pictures_to_an_answer(tmp_path: Path) -> None:
    write_folders(tmp_path / "pictures", 60)
    section = README.read_text(encoding="utf-8").split("## Train on your own data")[1]
    script = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)[0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace("8000", port)],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "IMAGO_CACHE": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    answer = json.loads(next(line for line in run.stdout.splitlines() if line.startswith('{"model"')))
    assert answer["model"] == "mine"
    assert answer["results"][0]["labels"][0]["label"] in SHAPES
    for made in ("contact-sheet.png", "evaluation/report.html", "evaluation/report.json", "models/mine/1/README.md"):
        assert (tmp_path / made).is_file()
    assert "leaks between parts: 0" in run.stdout

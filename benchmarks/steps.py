"""From stack samples to the steps of a request: which step a stack belongs to, and what a step costs.

A sample counts for the innermost frame that a rule knows, so that what a step calls counts for the step. Frames are
those of `py-spy record --format raw --nolineno`: `function (file)`, the outermost first.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

OTHER: Final = "other"

_RULES: Final = {
    "inference (ONNX Runtime)": (r"\(onnxruntime/", r"\(app/runtime/"),
    "decode and fit the picture": (r"\(PIL/", r"\(app/imaging/", r"prepare \(app/tasks/"),
    "hop to the engine process": (r"\(app/processes/",),
    "batch: queue, stack, split": (r"\(app/scheduling/", r"\(app/tensors\.py\)"),
    "metrics and log": (
        r"\(app/telemetry/", r"\(logging/", r"\(prometheus_client/", r"_observed \(app/servable\.py\)",
        r"finish \(app/api/middleware\.py\)",
    ),
    "interpret the outputs": (r"\(app/tasks/",),
    "JSON": (r"^_?json(_body)? \(", r"\(orjson"),
    "answer: headers and send": (
        r"(headers_for|server_timing|_traceparent|_respond|_answer|send_with_headers) \(app/",
        r"(send|write|on_response_complete) \(uvicorn/", r"\(starlette/responses\.py\)",
    ),
    "query and options": (r"\(app/api/calls\.py\)", r"\(urllib/"),
    "body": (r"\(app/api/uploads\.py\)", r"\(starlette/(requests|formparsers)\.py\)", r"\(python_multipart/"),
    "route and middleware (ASGI)": (
        r"\(app/(api|repository)/", r"\(app/(servable|main)\.py\)", r"\((starlette|fastapi)/",
    ),
    "socket, event loop, HTTP parsing": (
        r"\(app/(server|__main__)\.py\)", r"\((uvicorn|asyncio|uvloop)/", r"\(socket\.py\)",
    ),
}  # fmt: skip
"""Step by step what its frames look like; the first step that knows a frame has it."""

STEPS: Final = tuple(_RULES)
_COMPILED: Final = {step: re.compile("|".join(patterns)) for step, patterns in _RULES.items()}
_IDLE: Final = re.compile(
    r"_worker \(concurrent/futures/thread\.py\)|(wait|get|select) \((threading|queue|selectors)\.py\)"
)
"""Where a thread waits: py-spy takes some of them for busy."""


@dataclass(frozen=True)
class Samples:
    """What one process was seen doing."""

    steps: Counter[str]
    """Samples of each step; what is idle is left out."""
    unknown: Counter[str]
    """Innermost frames of the samples that no rule knows."""


def step_of(stack: str) -> str | None:
    """The step of a stack, `function (file);function (file);...`; None where the thread only waits."""
    frames = stack.split(";")
    if _IDLE.search(frames[-1]):
        return None
    for frame in reversed(frames):
        for step, pattern in _COMPILED.items():
            if pattern.search(frame):
                return step
    return OTHER


def samples(raw: Iterable[str]) -> Samples:
    """Count the lines of a raw profile, `stack count`."""
    found = Samples(Counter(), Counter())
    for line in raw:
        stack, _, count = line.rpartition(" ")
        step = step_of(stack)
        if step is not None:
            found.steps[step] += int(count)
        if step == OTHER:
            found.unknown[stack.rpartition(";")[2]] += int(count)
    return found


def microseconds(seen: Mapping[int, Samples], cpu_seconds: Mapping[int, float], requests: float) -> dict[str, float]:
    """Microseconds of CPU a request, by step.

    `seen` and `cpu_seconds` are by process: the CPU time of each is shared out by its own samples, so that a process
    that mostly sleeps counts for what it works. `requests` were answered in that time.
    """
    costs: dict[str, float] = dict.fromkeys((*STEPS, OTHER), 0.0)
    for pid, spent in cpu_seconds.items():
        counted = seen[pid].steps if pid in seen else Counter[str]()
        total = counted.total()
        for step, count in (counted if total else Counter({OTHER: 1})).items():
            costs[step] += spent / requests * 1e6 * count / (total or 1)
    return costs

"""From stack samples to the steps of a request: which step a stack belongs to, and what a step costs.

A sample counts for the innermost frame that a rule knows, so that what a step calls counts for the step. Frames are
those of `py-spy record --format raw --nolineno --threads`: the thread, then `function (file)`, the outermost first.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

OTHER: Final = "other"
OUTSIDE: Final = "threads outside Python (ONNX Runtime's own)"

_RULES: Final = {
    "inference (ONNX Runtime)": (r"\(onnxruntime/", r"\(app/runtime/"),
    "encode or draw a picture": (r"encode_png \(app/imaging/", r"\(app/imaging/paint\.py\)", r"draw \(app/tasks/"),
    "decode and fit the picture": (r"\(app/imaging/", r"prepare \(app/tasks/"),
    "hop to the engine process": (r"\(app/processes/",),
    "batch: queue, stack, split": (r"\(app/scheduling/", r"\(app/tensors\.py\)"),
    "metrics and log": (
        r"\(app/telemetry/", r"\(logging/", r"\(prometheus_client/", r"_observed \(app/servable\.py\)",
        r"finish \(app/api/middleware\.py\)",
    ),
    "interpret the outputs": (r"\(app/tasks/",),
    "JSON": (r"^_?json(_body)? \(", r"\(orjson"),
    "answer: headers and send": (
        r"(headers_for|server_timing|_traceparent|_respond|_answer|_written|send_with_headers) \(app/",
        r"(send|own_headers|on_response_complete|_go_on) \(app/wire/",
        r"(send|write) \(uvicorn/", r"\(starlette/responses\.py\)",
    ),
    "query and options": (r"\(app/api/calls\.py\)", r"\(urllib/"),
    "body": (r"\(app/api/uploads\.py\)", r"\(starlette/(requests|formparsers)\.py\)", r"\(python_multipart/"),
    "route and middleware (ASGI)": (
        r"\(app/(api|repository)/", r"\(app/(servable|main)\.py\)", r"\((starlette|fastapi)/",
    ),
    "socket, event loop, HTTP parsing": (
        r"\(app/((server|__main__)\.py|wire/)", r"\((uvicorn|asyncio|uvloop)/", r"\(socket\.py\)",
    ),
}  # fmt: skip
"""Step by step what its frames look like; the first step that knows a frame has it. Pillow's frames are known to none:
they count for whoever of imago called."""

STEPS: Final = tuple(_RULES)
_COMPILED: Final = {step: re.compile("|".join(patterns)) for step, patterns in _RULES.items()}
_THREAD: Final = re.compile(r"^thread \((\d+)\)[^;]*;")
_IDLE: Final = re.compile(
    r"_worker \(concurrent/futures/thread\.py\)|(wait|get|select) \((threading|queue|selectors)\.py\)"
)
"""Where a thread waits: py-spy takes some of them for busy."""


@dataclass
class Samples:
    """What threads were seen doing."""

    steps: dict[int, Counter[str]] = field(default_factory=dict)
    """By thread, samples of each step; what is idle is left out."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Innermost frames of the samples that no rule knows."""

    def add(self, raw: Iterable[str]) -> None:
        """Count the lines of a raw profile, `stack count`."""
        for line in raw:
            stack, _, count = line.rpartition(" ")
            thread = _THREAD.match(stack)
            step = step_of(stack)
            if thread is None or step is None:
                continue
            self.steps.setdefault(int(thread[1]), Counter())[step] += int(count)
            if step == OTHER:
                self.unknown[stack.rpartition(";")[2]] += int(count)


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


def microseconds(seen: Samples, cpu_seconds: Mapping[int, float], requests: float) -> dict[str, float]:
    """Microseconds of CPU a request, by step.

    `cpu_seconds` is by thread, while `requests` were answered. The time of each thread is shared out by its own
    samples, so that one that was seen waiting counts for what it works; one that was never seen is none of Python's.
    """
    costs: dict[str, float] = dict.fromkeys((*STEPS, OUTSIDE, OTHER), 0.0)
    for thread, spent in cpu_seconds.items():
        counted = seen.steps.get(thread, Counter({OUTSIDE: 1}))
        for step, count in counted.items():
            costs[step] += spent / requests * 1e6 * count / counted.total()
    return costs

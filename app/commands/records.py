"""What became of one picture, as one JSON object: of a verb's `--json`, and a line of what `imago batch` writes."""

from app.client import JsonObject, ServiceProblem


def record_of(file: str | None, model: str, version: int, result: JsonObject) -> JsonObject:
    """A result, of which file and from whom."""
    named = {} if file is None else {"file": file}
    return {**named, "model": model, "version": version, "result": result}


def failure_of(file: str | None, code: str, detail: str) -> JsonObject:
    """What failed, with the stable code of the error."""
    named = {} if file is None else {"file": file}
    return {**named, "error": {"code": code, "detail": detail}}


def problem_record(file: str | None, error: ServiceProblem | OSError) -> JsonObject:
    """The same of what a client raises: `unreadable-file` where no service was asked."""
    if isinstance(error, OSError):
        return failure_of(file, "unreadable-file", f"{file} cannot be read: {error.strerror}.")
    return failure_of(file, error.code, error.detail)

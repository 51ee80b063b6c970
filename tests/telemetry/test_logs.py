"""Log lines: one record, one line, whatever a stranger put into it."""

import json
import logging
import subprocess
import sys

import pytest

from app.telemetry.logs import ACCESS, ACCESS_BY_KEY, AUDIT, JsonLines, TextLines, request_id

FORGED = "2026-01-01T00:00:00Z ERROR imago [-] forged"


def record(text: str, *arguments: object, failed: Exception | None = None) -> logging.LogRecord:
    error = None
    if failed is not None:
        try:
            raise failed
        except Exception:
            error = sys.exc_info()
    return logging.LogRecord("imago.test", logging.INFO, "file.py", 1, text, arguments, error)


BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
MARKS = ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\0", "\b", "\x7f", "\u202e", "\u2066", "\u200b", "\ufeff", "\udcff"]


@pytest.mark.parametrize("mark", [*BREAKS, *MARKS], ids=ascii)
def test_what_breaks_lines_or_moves_cursors_is_escaped(mark: str) -> None:
    for form in (TextLines(), JsonLines()):
        line = form.format(record(f"x{mark}{FORGED}"))
        assert line.isprintable()
        assert len(line.splitlines()) == 1
        assert line.encode("utf-8")


def test_an_escaped_text_can_be_told_from_one_that_looks_so() -> None:
    lines = [TextLines().format(record(text)).partition("] ")[2] for text in ("a\nb", "a\\nb", "\u00e9t\u00e9")]
    assert lines == ["a\\nb", "a\\\\nb", "\u00e9t\u00e9"]


@pytest.mark.parametrize("mark", BREAKS, ids=ascii)
def test_the_text_of_an_error_forges_no_record(mark: str) -> None:
    line = TextLines().format(record("failed", failed=ValueError(f"x{mark}{FORGED}")))
    first, *rest = line.splitlines()
    assert first.endswith("failed")
    assert rest
    assert all(one.startswith("    ") for one in rest)
    told = JsonLines().format(record("failed", failed=ValueError(f"x{mark}{FORGED}")))
    assert len(told.splitlines()) == 1
    assert "forged" in json.loads(told)["error"]


def test_a_line_names_the_request_that_it_belongs_to() -> None:
    token = request_id.set("abc")
    try:
        assert "[abc]" in TextLines().format(record("x"))
        assert json.loads(JsonLines().format(record("x")))["request"] == "abc"
    finally:
        request_id.reset(token)


def test_a_json_line_is_one_object_with_its_time_in_utc() -> None:
    entry = json.loads(JsonLines().format(record('quote " and\nbreak')))
    assert entry["text"] == 'quote " and\nbreak'
    assert entry["time"].endswith("Z")
    assert entry["level"] == "INFO"


def test_what_a_text_says_of_a_request_is_there_by_name_as_well() -> None:
    entry = json.loads(JsonLines().format(record(ACCESS_BY_KEY, "POST", "/classify", 200, 3.14159, "00c0ffee")))
    assert entry["text"] == "POST /classify 200 3.1 ms, key 00c0ffee"
    assert (entry["method"], entry["path"], entry["status"]) == ("POST", "/classify", 200)
    assert (entry["milliseconds"], entry["key"]) == (3.14, "00c0ffee")
    assert "key" not in json.loads(JsonLines().format(record(ACCESS, "POST", "/classify", 200, 3.1)))
    entry = json.loads(JsonLines().format(record(AUDIT, "00c0ffee", "192.0.2.1", "POST", "/v2", 200)))
    assert (entry["key"], entry["address"], entry["status"]) == ("00c0ffee", "192.0.2.1", 200)


def test_other_libraries_warn_in_the_same_form_and_broken_forms_are_no_warning() -> None:
    program = (
        "import logging; from app.telemetry import logs; logs.configure('info', 'json');"
        "logging.getLogger('python_multipart.multipart').warning('Expected boundary character');"
        "logging.getLogger('some.library').warning('one\\ntwo')"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr
    (line,) = said.splitlines()
    assert json.loads(line)["logger"] == "some.library"

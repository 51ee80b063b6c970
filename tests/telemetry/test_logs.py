"""Log lines: one record, one line, whatever a stranger put into it."""

import json
import logging

from app.telemetry.logs import JsonLines, TextLines, request_id


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("imago.test", logging.INFO, "file.py", 1, text, (), None)


def test_a_line_break_in_the_text_forges_no_second_record() -> None:
    line = TextLines().format(record("x\n2026-01-01T00:00:00Z ERROR imago [-] forged\r"))
    assert "\n" not in line
    assert "\r" not in line


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

"""Every form of body: what is read from it, and how broken ones are refused."""

import asyncio
import base64
import encodings as python_encodings
import json
from typing import Any

import numpy as np
import pytest
from starlette.types import Message

from app.api.multipart import parts_of
from app.api.uploads import read_upload
from app.errors import InvalidRequest
from tests.api.conftest import MAX_BODY
from tests.api.service import Service, in_chunks
from tests.counting import Counting
from tests.imaging.pictures import noise, png, save

RED, GREEN, BLUE = (save(np.full((9, 12, 3), colour, np.uint8)) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200)))
BROKEN = save(noise(9, 12))[:200]
BOUNDARY = "edge"
MULTIPART = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def best(result: dict[str, Any]) -> str:
    """What a result comes to: its best label, or the code of its error."""
    return str(result["error"]["code"] if "error" in result else result["labels"][0]["label"])


def part(head: str, body: bytes = b"x") -> bytes:
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + body + b"\r\n"


def file_part(body: bytes, name: str = "file") -> bytes:
    return part(f'Content-Disposition: form-data; name="{name}"; filename="p"', body)


END = f"--{BOUNDARY}--\r\n".encode()


@pytest.mark.parametrize(
    "kind",
    ["image/png", "image/jpeg", "image/*", "application/octet-stream", "application/x-www-form-urlencoded",
     "text/plain", "", "nonsense", "application/xml", "IMAGE/PNG; charset=utf-8"],
)  # fmt: skip
def test_a_raw_body_is_one_picture_whatever_it_is_called(service: Service, kind: str) -> None:
    answer = service.post("/classify", GREEN, headers={"content-type": kind} if kind else {})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    found = answer.json()
    assert (found["model"], found["version"], len(found["results"])) == ("tiny-classifier", 1, 1)
    assert best(found["results"][0]) == "green"


def test_a_raw_body_may_come_in_pieces_of_unknown_length(service: Service) -> None:
    answer = service.post("/classify", in_chunks(BLUE, 7))
    assert [best(result) for result in answer.json()["results"]] == ["blue"]


def test_files_of_a_form_are_answered_in_their_order(service: Service) -> None:
    files = [("file", ("a.png", data)) for data in (BLUE, RED, GREEN)]
    answer = service.ask("POST", "/classify", files=files)
    assert [best(result) for result in answer.json()["results"]] == ["blue", "red", "green"]


def test_options_may_stand_beside_the_files_of_a_form_and_win_over_the_query(service: Service) -> None:
    fields = {"top_k": "2", "model": "tiny-classifier", "version": "1"}
    answer = service.ask("POST", "/classify?top_k=1", files=[("file", ("a", RED))], data=fields)
    assert len(answer.json()["results"][0]["labels"]) == 2


def test_pictures_in_json_are_answered_in_their_order(service: Service) -> None:
    body = {"images": [text(BLUE), f"data:image/png;base64,{text(RED)}", f"data:text/html,{text(GREEN)}"], "top_k": 1}
    answer = service.ask("POST", "/classify", json=body)
    assert [best(result) for result in answer.json()["results"]] == ["blue", "red", "green"]
    assert [len(result["labels"]) for result in answer.json()["results"]] == [1, 1, 1]


def test_one_shape_of_answer_for_every_form_of_body(service: Service) -> None:
    answers = [
        service.post("/classify", RED).json(),
        service.ask("POST", "/classify", files=[("file", ("a", RED))]).json(),
        service.ask("POST", "/classify", json={"images": [text(RED)]}).json(),
    ]
    assert answers == [answers[0]] * 3


def test_text_that_is_no_base64_is_an_error_in_its_place(service: Service) -> None:
    answer = service.ask("POST", "/classify", json={"images": [text(RED), "not base64!", text(BLUE)]})
    assert [best(result) for result in answer.json()["results"]] == ["red", "invalid-request", "blue"]


@pytest.mark.parametrize("form", ["multipart", "json"])
def test_a_broken_picture_among_others_is_an_error_in_its_place(service: Service, form: str) -> None:
    pictures = [RED, b"no picture", BROKEN, BLUE]
    if form == "json":
        answer = service.ask("POST", "/classify", json={"images": [text(data) for data in pictures]})
    else:
        answer = service.ask("POST", "/classify", files=[("file", ("a", data)) for data in pictures])
    results = answer.json()["results"]
    assert answer.status_code == 200
    assert [best(result) for result in results] == ["red", "unsupported-image", "corrupt-image", "blue"]
    assert [results[place]["error"]["status"] for place in (1, 2)] == [415, 422]
    assert results[1]["error"]["instance"] == f"urn:imago:request:{answer.headers['x-request-id']}"


def test_an_empty_and_a_huge_picture_among_others_are_errors_in_their_places(service: Service) -> None:
    answer = service.ask("POST", "/classify", json={"images": ["", text(png(9999, 9999)), text(RED)]})
    assert [best(result) for result in answer.json()["results"]] == ["empty-body", "image-too-large", "red"]


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "empty-body"),
        (b"no picture", 415, "unsupported-image"),
        (save(noise(4, 4), "GIF"), 415, "unsupported-image"),
        (BROKEN, 422, "corrupt-image"),
        (png(50_000, 50_000), 413, "image-too-large"),
        (bytes(MAX_BODY + 1), 413, "body-too-large"),
    ],
)
@pytest.mark.parametrize("form", ["raw", "multipart", "json"])
def test_a_single_failure_fails_as_a_whole(service: Service, form: str, data: bytes, status: int, code: str) -> None:
    if form == "raw":
        answer = service.post("/segment", data)
    elif form == "json":
        answer = service.ask("POST", "/segment", json={"images": [text(data)]})
    else:
        answer = service.ask("POST", "/segment", files=[("file", ("a", data))])
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


PLAIN = np.full((500, 500, 3), (10, 20, 200), np.uint8)


@pytest.mark.parametrize("path", ["/classify", "/segment"])
def test_a_picture_of_exactly_the_pixel_limit_is_answered_and_one_row_more_is_not(service: Service, path: str) -> None:
    answer = service.post(path, save(PLAIN))
    assert answer.status_code == 200
    assert "blue" in answer.text
    assert service.post(path, save(PLAIN[:1].repeat(501, 0))).status_code == 413


def test_a_large_picture_that_is_damaged_is_refused_like_a_small_one(service: Service) -> None:
    whole = save(noise(300, 300))
    assert service.post("/classify", whole).status_code == 200
    answer = service.post("/classify", whole[: len(whole) // 2])
    assert (answer.status_code, answer.json()["code"]) == (422, "corrupt-image")


@pytest.mark.parametrize("path", ["/classify", "/segment", "/generate"])
@pytest.mark.parametrize("size", [MAX_BODY + 1, 10 * MAX_BODY])
def test_a_body_over_the_limit_is_refused_whether_announced_or_not(service: Service, path: str, size: int) -> None:
    for body in (bytes(size), in_chunks(bytes(size), 20_000)):
        answer = service.post(path, body)
        assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large")


@pytest.mark.parametrize("length", [b"99999999999", b"9" * 5000, b"300001"])
def test_an_announced_length_is_believed(service: Service, length: bytes) -> None:
    answer = service.exchange("POST", "/classify", headers=[(b"content-length", length)], body=RED)
    assert (answer.status, answer.json()["code"]) == (413, "body-too-large")


@pytest.mark.parametrize("length", [b"", b"-1", b"+5", b"1e9", b"\xb2", b"0x10"])
def test_a_length_that_is_no_number_is_left_to_the_server(service: Service, length: bytes) -> None:
    assert service.exchange("POST", "/classify", headers=[(b"content-length", length)], body=RED).status == 200


def test_a_body_of_exactly_the_limit_is_read(service: Service) -> None:
    body = RED + bytes(MAX_BODY - len(RED))
    assert service.post("/classify", body).status_code == 200
    assert service.post("/classify", in_chunks(body, 1 << 16)).status_code == 200


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "GZIP", "gzip, identity", "x" * 500])
def test_a_coded_body_is_refused(service: Service, coding: str) -> None:
    answer = service.post("/classify", RED, headers={"content-encoding": coding})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-content-encoding")
    assert len(answer.json()["detail"]) < 150


def test_the_coding_that_changes_nothing_is_taken(service: Service) -> None:
    assert service.post("/classify", RED, headers={"content-encoding": "identity"}).status_code == 200


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b'"text"', b"null", b"3", b"\xff\xfe", b"\xef\xbb\xbf{}", json.dumps({}).encode("utf-16"),
        b"{}", b'{"images": null}', b'{"images": "abc"}', b'{"images": [1]}', b'{"images": [[]]}', b'{"images": []}',
        b'{"images": ["not base64!"]}', b'{"images": ["YQ"]}', b'{"images": ["Y\\nQ=="]}', b'{"images": ["\xc3\xa9"]}',
        b'{"images": ["\\ud800"]}', b'{"images": NaN}', b'{"images": [Infinity]}', b'{"image": ["YQ=="]}',
        b'{"images": ["YQ=="], "images": 3}', b'{"images": {"0": "YQ=="}}',
        b"[" * 100_000, b'{"a":' * 50_000, b'{"images": ' + b"[" * 5000, b'{"images": [' + b'"",' * 50_000 + b'""]}',
        b'{"images": ["YQ=="]} trailing', b"{'images': []}", b'{"images": ["data:"]}',
    ],
)  # fmt: skip
def test_json_that_holds_no_pictures_is_a_bad_request(service: Service, body: bytes) -> None:
    answer = service.post("/classify", body, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) in {(400, "invalid-request"), (400, "empty-body")}
    assert len(answer.content) < 600


def test_json_of_more_values_than_any_request_has_is_refused_before_it_is_read(service: Service) -> None:
    for path in ("/classify", "/generate"):
        answer = service.post(path, b'{"images": [' + b"[]," * 90_000 + b"[]]}", headers=JSON)
        assert (answer.status_code, answer.json()["detail"]) == (400, "The JSON body holds more than 10000 values.")


@pytest.mark.parametrize(
    "options",
    ['"top_k": NaN', '"top_k": 1e400', '"top_k": ' + "9" * 4000, '"top_k": -1', '"top_k": null', '"top_k": []',
     '"top_k": {}', '"top_k": 0.5', '"top_k": "' + "9" * 5000 + '"', '"version": 1.5', '"version": []', '"model": 5',
     '"model": null, "explain": 7', '"' + "k" * 50_000 + '": 1', '"": 1', '"\\u0000": 1', '"images ": []',
     '"__proto__": {}', '"version": ' + "9" * 30],
)  # fmt: skip
def test_options_in_json_of_a_wrong_kind_are_refused(service: Service, options: str) -> None:
    body = f'{{"images": ["{text(RED)}"], {options}}}'.encode()
    answer = service.post("/classify", body, headers=JSON)
    assert answer.status_code in {400, 404, 422}
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 600


def test_an_option_given_twice_in_json_has_its_last_value(service: Service) -> None:
    body = f'{{"images": ["{text(RED)}"], "top_k": 1, "top_k": 2}}'.encode()
    assert len(service.post("/classify", body, headers=JSON).json()["results"][0]["labels"]) == 2


@pytest.mark.parametrize("form", ["multipart", "json"])
def test_more_pictures_than_allowed_are_refused(service: Service, form: str) -> None:
    if form == "json":
        answer = service.ask("POST", "/classify", json={"images": [text(RED)] * 5})
    else:
        answer = service.ask("POST", "/classify", files=[("file", ("a", RED))] * 5)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")
    assert "4" in answer.json()["detail"]


ABUSE = {
    "nothing": b"",
    "no end": file_part(RED),
    "end alone": END,
    "no boundary in the body": RED,
    "no line after headers": f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"'.encode(),
    "no disposition": part("Content-Type: image/png", RED) + END,
    "no name": part("Content-Disposition: form-data", RED) + END,
    "no header at all": f"--{BOUNDARY}\r\n\r\n".encode() + RED + b"\r\n" + END,
    "options without a file": part('Content-Disposition: form-data; name="top_k"', b"1") + END,
    "an unknown option": file_part(RED) + part('Content-Disposition: form-data; name="tok_k"', b"1") + END,
    "a huge option": file_part(RED) + part('Content-Disposition: form-data; name="top_k"', b"1" * 200_000) + END,
    "seventeen fields": file_part(RED) + part('Content-Disposition: form-data; name="top_k"') * 17 + END,
    "a thousand fields": part('Content-Disposition: form-data; name="a"') * 1000 + END,
    "a thousand files": file_part(b"x") * 1000 + END,
    "a thousand headers": part("X: y\r\n" * 1000 + 'Content-Disposition: form-data; name="file"; filename="a"') + END,
    "a huge header": part(f'X: {"y" * 100_000}\r\nContent-Disposition: form-data; name="file"; filename="a"') + END,
    "a header without colon": part("Content-Disposition form-data") + END,
    "an empty header name": part(": value") + END,
    "no line breaks": file_part(RED).replace(b"\r\n", b" ") + END,
    "nested multipart": part(f"Content-Type: multipart/mixed; boundary={BOUNDARY}", file_part(RED)) + END,
    "a part encoded": part('Content-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: base64', b"eA==")
    + END,
    "text for a name": part('Content-Disposition: form-data; name="\xff\xfe\x00"') + END,
    "an empty file": file_part(b"") + END,
    "a file name that forms may not encode": file_part(RED).replace(b'filename="p"', b"filename*=utf-8''x") + END,
    "an end inside the second file": file_part(RED) + file_part(GREEN),
}


@pytest.mark.parametrize("name", ABUSE)
def test_a_broken_form_is_the_fault_of_its_sender(service: Service, name: str) -> None:
    for body in (ABUSE[name], in_chunks(ABUSE[name], 1000)):
        answer = service.post("/classify", body, headers=MULTIPART)
        assert answer.status_code in {400, 415, 422}, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert len(answer.content) < 600


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (part('Content-Disposition: form-data; name="top_k"', b"1") * 17, "at most 16 fields"),
        (file_part(RED) * 5, "at most 4 files"),
        (file_part(RED) * 30, "at most 4 files"),
        (part(f'Content-Disposition: form-data; name="file"; filename="{"n" * 20_000}"', RED), "no valid multipart"),
        (part(f'X: {"y" * 20_000}\r\nContent-Disposition: form-data; name="a"'), "no valid multipart"),
        (file_part(RED) + file_part(GREEN)[:-9], "ends before its last boundary"),
    ],
)
def test_a_form_refused_is_told_why(service: Service, parts: bytes, told: str) -> None:
    body = parts if told.startswith("ends") else parts + END
    assert told in service.post("/classify", body, headers=MULTIPART).json()["detail"]


HARMLESS = {
    "preamble": b"\r\n" * 20_000 + file_part(RED) + END,
    "epilogue": file_part(RED) + END + b"\r\n" * 20_000,
    "a path for a name": file_part(RED).replace(b'filename="p"', b'filename="../../etc/passwd\\0"') + END,
    "a very long name": file_part(RED).replace(b'filename="p"', b'filename="' + b"n" * 3000 + b'"') + END,
    "another field name": file_part(RED, "anything") + END,
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_surrounds_a_file_does_not_matter(service: Service, name: str) -> None:
    answer = service.post("/classify", HARMLESS[name], headers=MULTIPART)
    assert answer.status_code == 200, answer.text
    assert [best(result) for result in answer.json()["results"]] == ["red"]


@pytest.mark.parametrize(
    "parameters",
    ["", "; boundary=", "; boundary=other", '; boundary="', "; boundary=" + "b" * 5000, "; charset=x", ";;;=;boundary",
     "; boundary=\u00e9"],
)  # fmt: skip
def test_a_form_without_its_boundary_is_a_bad_request(service: Service, parameters: str) -> None:
    kind = "multipart/form-data" + parameters
    answer = service.exchange(
        "POST", "/classify", headers=[(b"content-type", kind.encode("latin-1"))], body=file_part(RED) + END
    )
    assert (answer.status, answer.json()["code"]) in {(400, "invalid-request"), (400, "empty-body")}


@pytest.mark.parametrize(
    "charset",
    ["utf-8", "latin-1", "utf-7", "utf-16", "undefined", "idna", "punycode", "base64", "rot13", "unicode_escape",
     "no-such", "x" * 500, '""'],
)  # fmt: skip
def test_no_charset_of_a_form_is_more_than_a_bad_request(service: Service, charset: str) -> None:
    body = file_part(RED) + part('Content-Disposition: form-data; name="+2AA-\\x"', b"\\x+2AA-\xff") + END
    headers = {"content-type": f"{MULTIPART['content-type']}; charset={charset}"}
    answer = service.post("/classify", body, headers=headers)
    assert answer.status_code in {400, 422}, answer.text


@pytest.mark.parametrize("charset", [b"punycode", b"IDNA", b"unicode_escape", b"raw_unicode_escape", b"undefined"])
def test_codecs_that_are_no_charsets_do_not_touch_a_field(charset: bytes) -> None:
    body = part('Content-Disposition: form-data; name="bcher-kva"', rb"xn--bcher-kva\u0041") + END
    kind = MULTIPART["content-type"].encode() + b"; charset=" + charset
    assert parts_of(body, kind, 1) == [("bcher-kva", r"xn--bcher-kva\u0041")]


def test_names_of_charsets_that_nobody_knows_leave_nothing_behind() -> None:
    known = len(python_encodings._cache)  # type: ignore[attr-defined]
    body = part('Content-Disposition: form-data; name="a"', "\u00e9".encode("latin-1")) + END
    for name in (b"x-%d" % number for number in range(100)):
        assert parts_of(body, MULTIPART["content-type"].encode() + b"; charset=" + name, 1) == [("a", "\u00e9")]
    assert len(python_encodings._cache) == known  # type: ignore[attr-defined]


@pytest.mark.parametrize("charset", [b"UTF-8", b"utf8", b"ISO-8859-1", b"windows-1252", b"Shift_JIS", b"us-ascii"])
def test_a_field_is_read_in_the_charset_of_its_form(charset: bytes) -> None:
    text = "abc" if charset == b"us-ascii" else "\u65e5" if charset == b"Shift_JIS" else "\u00e9"
    body = part('Content-Disposition: form-data; name="a"', text.encode(charset.decode())) + END
    assert parts_of(body, MULTIPART["content-type"].encode() + b"; charset=" + charset, 1) == [("a", text)]


@pytest.mark.parametrize(("size", "hops"), [(1000, 0), (100_000, 1)])
def test_a_long_form_is_taken_apart_in_a_thread(size: int, hops: int) -> None:
    body = file_part(bytes(size)) + END

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def scenario() -> int:
        pool = Counting(1)
        asyncio.get_running_loop().set_default_executor(pool)
        upload = await read_upload(receive, MULTIPART["content-type"].encode(), 1)
        assert upload.pictures == [bytes(size)]
        return pool.done

    assert asyncio.run(scenario()) == hops


def test_a_content_type_of_parameters_without_end_is_refused_unread() -> None:
    with pytest.raises(InvalidRequest, match="Content-Type is longer than 1024 bytes"):
        parts_of(file_part(RED) + END, MULTIPART["content-type"].encode() + b";" * 60_000, 1)


@pytest.mark.parametrize(
    ("body", "count"), [(b"", 1), (b"{}", 1), (b'{"count": 3}', 3), (b'{"count": "2", "class": 1}', 2)]
)
def test_options_of_a_task_without_pictures_may_come_as_json(service: Service, body: bytes, count: int) -> None:
    answer = service.post("/generate", body)
    assert answer.status_code == 200
    assert len(answer.json()["results"]) == count


@pytest.mark.parametrize(
    "body", [b"seed=1&count=2", RED, b"[]", b"1", b"{", b'{"images": ["YQ=="]}', b'{"seed": NaN}', b"\0"]
)
def test_another_body_for_a_task_without_pictures_is_refused(service: Service, body: bytes) -> None:
    answer = service.post("/generate", body)
    assert answer.json()["code"] in {"invalid-request", "invalid-option"}
    assert answer.status_code in {400, 422}

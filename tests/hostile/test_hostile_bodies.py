"""Forms and JSON that are broken, endless or too clever, through HTTP. What each sentence says is in `tests.api`."""

import base64
from collections.abc import Iterable

import pytest

from tests.api.connection import request
from tests.hostile.asking import GOOD, MEBIBYTE, Watched, check
from tests.hostile.conftest import MAX_BODY

INVALID = "400 invalid-request"
EMPTY = "400 empty-body"
OPTION = "422 invalid-option"
NO_PICTURE = "415 unsupported-image"
BODY_TOO_LONG = "413 body-too-large"
DISPOSITION = b"Content-Disposition: form-data; "
FILE = DISPOSITION + b'name="file"; filename="p"'
END = b"--edge--\r\n"


def part(head: bytes = FILE, body: bytes = GOOD) -> bytes:
    return b"--edge\r\n" + head + b"\r\n\r\n" + body + b"\r\n"


def field(name: bytes, value: bytes = b"1") -> bytes:
    return part(DISPOSITION + b'name="' + name + b'"', value)


def named(name: bytes) -> bytes:
    """A good file with another header."""
    return part(FILE.replace(b'filename="p"', name)) + END


FORMS: dict[str, tuple[bytes, str]] = {
    "a file": (part() + END, "200 red"),
    "nothing": (b"", INVALID),
    "its end alone": (END, EMPTY),
    "no end": (part(), INVALID),
    "half an end": (part() + b"--edge-", INVALID),
    "no boundary at all": (GOOD, INVALID),
    "no line after its headers": (b"--edge\r\n" + FILE, INVALID),
    "no headers": (b"--edge\r\n\r\n" + GOOD + b"\r\n" + END, INVALID),
    "no disposition": (part(b"Content-Type: image/png") + END, INVALID),
    "another disposition": (part(b'Content-Disposition: attachment; name="file"; filename="p"') + END, "200 red"),
    "no name": (part(b"Content-Disposition: form-data") + END, INVALID),
    "no file": (field(b"top_k") + END, EMPTY),
    "an empty file": (part(body=b"") + END, EMPTY),
    "a file that is none": (part(body=b"x") + END, NO_PICTURE),
    "an unknown field": (part() + field(b"tok_k") + END, OPTION),
    "a field twice": (part() + field(b"top_k") * 2 + END, "200 red"),
    "a field of a megabyte": (part() + field(b"top_k", b"1" * MEBIBYTE) + END, INVALID),
    "a field of a megabyte, unnamed": (part() + field(b"x" * MEBIBYTE) + END, INVALID),
    "a field that is a number of 5000 digits": (part() + field(b"top_k", b"9" * 5000) + END, OPTION),
    "seventeen fields": (part() + field(b"top_k") * 17 + END, INVALID),
    "ten thousand fields": (field(b"a") * 10_000 + END, INVALID),
    "thirty-three files": (part() * 33 + END, INVALID),
    "ten thousand files": (part(body=b"x") * 10_000 + END, INVALID),
    "ten thousand headers": (part(b"X: y\r\n" * 10_000 + FILE) + END, INVALID),
    "a header of a megabyte": (part(b"X: " + b"y" * MEBIBYTE + b"\r\n" + FILE) + END, INVALID),
    "a header name of a megabyte": (part(b"X" * MEBIBYTE + b": y\r\n" + FILE) + END, INVALID),
    "a header without a colon": (part(b"nonsense\r\n" + FILE) + END, INVALID),
    "a header without a name": (part(b": x\r\n" + FILE) + END, INVALID),
    "a folded header": (part(b"Content-Disposition: form-data;\r\n name=file; filename=p") + END, INVALID),
    "a disposition twice": (part(FILE + b"\r\n" + FILE) + END, "200 red"),
    "lines that end in half": (part().replace(b"\r\n", b"\n") + END, INVALID),
    "no line ends": (part().replace(b"\r\n", b" ") + END, INVALID),
    "a megabyte of line ends before it": (b"\r\n" * (MEBIBYTE // 2) + part() + END, "200 red"),
    "a megabyte of line ends behind it": (part() + END + b"\r\n" * (MEBIBYTE // 2), "200 red"),
    "a megabyte of dashes before it": (b"-" * MEBIBYTE + b"\r\n" + part() + END, INVALID),
    "a megabyte of beginnings": (b"\r\n--edg" * (MEBIBYTE // 7) + part() + END, INVALID),
    "a file of a megabyte of beginnings": (part(body=b"\r\n--edg" * (MEBIBYTE // 7)) + END, NO_PICTURE),
    "a form in a form": (part(b"Content-Type: multipart/mixed; boundary=edge", part()) + END, INVALID),
    "base64 as it is said to be": (part(FILE + b"\r\nContent-Transfer-Encoding: base64") + END, "200 red"),
    "compressed as it is said to be": (part(FILE + b"\r\nContent-Encoding: gzip") + END, "200 red"),
    "more than the limit": (part(body=bytes(MAX_BODY)) + END, BODY_TOO_LONG),
    "a path for a file name": (named(b'filename="../../../etc/passwd"'), "200 red"),
    "a path of other systems for a file name": (named(b'filename="C:\\\\x\\\\y"'), "200 red"),
    "a zero in the file name": (named(b'filename="a\0b"'), "200 red"),
    "scripts in the file name": (named(b'filename="<script>alert(1)</script>"'), "200 red"),
    "commands in the file name": (named(b'filename="$(reboot)`id`|;"'), "200 red"),
    "a file name of three thousand bytes": (named(b'filename="' + b"n" * 3000 + b'"'), "200 red"),
    "a file name of ten thousand bytes": (named(b'filename="' + b"n" * 10_000 + b'"'), INVALID),
    "an empty file name": (named(b'filename=""'), "200 red"),
    "a file name without an end": (named(b'filename="p'), "200 red"),
    "a file name in a charset": (named(b"filename*=utf-8''p"), EMPTY),
    "a file name in two parts": (named(b'filename*0="a"; filename*1="b"'), EMPTY),
    "two file names": (named(b'filename="a"; filename="b"'), "200 red"),
}  # fmt: skip
BOUNDARIES: dict[str, tuple[bytes, str]] = {
    "none": (b"", INVALID),
    "an empty one": (b"; boundary=", INVALID),
    "another": (b"; boundary=other", INVALID),
    "half a quotation": (b'; boundary="edge', INVALID),
    "a quoted one": (b'; boundary="edge"', "200 red"),
    "two": (b"; boundary=other; boundary=edge", "200 red"),
    "one of five thousand bytes": (b"; boundary=" + b"b" * 5000, INVALID),
    "one of no text": (b"; boundary=\xff\xfe", INVALID),
    "one in a charset": (b"; boundary*=utf-8''edge", INVALID),
    "ten thousand semicolons": (b";" * 10_000 + b"boundary=edge", INVALID),
    "a charset that is none": (b"; boundary=edge; charset=" + b"x" * 500, "200 red"),
    "a charset that is not for text": (b"; boundary=edge; charset=rot13", INVALID),
    "a charset of two bytes": (b"; boundary=edge; charset=utf-16", "200 red"),
}


def text(data: bytes) -> bytes:
    return base64.b64encode(data)


def pictures(*texts: bytes) -> bytes:
    return b'{"images": [%b]}' % b", ".join(b'"' + one + b'"' for one in texts)


def beside(options: Iterable[bytes]) -> dict[str, tuple[bytes, str]]:
    """A good picture beside options that are refused."""
    return {
        f"the option {option[:40].decode()}": (pictures(text(GOOD))[:-1] + b", " + option + b"}", OPTION)
        for option in options
    }


JSON: dict[str, tuple[bytes, str]] = {
    "a picture": (pictures(text(GOOD)), "200 red"),
    "nothing": (b"", INVALID),
    "no pictures": (b"{}", INVALID),
    "an empty list": (b'{"images": []}', EMPTY),
    "an empty picture": (pictures(b""), EMPTY),
    "half an object": (b'{"images"', INVALID),
    "a list": (b"[]", INVALID),
    "a text": (b'"text"', INVALID),
    "null": (b"null", INVALID),
    "a number": (b"3", INVALID),
    "a picture as it is": (GOOD, INVALID),
    "XML": (b"<images/>", INVALID),
    "YAML": (b"images: !!python/object/apply:os.system [id]", INVALID),
    "quotation marks of others": (b"{'images': []}", INVALID),
    "a comment": (b'{"images": [] /* x */}', INVALID),
    "more behind it": (pictures(text(GOOD)) + b" trailing", INVALID),
    "a mark of unicode": (b"\xef\xbb\xbf" + pictures(text(GOOD)), INVALID),
    "two bytes a letter": (pictures(text(GOOD)).decode().encode("utf-16"), INVALID),
    "bytes that are no text": (b'{"images": ["\xff\xfe"]}', INVALID),
    "half a letter": (b'{"images": ["\\ud800"]}', INVALID),
    "a zero": (b'{"images": ["\\u0000"]}', INVALID),
    "NaN": (b'{"images": NaN}', INVALID),
    "Infinity": (b'{"images": [Infinity]}', INVALID),
    "a picture that is a number": (b'{"images": [1]}', INVALID),
    "a picture that is a list": (b'{"images": [[]]}', INVALID),
    "pictures that are a text": (b'{"images": "abc"}', INVALID),
    "pictures that are null": (b'{"images": null}', INVALID),
    "pictures that are an object": (b'{"images": {"0": "YQ=="}}', INVALID),
    "pictures twice": (b'{"images": ["YQ=="], "images": 3}', INVALID),
    "no base64": (pictures(b"not base64!"), INVALID),
    "base64 that ends early": (pictures(b"YQ"), INVALID),
    "base64 with line ends": (pictures(text(GOOD)[:20] + b"\\n" + text(GOOD)[20:]), INVALID),
    "base64 for addresses": (pictures(base64.urlsafe_b64encode(b"\xff\xef" * 30)), INVALID),
    "base64 of base64": (pictures(text(text(GOOD))), NO_PICTURE),
    "a data address": (pictures(b"data:image/png;base64," + text(GOOD)), "200 red"),
    "a data address of another kind": (pictures(b"data:text/html," + text(GOOD)), "200 red"),
    "a data address of nothing": (pictures(b"data:"), EMPTY),
    "an address": (pictures(b"http://169.254.169.254/latest/meta-data/"), INVALID),
    "a file's address": (pictures(b"file:///etc/passwd"), INVALID),
    "thirty-three pictures": (pictures(*[b"YQ=="] * 33), INVALID),
    "fifty thousand pictures": (pictures(*[b""] * 50_000), INVALID),
    "a million lists": (b'{"images": [' + b"[]," * 1_000_000 + b"[]]}", INVALID),
    "a million members": (b"{" + b",".join(b'"%d":0' % number for number in range(500_000)) + b"}", INVALID),
    "250,000 lists in one another": (b'{"images": ' + b"[" * 250_000, INVALID),
    "objects in one another": (b'{"a":' * 250_000, INVALID),
    "five thousand lists in one another": (b'{"images": ' + b"[" * 5000 + b"]" * 5000 + b"}", INVALID),
    "a number of ten thousand digits": (b'{"images": ' + b"9" * 10_000 + b"}", INVALID),
    "a text of megabytes": (pictures(b"A" * 4 * MEBIBYTE), NO_PICTURE),
    "more than the limit": (pictures(b"A" * MAX_BODY), BODY_TOO_LONG),
    **beside(
        [
            b'"top_k": 0', b'"top_k": -1', b'"top_k": 1001', b'"top_k": 0.5', b'"top_k": 1e308', b'"top_k": null',
            b'"top_k": []', b'"top_k": {}', b'"top_k": "' + b"9" * 5000 + b'"', b'"top_k": 9223372036854775808',
            b'"explain": 7', b'"explain": "perhaps"', b'"coverage": 2', b'"version": 1.5', b'"version": []',
            b'"model": 5', b'"model": ["tiny-classifier"]', b'"": 1', b'"\\u0000": 1', b'"images ": []',
            b'"__proto__": {}', b'"__class__": {}', b'"' + b"k" * 50_000 + b'": 1',
        ]
    ),
    "an option of NaN": (pictures(text(GOOD))[:-1] + b', "top_k": NaN}', INVALID),
    "an option beyond all numbers": (pictures(text(GOOD))[:-1] + b', "top_k": 1e400}', INVALID),
    "an option twice": (pictures(text(GOOD))[:-1] + b', "top_k": 1, "top_k": 2}', "200 red"),
}  # fmt: skip


def posted(body: bytes, kind: bytes) -> bytes:
    return request(body, headers=[(b"content-type", kind)])


ALL = {
    **{f"form: {what}": (posted(body, b"multipart/form-data; boundary=edge"), told)
       for what, (body, told) in FORMS.items()},
    **{f"boundary: {what}": (posted(part() + END, b"multipart/form-data" + rest), told)
       for what, (rest, told) in BOUNDARIES.items()},
    **{f"json: {what}": (posted(body, b"application/json"), told) for what, (body, told) in JSON.items()},
}  # fmt: skip


@pytest.mark.parametrize("what", ALL)
def test_a_body_has_its_answer(lone: Watched, what: str) -> None:
    check(lone, *ALL[what])
    lone.check_unharmed()

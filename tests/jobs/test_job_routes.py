"""Leaving jobs at a service in this process: what is taken in, what is refused, what comes back, and to whom."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.security.keys import ADMIN, INFER, Limits
from app.settings import Settings
from tests.api.doors import Keys
from tests.api.service import Service, in_chunks
from tests.batch.pictures import plain
from tests.jobs.boxes import GATHERING, ZIP, Office, best, box, office, reds
from tests.make_models import make_classifier

MANY = {"a/blue.png": plain("blue"), "red.png": plain("red", 200), "broken.png": plain("green")[:45],
        "notes.txt": b"", "a/._blue.png": b"AppleDouble", "green.png": plain("green")}  # fmt: skip


@pytest.fixture(scope="module")
def jobs(model_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    with office(
        model_root, tmp_path_factory.mktemp("jobs"), jobs_max_pictures=20, jobs_max_bytes=60_000, max_body_bytes=20_000
    ) as running:
        yield running


def test_the_pictures_of_a_zip_are_answered_in_the_order_of_their_names(jobs: Office) -> None:
    left = jobs.leave(box(MANY), "task=classify&top_k=2")
    assert (left["state"], left["pictures"], left["options"]) == ("waiting", 4, {"top_k": 2})
    assert left["results"] is None
    done = jobs.reach(left, state="done")
    assert (done["answered"], done["failed"], done["error"]) == (3, 1, None)
    assert done["results"] == f"/jobs/{left['id']}/results"
    lines = jobs.results(left)
    assert {line["file"]: best(line) for line in lines} == {
        "a/blue.png": "blue", "broken.png": "corrupt-image", "green.png": "green", "red.png": "red",
    }  # fmt: skip
    assert [line["file"] for line in lines] == sorted(line["file"] for line in lines)
    assert [len(line["result"]["labels"]) for line in lines if "result" in line] == [2, 2, 2]
    assert lines[0]["model"] == "tiny-classifier"
    (entry,) = [job for job in jobs.service.get("/jobs").json()["jobs"] if job["id"] == left["id"]]
    assert entry == done


def test_a_job_that_is_deleted_is_gone_with_its_files(jobs: Office) -> None:
    left = jobs.leave(reds(1))
    jobs.reach(left, state="done")
    store = jobs.service.app.state.jobs.store
    assert (store.folder / left["id"]).is_dir()
    assert jobs.service.ask("DELETE", f"/jobs/{left['id']}").status_code == 204
    assert not (store.folder / left["id"]).exists()
    for method, tail in (("GET", ""), ("GET", "/results"), ("DELETE", "")):
        gone = jobs.service.ask(method, f"/jobs/{left['id']}{tail}")
        assert (gone.status_code, gone.json()["code"]) == (404, "job-not-found")


def test_files_of_a_form_are_all_taken_for_pictures_and_its_fields_for_options(jobs: Office) -> None:
    files = [("file", ("blue", plain("blue"))), ("other", ("b.txt", b"no picture")), ("file", ("c", plain("red")))]
    answer = jobs.service.ask("POST", "/jobs?task=classify", files=files, data={"top_k": "1"})
    assert answer.status_code == 202, answer.text
    left = answer.json()
    assert left["options"] == {"top_k": 1}
    jobs.reach(left, state="done")
    assert {line["file"]: best(line) for line in jobs.results(left)} == {
        "b.txt": "unsupported-image", "blue": "blue", "c": "red",
    }  # fmt: skip


def test_a_form_may_name_its_model_whatever_becomes_of_the_default(model_root: Path, tmp_path: Path) -> None:
    with office(model_root, tmp_path / "jobs", default_models={"classify": "nobody"}) as jobs:
        ask, files = jobs.service.ask, [("file", ("red.png", plain("red")))]
        answer = ask("POST", "/jobs?task=classify", files=files, data={"model": "tiny-classifier"})
        assert answer.status_code == 202
        assert best(jobs.results(jobs.reach(answer.json(), state="done"))[0]) == "red"
        for fields in ({}, {"top_k": "1"}, {"model": "nobody"}):
            refused = ask("POST", "/jobs?task=classify", files=files, data=fields)
            assert (refused.status_code, refused.json()["code"]) == (404, "model-not-found")
        assert len(list((tmp_path / "jobs").glob("*/"))) == 1


def test_files_without_names_are_numbered(jobs: Office) -> None:
    unnamed = form(("", plain("red")), ("", plain("blue")))
    left = jobs.service.post("/jobs?task=classify", unnamed["body"], headers=unnamed["headers"]).json()
    jobs.reach(left, state="done")
    assert {line["file"]: best(line) for line in jobs.results(left)} == {"1": "red", "2": "blue"}


def test_a_body_of_unknown_length_is_taken_as_it_comes(jobs: Office) -> None:
    left = jobs.leave(in_chunks(reds(3), 50))
    jobs.reach(left, state="done", answered=3)


def test_a_picture_that_is_too_long_for_a_request_is_so_in_a_job_too(jobs: Office) -> None:
    left = jobs.leave(box({"long.png": bytes(20_001), "red.png": plain("red")}))
    jobs.reach(left, state="done")
    assert [best(line) for line in jobs.results(left)] == ["body-too-large", "red"]


def form(*parts: tuple[str, bytes]) -> dict[str, Any]:
    """A body of these files, written by hand: a client would change their names."""
    text = b"".join(
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n\r\n%b\r\n' % (name.encode(), data)
        for name, data in parts
    )
    return {"body": text + b"--edge--\r\n", "headers": {"content-type": "multipart/form-data; boundary=edge"}}


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [
        ({"body": b"no zip"}, (400, "invalid-request")),
        ({"body": b""}, (400, "invalid-request")),
        ({"body": box({"notes.txt": b"x"})}, (400, "empty-body")),
        ({"body": reds(21)}, (413, "job-too-large")),
        ({"body": bytes(60_001)}, (413, "body-too-large")),
        ({"body": in_chunks(bytes(60_001), 999)}, (413, "body-too-large")),
        ({"body": box({"a.png": bytes(60_001)})}, (413, "job-too-large")),
        ({"body": reds(1), "query": ""}, (422, "invalid-option")),
        ({"body": reds(1), "query": "task=clasify"}, (422, "invalid-option")),
        ({"body": reds(1), "query": "task=generate"}, (422, "invalid-option")),
        ({"body": reds(1), "query": "task=classify&top_k=0"}, (422, "invalid-option")),
        ({"body": reds(1), "query": "task=classify&model=unknown"}, (404, "model-not-found")),
        ({"body": reds(1), "query": "task=classify&model=tiny-segmenter"}, (400, "wrong-task")),
        (form(("a.zip", reds(1))), (400, "invalid-request")),
        (form(("a.png", b"x"), ("a.png", b"y")), (400, "invalid-request")),
        (form(("../a.png", b"x")), (400, "invalid-request")),
        (form(*((f"{number}.png", b"x") for number in range(21))), (400, "invalid-request")),
        (form(), (400, "empty-body")),
        ({**form(("a.png", b"x")), "body": b"--edge\r\n"}, (400, "invalid-request")),
    ],
)
def test_what_is_no_job_is_refused_and_leaves_nothing(
    jobs: Office, asked: dict[str, Any], refusal: tuple[int, str]
) -> None:
    store = jobs.service.app.state.jobs.store
    before = set(store.folder.iterdir()), len(store.all())
    assert jobs.refused(**asked) == refusal
    assert (set(store.folder.iterdir()), len(store.all())) == before


def test_without_a_folder_jobs_are_switched_off(model_root: Path) -> None:
    service = Service(Settings(models=model_root, device="cpu", threads=1), settled=False)
    asked = ("GET", ""), ("GET", "/x"), ("GET", "/x/results"), ("DELETE", "/x"), ("POST", "?task=classify")
    try:
        for method, path in asked:
            off = service.ask(method, f"/jobs{path}")
            assert (off.status_code, off.json()["code"]) == (403, "jobs-off")
    finally:
        service.close()


def test_there_is_room_for_so_many_jobs_and_so_many_bytes(model_root: Path, tmp_path: Path) -> None:
    with office(model_root, tmp_path, jobs_max_count=2, jobs_max_disk_bytes=3000) as jobs:
        first = jobs.leave(reds(1))
        assert jobs.refused(bytes(2900)) == (429, "too-many-jobs")
        jobs.leave(reds(1))
        full = jobs.service.post("/jobs?task=classify", reds(1), headers=ZIP)
        assert (full.status_code, full.json()["code"]) == (429, "too-many-jobs")
        assert int(full.headers["retry-after"]) >= 1
        jobs.service.ask("DELETE", f"/jobs/{first['id']}")
        jobs.leave(reds(1))


def test_results_are_there_when_all_pictures_are_done(tmp_path: Path) -> None:
    folder = make_classifier(tmp_path / "models").parent
    (folder / "serving.toml").write_text(GATHERING)
    with office(tmp_path / "models", tmp_path / "jobs") as jobs:
        left = jobs.leave(reds(10))
        jobs.reach(left, state="running", answered=8)
        early = jobs.service.get(f"/jobs/{left['id']}/results")
        assert (early.status_code, early.json()["code"]) == (409, "job-unfinished")
        assert jobs.service.ask("DELETE", f"/jobs/{left['id']}").status_code == 204
        jobs.wait_until_nothing_waits()


def test_a_key_sees_its_own_jobs_and_an_administrator_all(model_root: Path, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    one, other, admin = keys.add("infer:tiny-classifier"), keys.add(INFER), keys.add(ADMIN)
    with office(model_root, tmp_path / "jobs", keys=keys.path) as jobs:
        assert jobs.refused(reds(1)) == (401, "unauthenticated")
        hidden = jobs.service.post("/jobs?task=segment", reds(1), headers=ZIP | {"x-api-key": one})
        assert (hidden.status_code, hidden.json()["code"]) == (404, "model-not-found")
        mine = jobs.leave(reds(1), secret=one)
        jobs.reach(mine, secret=one, state="done")
        assert [best(line) for line in jobs.results(mine, admin)] == ["red"]

        def seen(secret: str) -> list[str]:
            listed = jobs.service.get("/jobs", headers={"x-api-key": secret}).json()["jobs"]
            return [job["id"] for job in listed]

        assert (seen(one), seen(other), seen(admin)) == ([mine["id"]], [], [mine["id"]])
        for method, tail in (("GET", ""), ("GET", "/results"), ("DELETE", "")):
            foreign = jobs.service.ask(method, f"/jobs/{mine['id']}{tail}", headers={"x-api-key": other})
            assert (foreign.status_code, foreign.json()["code"]) == (404, "job-not-found")
        assert jobs.service.ask("DELETE", f"/jobs/{mine['id']}", headers={"x-api-key": admin}).status_code == 204


def test_a_job_waits_until_its_pixels_are_paid_as_its_owner_does(model_root: Path, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    secret, admin = keys.add(INFER, limits=Limits(pixels_per_second=64 / 1000)), keys.add(ADMIN)
    with office(model_root, tmp_path / "jobs", keys=keys.path) as jobs:
        left = jobs.leave(reds(20), secret=secret)
        jobs.reach(left, secret=admin, state="running", answered=16)  # those that began before the first was paid for
        refused = jobs.service.get("/jobs", headers={"x-api-key": secret})
        assert (refused.status_code, refused.json()["code"]) == (429, "quota-exceeded")
        assert jobs.status(left, admin)["answered"] == 16


def test_a_job_whose_key_is_revoked_ends(tmp_path: Path) -> None:
    models = tmp_path / "models"
    (make_classifier(models).parent / "serving.toml").write_text(GATHERING.replace("10000", "500"))
    keys = Keys(tmp_path / "keys.json")
    secret, admin = keys.add(INFER), keys.add(ADMIN)
    with office(models, tmp_path / "jobs", keys=keys.path) as jobs:
        left = jobs.leave(reds(30), secret=secret)
        keys.revoke(secret)
        ended = jobs.reach(left, secret=admin, state="failed")
        assert ended["error"]["code"] == "unauthenticated"
        assert len(jobs.results(left, admin)) == ended["answered"] < 30


def test_what_became_of_jobs_is_counted(jobs: Office) -> None:
    def counted() -> list[float]:
        events = jobs.service.metric("imago_jobs_total")
        pictures = jobs.service.metric("imago_job_pictures_total")
        return [events['{event="accepted"}'], events['{event="done"}'], pictures['{outcome="answered"}'],
                pictures['{outcome="failed"}']]  # fmt: skip

    before = counted()
    jobs.reach(jobs.leave(box({"a.png": b"broken", "b.png": plain("red")})), state="done")
    wanted, due = [then + 1 for then in before], time.monotonic() + 10
    while counted() != wanted:  # the end is written down before it is counted
        assert time.monotonic() < due
    assert jobs.service.metric("imago_job_pictures_waiting") == {"": 0}

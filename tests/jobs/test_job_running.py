"""Jobs that are interrupted: by a stop, by their owner, by a model that is gone. The models gather batches of four and
hold the rest, so that a test knows how far a job is."""

import fcntl
from pathlib import Path

import pytest

from tests.batch.pictures import plain
from tests.jobs.boxes import GATHERING, Office, best, box, office, reds
from tests.make_models import make_classifier
from tests.processes.scenario import until


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = make_classifier(tmp_path / "models").parent
    (folder / "serving.toml").write_text(GATHERING)
    return tmp_path / "models"


def release(models: Path) -> None:
    """Let what is opened from now on hold nothing back."""
    (models / "tiny-classifier" / "serving.toml").unlink()


def half_done(jobs: Office) -> dict[str, object]:
    """A job of ten pictures, eight of which are answered."""
    left = jobs.leave(reds(10))
    return jobs.reach(left, state="running", answered=8)


def test_a_job_goes_on_after_a_restart_and_has_each_picture_once(models: Path, tmp_path: Path) -> None:
    with office(models, tmp_path / "jobs") as jobs:
        left = half_done(jobs)
    release(models)
    with office(models, tmp_path / "jobs") as jobs:
        assert jobs.status(left)["answered"] == 8
        done = jobs.reach(left, state="done")
        assert (done["answered"], done["started"]) == (10, left["started"])
        assert [line["file"] for line in jobs.results(left)] == [f"{number:03}.png" for number in range(10)]
        assert sum(jobs.service.metric("imago_job_pictures_total").values()) == 2


def test_a_job_that_is_deleted_while_it_runs_leaves_the_queue(models: Path, tmp_path: Path) -> None:
    with office(models, tmp_path / "jobs") as jobs:
        left = half_done(jobs)
        assert jobs.service.ask("DELETE", f"/jobs/{left['id']}").status_code == 204
        jobs.wait_until_nothing_waits()
        assert not (tmp_path / "jobs" / str(left["id"])).exists()


def test_a_job_whose_model_is_gone_fails_and_keeps_what_was_answered(models: Path, tmp_path: Path) -> None:
    with office(models, tmp_path / "jobs") as jobs:
        left = half_done(jobs)
    other = tmp_path / "others"
    make_classifier(other, name="another")
    with office(other, tmp_path / "jobs") as jobs:
        failed = jobs.reach(left, state="failed")
        assert failed["error"]["code"] == "model-not-found"
        assert len(jobs.results(left)) == failed["answered"] == 8


def test_a_job_whose_files_are_damaged_fails(models: Path, tmp_path: Path) -> None:
    with office(models, tmp_path / "jobs") as jobs:
        left = half_done(jobs)
    (tmp_path / "jobs" / str(left["id"]) / "pictures.zip").write_bytes(b"")
    with office(models, tmp_path / "jobs") as jobs:
        assert jobs.reach(left, state="failed")["error"]["code"] == "internal-error"
        assert jobs.results(left) == []


def test_results_that_outgrow_a_job_end_it(tmp_path: Path) -> None:
    make_classifier(tmp_path / "models")
    pictures = box({f"{number}.png": plain("red") for number in range(400)})
    with office(tmp_path / "models", tmp_path / "jobs", jobs_max_bytes=len(pictures)) as jobs:
        failed = jobs.reach(jobs.leave(pictures), state="failed")
        assert failed["error"]["code"] == "job-too-large"
        assert 0 < failed["answered"] < 400


def test_a_second_service_on_the_same_folder_answers_about_jobs_and_runs_none(models: Path, tmp_path: Path) -> None:
    with office(models, tmp_path / "jobs") as one:
        left = half_done(one)
        release(models)
        with office(models, tmp_path / "jobs") as other:
            assert other.status(left)["answered"] == 8
            mine = other.leave(reds(1))
            assert other.status(mine)["state"] == "waiting"
            one.reach(mine, state="running")


def test_a_caller_is_answered_before_a_job_that_waits(tmp_path: Path) -> None:
    """Sixteen pictures of the job are in the queue when the caller comes, in whose batch none of them is."""
    folder = make_classifier(tmp_path / "models").parent
    (folder / "serving.toml").write_text(GATHERING.replace("10000", "2000").replace("= 4", "= 32"))
    with office(tmp_path / "models", tmp_path / "jobs", max_queue_seconds=1e-9) as jobs:
        lane = jobs.service.registry.get(None, "tiny-classifier").jobs.lane
        left = jobs.leave(reds(16))
        while lane.patient < 16:  # its pictures come after its state; the loop turns while a request is answered
            assert jobs.status(left)["state"] in ("waiting", "running")
        answer = jobs.service.post("/classify", plain("blue"))
        assert best({"result": answer.json()["results"][0]}) == "blue"
        sizes = jobs.service.metric("imago_batch_size_bucket")
        assert sizes['{le="1.0",model="tiny-classifier",task="classify"}'] == 1
        jobs.reach(left, state="done", answered=16)
        assert jobs.service.metric("imago_queue_seconds_count") == {'{model="tiny-classifier",task="classify"}': 1}
        assert not sum(jobs.service.metric("imago_rejected_total").values())


def test_a_job_whose_journal_another_process_still_writes_waits_for_it(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with office(models, tmp_path / "jobs") as jobs:
        left = half_done(jobs)
    with (tmp_path / "jobs" / str(left["id"]) / "journal.jsonl").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with office(models, tmp_path / "jobs") as jobs:
            jobs.service.run(until(lambda: f"job {left['id']} pauses: Another process" in caplog.text))
            assert jobs.status(left)["state"] == "running"
    release(models)
    with office(models, tmp_path / "jobs") as jobs:
        jobs.reach(left, state="done", answered=10)


def test_a_job_that_cannot_be_opened_for_want_of_handles_is_tried_again(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A link to itself stands for whatever the system says that will pass."""
    with office(models, tmp_path / "jobs") as jobs:
        left = half_done(jobs)
    pictures = tmp_path / "jobs" / str(left["id"]) / "pictures.zip"
    pictures.rename(tmp_path / "kept")
    pictures.symlink_to(pictures)
    release(models)
    with office(models, tmp_path / "jobs") as jobs:
        jobs.service.run(until(lambda: f"job {left['id']} pauses" in caplog.text))
        assert jobs.status(left)["state"] == "running"
    pictures.unlink()
    (tmp_path / "kept").rename(pictures)
    with office(models, tmp_path / "jobs") as jobs:
        jobs.reach(left, state="done", answered=10)


def test_jobs_and_galleries_share_a_folder(tmp_path: Path) -> None:
    make_classifier(tmp_path / "models")
    with office(tmp_path / "models", tmp_path / "kept", galleries=tmp_path / "kept") as jobs:
        jobs.reach(jobs.leave(reds(1)), state="done")
        with office(tmp_path / "models", tmp_path / "kept", galleries=tmp_path / "kept") as others:
            assert others.service.get("/galleries").json() == {"galleries": []}

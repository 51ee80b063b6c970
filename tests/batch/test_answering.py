"""Who answers a run: this process, several, or a service."""

import asyncio
import multiprocessing
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.batch.children import Child, Orders
from app.batch.crew import crew
from app.batch.embedded import choose, processes_that_pay
from app.batch.records import Record, answered
from app.batch.run import Answerer, answer_all
from app.batch.served import Served
from app.batch.sources import open_source
from app.client import AsyncClient, Retries, ServiceProblem
from app.errors import InvalidBatch, InvalidOption, ModelNotFound, ProcessDied, WrongTask
from app.main import patient_resources
from app.runtime.plan import Plan
from app.settings import Settings
from app.tasks import TASKS
from tests.batch.pictures import make_folder
from tests.client.scripted import Said, problem, said, scripted
from tests.make_models import make_classifier, make_denoiser, make_upscaler


class Scribe:
    """An answerer that keeps what it was asked."""

    chunk = 3

    def __init__(self, lanes: int, trip: str = "") -> None:
        self.lanes = lanes
        self.asked: list[str] = []
        self._trip = trip

    async def answer(self, names: Sequence[str]) -> Sequence[Record]:
        self.asked += names
        await asyncio.sleep(0)
        if self._trip in names:
            raise InvalidBatch("It tripped.")
        return [answered(name, "tiny", 1, {}) for name in names]


def test_every_picture_is_answered_once_whoever_answers() -> None:
    names = [str(number) for number in range(100)]
    noted: list[str] = []
    scribes = [Scribe(2), Scribe(5)]
    asyncio.run(answer_all(names, scribes, lambda records: noted.extend(record.name for record in records)))
    assert sorted(noted, key=int) == sorted(scribes[0].asked + scribes[1].asked, key=int) == names
    assert all(scribe.asked for scribe in scribes)


def test_what_meets_every_picture_ends_the_run_and_what_was_answered_is_noted() -> None:
    noted: list[str] = []
    names, scribe = [str(number) for number in range(100)], Scribe(1, trip="50")
    with pytest.raises(InvalidBatch, match="tripped"):
        asyncio.run(answer_all(names, [scribe], lambda records: noted.extend(record.name for record in records)))
    assert noted == names[:48]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_folder(tmp_path / "in", each=30)
    (tmp_path / "in" / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path / "in"


def orders(model_root: Path, folder: Path, kind: str = "classify", **options: Any) -> Orders:
    settings = Settings(models=model_root, device="cpu")
    chosen = choose(settings, kind, None, None)
    return Orders(settings, patient_resources, chosen, TASKS[kind].Options(**options), open_source(str(folder)))


def answers(opened: AbstractAsyncContextManager[Sequence[Answerer]], names: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def run() -> None:
        async with opened as answerers:
            await answer_all(
                names, answerers, lambda records: found.update((r.name, orjson.loads(r.line)) for r in records)
            )

    asyncio.run(run())
    return found


def best(record: dict[str, Any]) -> str:
    return str(record["result"]["labels"][0]["label"] if "result" in record else record["error"]["code"])


def test_one_process_and_several_give_the_same_answers(model_root: Path, folder: Path) -> None:
    asked = orders(model_root, folder, top_k=1)
    alone = answers(crew(asked, 1), asked.source.names)
    assert {name: best(record) for name, record in alone.items()} == {
        name: "corrupt-image" if "broken" in name else name.partition("/")[0] for name in asked.source.names
    }
    together = answers(crew(asked, 3), asked.source.names)
    assert {name: best(record) for name, record in together.items()} == {n: best(r) for n, r in alone.items()}


def test_an_option_that_the_model_refuses_ends_the_run_in_any_process(tmp_path: Path, folder: Path) -> None:
    make_classifier(tmp_path / "models", without=("cam",))
    asked = orders(tmp_path / "models", folder, explain=True)
    for processes in (1, 2):
        with pytest.raises((InvalidOption, InvalidBatch), match="has no heat maps"):
            answers(crew(asked, processes), asked.source.names)


def test_a_process_that_is_killed_ends_the_run_with_a_sentence(model_root: Path, folder: Path) -> None:
    asked = orders(model_root, folder)

    async def run() -> None:
        async with crew(asked, 2) as (_, child):
            assert isinstance(child, Child)
            await child.answer(asked.source.names[:1])
            (process,) = multiprocessing.active_children()
            process.kill()
            await answer_all(asked.source.names, [child], lambda records: None)

    with pytest.raises(ProcessDied, match="start again"):
        asyncio.run(run())


def test_the_version_is_chosen_as_a_service_would(tmp_path: Path, model_root: Path) -> None:
    for version in (1, 2):
        make_classifier(tmp_path, name="first", version=version)
    make_classifier(tmp_path, name="second")
    settings = Settings(models=tmp_path)

    def found(*asked: Any, settings: Settings = settings) -> str:
        manifest = choose(settings, "classify", *asked).manifest
        return f"{manifest.name}/{manifest.version}"

    assert found(None, None) == "first/2"
    assert found("first", 1) == "first/1"
    assert found("second", None) == "second/1"
    assert found(None, None, settings=Settings(models=tmp_path, default_models={"classify": "second"})) == "second/1"
    (tmp_path / "first" / "serving.toml").write_text("aliases = { stable = 1, next = 2 }\n")
    assert found(None, None) == "first/1"
    assert [found("first", version) for version in ("next", "stable", "2")] == ["first/2", "first/1", "first/2"]
    for asked in (("none", None), ("first", 3), ("first", "old")):
        with pytest.raises(ModelNotFound):
            found(*asked)
    with pytest.raises(WrongTask):
        choose(Settings(models=model_root), "classify", "tiny-segmenter", None)


def test_a_model_that_is_able_to_what_options_ask_is_chosen_as_a_service_would(tmp_path: Path) -> None:
    make_denoiser(tmp_path, name="first")
    make_upscaler(tmp_path, name="second")
    options = TASKS["enhance"].Options

    def found(name: str | None, **chosen: Any) -> str:
        return choose(Settings(models=tmp_path), "enhance", name, None, options(**chosen).variant).manifest.name

    assert (found(None), found(None, scale=1), found(None, scale=2)) == ("first", "first", "second")
    assert (found("first", scale=2), found(None, scale=4)) == ("first", "first"), "its refusal says why"


@pytest.mark.parametrize(
    ("row_seconds", "cores", "count"), [(0.1, 64, 1), (0.002, 2, 1), (0.002, 16, 5), (1e-5, 16, 16)]
)
def test_more_processes_pay_off_where_python_is_what_takes_long(row_seconds: float, cores: int, count: int) -> None:
    plan = Plan(1, 1, cores, 4, row_seconds, {1: row_seconds, 4: 4 * row_seconds})
    assert processes_that_pay(plan, cores) == count


def asking(url: str, folder: Path) -> Callable[[], Any]:
    async def run() -> tuple[dict[str, str], int]:
        source, found = open_source(str(folder)), {}
        async with AsyncClient(url, retries=Retries(limit=1, first_wait=0.001)) as client:
            served = Served(client, "classify", {}, source)
            await answer_all(source.names, [served], lambda rs: found.update((r.name, r.error) for r in rs))
        return found, served.chunk

    return lambda: asyncio.run(run())


def test_a_service_that_takes_one_picture_a_request_is_sent_one_from_then_on(tmp_path: Path) -> None:
    make_folder(tmp_path / "in")
    one = said(200, {"model": "tiny", "version": 1, "results": [{"labels": []}]})
    with scripted(problem(400, "invalid-request"), one) as server:
        found, chunk = asking(server.url, tmp_path / "in")()
        assert len(server.asked) == 7
    assert (set(found.values()), len(found), chunk) == ({""}, 6, 1)


def test_a_picture_that_the_service_refuses_fails_and_the_others_are_answered(tmp_path: Path) -> None:
    make_folder(tmp_path / "in")
    (tmp_path / "in" / "a.png").symlink_to(tmp_path / "in" / "red" / "0.png")
    results = [{"error": {"code": "corrupt-image", "detail": "It is damaged.", "status": 422}}] + 6 * [{"labels": []}]
    with scripted(said(200, {"model": "tiny", "version": 1, "results": results})) as server:
        found, _ = asking(server.url, tmp_path / "in")()
    assert sorted(found.values()) == [*6 * [""], "corrupt-image"]


@pytest.mark.parametrize("answer", [problem(401, "unauthorized"), problem(503, "not-ready"), Said()])
def test_a_service_that_cannot_answer_ends_the_run(answer: Said, tmp_path: Path) -> None:
    make_folder(tmp_path / "in")
    with scripted(answer) as server, pytest.raises(ServiceProblem):
        asking(server.url, tmp_path / "in")()

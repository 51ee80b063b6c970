"""`imago galleries` and the client's galleries, asked of a real server with keys."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner, Result

from app.__main__ import cli
from app.client import Client, ServiceProblem
from app.galleries.records import MAX_METADATA_BYTES
from benchmarks.server import running_server
from tests.api.doors import Keys
from tests.imaging.pictures import noise, save
from tests.make_models import make_embedder


class Service(NamedTuple):
    """Where it is, and who may ask."""

    url: str
    user: str
    user_id: str
    admin: str

    def run(self, *arguments: str, key: str | None = None) -> Result:
        flags = ("--url", self.url, "--api-key", key or self.user)
        return CliRunner().invoke(cli, ["galleries", *arguments, *flags], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("galleries")
    make_embedder(folder / "models")
    keys = Keys(folder / "keys.json")
    user, admin = keys.add("infer"), keys.add("admin")
    flags = ("--workers", "1", "--galleries", str(folder / "kept"), "--keys", str(folder / "keys.json"))
    with running_server(folder / "models", *flags, "--log-level", "warning") as server:
        yield Service(server.url, user, user.split("_")[1], admin)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(save(noise(8, 8, number)))
    return [str(tmp_path / f"{number}.png") for number in range(3)]


def test_what_is_put_is_found_and_deleted(service: Service, files: list[str]) -> None:
    put = service.run("put", "parts", "bolt", files[0], files[1], "--metadata", '{"shelf": 12}', "--json")
    assert put.exit_code == 0, put.output
    assert json.loads(put.stdout)["vectors"] == 2
    assert service.run("put", "parts", "nut", files[2]).exit_code == 0
    made = service.run("set", "parts", "--threshold", "0.999", "--json")
    assert json.loads(made.stdout)["threshold"] == 0.999
    assert [json.loads(line)["id"] for line in service.run("list", "parts", "--json").stdout.splitlines()] == [
        "bolt",
        "nut",
    ]
    assert "tiny-embedder" in service.run("list").stdout
    found = service.run("search", "parts", *files, "--count", "1", "--json")
    assert found.exit_code == 0, found.output
    told = [json.loads(line)["result"] for line in found.stdout.splitlines()]
    assert [each["matches"][0]["id"] for each in told] == ["bolt", "bolt", "nut"]
    assert all(each["known"] for each in told)
    assert told[0]["matches"][0]["metadata"] == {"shelf": 12}
    assert service.run("delete", "parts", "nut").exit_code == 0
    assert "nut" not in service.run("list", "parts").stdout
    assert service.run("delete", "parts").exit_code == 0
    gone = service.run("list", "parts")
    assert (gone.exit_code, "gallery-not-found" in gone.stderr) == (1, True)


def test_a_broken_picture_does_not_end_a_search(service: Service, files: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    service.run("put", "broken", "one", files[0])
    found = service.run(
        "search", "broken", str(tmp_path / "broken.png"), str(tmp_path / "none.png"), files[0], "--json"
    )
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert [line.get("error", {}).get("code") for line in lines] == ["unsupported-image", "unreadable-file", None]
    assert found.exit_code == 1


def test_what_the_service_refuses_is_told(service: Service, files: list[str]) -> None:
    assert "--metadata is not JSON" in service.run("put", "parts", "a", files[0], "--metadata", "{").stderr
    refused = service.run("search", "nowhere", files[0])
    assert (refused.exit_code, "gallery-not-found" in refused.stderr) == (1, True)


def test_an_administrator_names_the_owner(service: Service, files: list[str]) -> None:
    service.run("put", "mine", "one", files[0])
    assert "mine" in service.run("list", key=service.admin).stdout
    found = service.run("list", "mine", "--owner", service.user_id, "--json", key=service.admin)
    assert json.loads(found.stdout)["id"] == "one"
    owned = [service.run("list", "--owner", owner, key=service.admin).stdout for owner in (service.user_id, "nobody")]
    assert ["mine" in each for each in owned] == [True, False]
    assert service.run("delete", "mine", "--owner", service.user_id, key=service.admin).exit_code == 0
    assert service.run("list", "mine").exit_code == 1


@pytest.mark.parametrize("name", ["one#2", "one?count=1", "../other", "one/../../other", ".."])
def test_a_name_that_cannot_be_an_id_reaches_no_other(service: Service, files: list[str], name: str) -> None:
    with Client(service.url, api_key=service.user) as imago:
        imago.galleries.put("kept", "one", Path(files[0]))
        imago.galleries.configure("other")
        for call in (imago.galleries.remove, imago.galleries.entry):
            with pytest.raises(ServiceProblem):
                call("kept", name)
        with pytest.raises(ServiceProblem):
            imago.jobs.cancel(f"../galleries/{name}")
        assert imago.galleries.entry("kept", "one").vectors == 1
        assert "other" in [gallery.name for gallery in imago.galleries.list()]


def test_an_id_needs_a_picture(service: Service) -> None:
    with Client(service.url, api_key=service.user) as imago, pytest.raises(ServiceProblem, match="empty-body"):
        imago.galleries.put("kept", "two", metadata={"shelf": 1})


def test_from_python(service: Service) -> None:
    with Client(service.url, api_key=service.user) as imago:
        galleries = imago.galleries
        assert galleries.configure("tools", threshold=0.9).threshold == 0.9
        with pytest.raises(ServiceProblem, match="gallery-not-found"):
            galleries.entry("tools", "saw")
        most = {"words": "ä" * ((MAX_METADATA_BYTES - len('{"words":""}')) // 2)}
        assert galleries.put("tools", "saw", save(noise(8, 8, 1)), metadata=most).metadata == most
        galleries.put("tools", "axe", save(noise(8, 8, 2)), save(noise(8, 8, 3)), metadata=most)
        assert [entry.id for entry in galleries.entries("tools", count=1)] == ["axe"]
        assert [entry.id for entry in galleries.entries("tools", after="axe")] == ["saw"]
        answer = galleries.search("tools", save(noise(8, 8, 1)), b"no picture", options={"count": 1})
        first, second = answer.results
        assert not isinstance(first, ServiceProblem)
        assert (first.known, first.matches[0].id) == (True, "saw")
        assert first.matches[0].score == pytest.approx(1, abs=1e-3)
        assert isinstance(second, ServiceProblem)
        galleries.remove("tools", "saw")
        assert galleries.configure("tools").threshold is None
        assert [(each.name, each.ids, each.vectors) for each in galleries.list() if each.name == "tools"] == [
            ("tools", 1, 2)
        ]
        galleries.delete("tools")
        assert "tools" not in [each.name for each in galleries.list()]

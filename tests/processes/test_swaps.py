"""The engine changes a model for all workers: it waits until each has followed, and until none uses the old version."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from app.errors import LoadRefused, ModelNotFound, NotReady
from app.processes.commands import RemoteManager
from tests.make_models import make_classifier
from tests.processes.engines import Caller, House, engine
from tests.processes.scenario import run, until

NAME = "tiny-classifier"


def copy(caller: Caller, failed: Mapping[str, str] | None = None, using: tuple[str, ...] = ()) -> None:
    """Let a worker say that it has what it was told last."""
    revision = caller.told[-1]["revision"]
    caller.messenger.tell({"op": "copied", "revision": revision, "failed": failed or {}, "using": using})


def told(caller: Caller) -> dict[int, str]:
    """State of each version as the worker heard it last; those open that are not to answer yet are staged."""
    entries: list[dict[str, Any]] = caller.told[-1]["entries"]
    staged = {entry["version"] for entry in entries if entry["state"] == "loading" and entry["running"]}
    return {entry["version"]: "staged" if entry["version"] in staged else entry["state"] for entry in entries}


def key(caller: Caller, version: int) -> str:
    return next(entry["key"] for entry in caller.told[-1]["entries"] if entry["version"] == version)


async def staged(house: House, folder: Path, callers: tuple[Caller, ...]) -> "asyncio.Task[None]":
    """Have the first worker ask for version 2, and wait until all were told that it is to be opened."""
    make_classifier(folder, version=2)
    loading = asyncio.create_task(RemoteManager(callers[0].messenger).load(NAME))
    await until(lambda: all(told(caller) == {1: "ready", 2: "staged"} for caller in callers))
    return loading


def test_a_version_takes_over_once_every_worker_has_it_and_the_old_one_ends_with_its_last_user(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path, workers=2) as (house, (one, other)):
            loading = await staged(house, tmp_path, (one, other))
            old = key(one, 1)
            copy(one)
            await one.run(1, key=old)
            assert told(other) == {1: "ready", 2: "staged"}
            copy(other)
            await until(lambda: told(other) == told(one) == {1: "unloading", 2: "ready"})
            copy(one)
            assert not loading.done()
            copy(other, using=(old,))
            await loading
            await other.run(2, key=old)
            await one.run(3, key=key(one, 2))
            copy(other)
            await until(lambda: told(one) == {1: "unloaded", 2: "ready"})
            with pytest.raises(NotReady):
                await one.run(1, key=old)

    run(scenario)


def test_a_version_that_one_worker_cannot_open_is_refused_for_all(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path, workers=2) as (house, (one, other)):
            loading = await staged(house, tmp_path, (one, other))
            copy(one)
            copy(other, failed={key(other, 2): "no memory"})
            with pytest.raises(LoadRefused, match="no memory"):
                await loading
            await until(lambda: told(one) == told(other) == {1: "ready", 2: "failed"})
            await one.run(1)

    run(scenario)


def test_nobody_waits_for_a_worker_that_died_and_its_successor_gets_what_is_true_now(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path, workers=2) as (house, (one, other)):
            loading = await staged(house, tmp_path, (one, other))
            copy(one)
            other.cut()
            await until(lambda: told(one) == {1: "unloading", 2: "ready"})
            copy(one)
            await loading
            await other.connect(house.control)
            await until(lambda: told(other)[2] == "ready")
            await other.run(1, key=key(other, 2))

    run(scenario)


def test_whoever_asked_hears_it_when_the_engine_goes_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path, workers=2) as (house, (one, other)):
            loading = await staged(house, tmp_path, (one, other))
            one.cut()
            with pytest.raises(NotReady):
                await loading
            with pytest.raises(NotReady):
                await RemoteManager(one.messenger).unload(NAME)

    run(scenario)


def test_a_worker_has_a_model_unloaded_for_all(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path, workers=2) as (_, (one, other)):
            old = key(one, 1)
            unloading = asyncio.create_task(RemoteManager(one.messenger).unload(NAME))
            await until(lambda: told(one) == told(other) == {1: "unloading"})
            copy(one)
            assert not unloading.done()
            copy(other)
            await unloading
            await until(lambda: told(one) == {1: "unloaded"})
            with pytest.raises(NotReady):
                await one.run(1, key=old)

    run(scenario)


def test_what_cannot_be_done_is_said_to_the_worker_that_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as (_, (one,)):
            manager = RemoteManager(one.messenger)
            for ask in (manager.load, manager.unload):
                with pytest.raises(ModelNotFound, match="'nobody'"):
                    await ask("nobody")
            with pytest.raises(LoadRefused, match="names version 9"):
                await manager.load(NAME, (9,))

    run(scenario)


def test_rows_of_the_table_of_loads_are_used_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path) as (house, (one,)):
            for version in range(2, 6):
                folder = make_classifier(tmp_path, version=version)
                loading = asyncio.create_task(RemoteManager(one.messenger).load(NAME))
                while not loading.done():
                    copy(one)
                    await asyncio.sleep(0)
                await loading
                await until(lambda version=version: told(one).get(version - 1) in (None, "unloaded"))
                for file in (folder.parent / str(version - 1)).iterdir():
                    file.unlink()
            house.registry.look()
            assert max(entry["place"] for entry in one.told[-1]["entries"]) <= 2

    run(scenario)


def test_a_version_that_broke_while_it_served_is_told_to_every_worker(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with engine(tmp_path, workers=2) as (house, (one, other)):
            (entry,) = house.registry.openings()
            house.registry.take_away(entry)
            await house.registry.discard(entry, "It failed on everything.")
            for caller in (one, other):
                await until(lambda caller=caller: told(caller) == {1: "failed"})  # type: ignore[misc]
                assert caller.told[-1]["entries"][0]["reason"] == "It failed on everything."
            with pytest.raises(NotReady):
                await one.run(1)

    run(scenario)

"""An engine ends when its supervisor closes its end, and at once where nothing can be served."""

import asyncio
from pathlib import Path

import pytest

from app.errors import InvalidSettings
from app.processes.connections import Connections
from app.processes.engine import Engine
from app.processes.loads import Loads
from app.processes.shared import Shared
from app.repository.registry import Registry
from app.security.limits import Accounts
from app.servable import Servable
from app.telemetry.board import Board
from tests.make_models import make_classifier
from tests.processes.scenario import pair, run


def bare_shared() -> Shared:
    return Shared(1, (), Board(3), Loads(1), (), Connections(1), (), Accounts(1))


def test_an_engine_without_a_folder_of_models_ends_with_the_reason(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def nothing(*_: object) -> Servable:
            raise AssertionError("there is nothing to open")

        registry = Registry(tmp_path / "none", nothing, {}, lambda count: None)
        ours, theirs = pair()
        with ours, theirs, pytest.raises(InvalidSettings, match="is no folder"):
            await Engine(registry, bare_shared(), 0, lambda registry: None).run(theirs)

    run(scenario)


def test_an_engine_that_is_loading_ends_when_it_is_told_to(tmp_path: Path) -> None:
    make_classifier(tmp_path)

    async def scenario() -> None:
        opening = asyncio.Event()

        async def endless(*_: object) -> Servable:
            opening.set()
            await asyncio.Event().wait()
            raise AssertionError

        loaded: list[Registry] = []
        registry = Registry(tmp_path, endless, {}, lambda count: None)
        ours, theirs = pair()
        running = asyncio.create_task(Engine(registry, bare_shared(), 0, loaded.append).run(theirs))
        await opening.wait()
        ours.close()
        await running
        theirs.close()
        assert not loaded

    run(scenario)

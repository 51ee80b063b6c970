"""What a worker has in place of a `Manager`: commands to the engine, which loads and unloads for all."""

from app.processes.remote import Messenger
from app.serving import Versions


class RemoteManager:
    """Has models loaded and unloaded by the engine: what a worker has in place of a `Manager`."""

    def __init__(self, messenger: Messenger) -> None:
        self._command = messenger.command

    async def load(self, name: str, versions: Versions | None = None) -> None:
        """As `app.repository.manager.Manager.load`; NotReady where the engine goes away meanwhile."""
        await self._command(name, what="load", versions=versions)

    async def unload(self, name: str) -> None:
        """As `app.repository.manager.Manager.unload`; NotReady where the engine goes away meanwhile."""
        await self._command(name, what="unload")

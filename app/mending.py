"""The sessions that run one version's jobs in this process: looked over when they keep failing, opened anew when they
are to blame. When that is to happen is up to `app.repository.keeper`; how a session is opened, to `app.servable`.
"""

import asyncio
import logging
from collections.abc import Callable

from app.runtime.plan import Ready
from app.runtime.probe import sound
from app.scheduling.batcher import Batcher, Sessions

logger = logging.getLogger("imago.servable")


class OwnSessions:
    """The sessions that run a version's jobs in this process."""

    def __init__(
        self, ready: Ready, jobs: Batcher, shared_out: Callable[[Ready], Sessions], open_again: Callable[[], Ready]
    ) -> None:
        self._ready = ready
        self._jobs = jobs
        self._shared_out = shared_out
        self._open_again = open_again

    async def mend(self) -> None:
        """As `Servable.mend`. The broken ones are closed first: it may be their memory that is wanting."""
        loop = asyncio.get_running_loop()
        if await loop.run_in_executor(None, sound, self._ready.sessions, self._ready.finite):
            self._jobs.renew()
            return
        logger.warning("the sessions of %r fail on what they answered at first: they are opened anew", self._jobs)
        await self._jobs.suspend()
        self.close()
        try:
            self._ready = await loop.run_in_executor(None, self._open_again)
        except Exception:
            self._jobs.give_up()
            raise
        self._jobs.renew(self._shared_out(self._ready))

    def close(self) -> None:
        """Give memory and device back."""
        for session in self._ready.sessions:
            session.close()

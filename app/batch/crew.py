"""Who answers a run without a service: this process, and as many more as pay off."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from app.batch.children import Child, Orders
from app.batch.embedded import Embedded, processes_that_pay
from app.batch.run import Answerer
from app.runtime.cores import usable_cores
from app.runtime.plan import Plan


@asynccontextmanager
async def crew(orders: Orders, processes: int = 0) -> AsyncIterator[Sequence[Answerer]]:
    """Answerers that keep the cores busy, warm, in so many processes; 0 for what pays off by what was measured.

    Raises:
        InvalidModel, BackendMissing: as `open_servable`.
    """
    cores = usable_cores()
    async with AsyncExitStack() as stack:
        first = await orders.answerer()
        count = processes or processes_that_pay(first.plan, cores)
        if count > 1:
            await first.close()
            # With a process for each core nothing is won by threads, which would take the interpreter's lock in turn.
            orders = replace(orders, inline=count >= cores)
            first = await orders.answerer(shared_out(first.plan, count, cores))
        stack.push_async_callback(first.close)
        others = [await _started(stack, orders, first) for _ in range(count - 1)]
        yield [first, *others]


async def _started(stack: AsyncExitStack, orders: Orders, first: Embedded) -> Child:
    child = await Child.start(orders, first.plan)
    stack.push_async_callback(child.close)
    return child


def shared_out(plan: Plan, processes: int, cores: int) -> Plan:
    """The plan of each of several processes that have the cores between them: one thread a batch."""
    return replace(plan, threads=1, lone_threads=1, concurrency=max(1, round(cores / processes)))

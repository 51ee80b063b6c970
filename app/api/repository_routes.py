"""What is served: `/models`, `/models/{name}`, `/tasks`."""

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.requests import Request

from app.api.calls import Target
from app.api.middleware import record_of
from app.api.refusals import refusals
from app.api.schemas import ModelDetail, ModelList, ModelSummary, TaskList, TaskSummary, VersionState
from app.errors import InvalidOption, ModelNotFound
from app.manifest import CARD, explain
from app.repository.registry import Entry, Registry
from app.tasks import TASKS
from app.tasks.base import PictureTask


def repository_routes(registry: Registry) -> APIRouter:
    """The routes that describe models and tasks."""
    router = APIRouter(tags=["models"])

    @router.get("/models", summary="All models, by their newest version")
    async def models(request: Request) -> ModelList:
        names = dict.fromkeys(entry.name for entry in seen(registry, request))
        return ModelList(models=[_summary(registry, registry.describe(name)) for name in names])

    @router.get(
        "/models/{name}",
        summary="One model: card, metrics, input, labels",
        responses=refusals((ModelNotFound, InvalidOption)),
    )
    async def model(name: str, version: str | None = None) -> ModelDetail:
        entries = registry.describe(name)
        if version is not None:
            asked = _target(version)
            number = registry.traffic(name).number(asked)
            entries = [entry for entry in entries if entry.version == number]
            if not entries:
                raise ModelNotFound(name, asked)
        return _detail(registry, entries)

    @router.get("/tasks", summary="All tasks, their options and the models that answer them")
    async def tasks(request: Request) -> TaskList:
        return TaskList(tasks=[_task(registry, kind, seen(registry, request)) for kind in TASKS])

    return router


def seen(registry: Registry, request: Request) -> list[Entry]:
    """The entries that exist for whoever asks."""
    record = record_of(request.scope)
    return [entry for entry in registry.entries() if record.sees(entry.name)]


def _target(version: str) -> int | str:
    """A version by its number or name. Raises `InvalidOption` where it can be neither."""
    try:
        found = Target.model_validate({"version": version}).version
    except ValidationError as error:
        raise InvalidOption(explain(error, Target)) from None
    return version if found is None else found


def _answering(registry: Registry, entries: list[Entry]) -> Entry:
    """The version that answers who names none, or would; or else the newest that can answer, or else the newest."""
    stable = registry.traffic(entries[0].name).stable
    ready = [entry for entry in entries if entry.state == "ready"]
    return next((entry for entry in entries if entry.version == stable), (ready or entries)[0])


def _summary(registry: Registry, entries: list[Entry]) -> ModelSummary:
    entry = _answering(registry, entries)
    return ModelSummary(
        name=entry.name,
        version=entry.version or None,
        versions=list(registry.versions_on_disk(entry.name)),
        aliases=dict(registry.traffic(entry.name).aliases),
        loaded=[other.version for other in entries if other.state == "ready"],
        task=entry.manifest.task if entry.manifest else None,
        state=entry.state,
        reason=entry.reason or None,
        states=[VersionState(version=e.version, state=e.state, reason=e.reason or None) for e in entries],
        description=entry.manifest.description if entry.manifest else None,
    )


def _detail(registry: Registry, entries: list[Entry]) -> ModelDetail:
    entry = _answering(registry, entries)
    servable, manifest, traffic = entry.servable, entry.manifest, registry.traffic(entry.name)
    running = servable.running if servable else None
    card = registry.root / entry.name / str(entry.version) / CARD
    return ModelDetail(
        **_summary(registry, entries).model_dump(),
        canary=traffic.canary,
        shadow=traffic.shadow,
        labels=list(servable.task.labels) if servable else [],
        inputs=[str(spec) for spec in servable.graph.inputs] if servable else [],
        outputs=[str(spec) for spec in servable.graph.outputs] if servable else [],
        device=running.device if running else None,
        in_each_process=running.inline if running else None,
        max_batch_size=running.max_batch_size if running else None,
        batch_milliseconds={
            str(rows): round(seconds * 1000, 3)
            for rows, seconds in (running.plan.batch_seconds if running else {}).items()
        },
        manifest=manifest.model_dump(mode="json") if manifest else None,
        card=card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None,
    )


def _task(registry: Registry, kind: str, entries: list[Entry]) -> TaskSummary:
    names = [entry.name for entry in entries if entry.manifest and entry.manifest.task == kind]
    default = registry.default(kind)
    return TaskSummary(
        task=kind,
        path=f"/{kind}",
        summary=TASKS[kind].summary,
        takes_picture=issubclass(TASKS[kind], PictureTask),
        answers=["application/json", *(f"image/{form}" for form in TASKS[kind].Options().forms)],
        default_model=default.manifest.name if default and default.manifest.name in names else None,
        models=list(dict.fromkeys(names)),
        options=TASKS[kind].Options.model_json_schema(),
    )

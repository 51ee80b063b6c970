"""The Python client: HTTP on the other side, and of the service nothing but its contract.

    from app.client import Client
    from app.tasks import Classify

    with Client("http://127.0.0.1:8000", api_key="...") as imago:
        answer = imago.ask(Classify, Path("cat.jpg"), options={"top_k": 3})
        print(answer.result.labels[0].label, answer.model, answer.version)

`AsyncClient` is the same with `await`. A task asked by its name (`"classify"`) gives plain dictionaries.
"""

from app.client.asynchronous import AsyncClient
from app.client.blocking import Client
from app.client.galleries import Gallery, GalleryEntry, GalleryFind, GalleryMatch
from app.client.jobs import Job
from app.client.problems import ServiceProblem
from app.client.retries import Retries
from app.client.wire import Answer, Choices, JsonObject, Picture, Question

__all__ = [
    "Answer",
    "AsyncClient",
    "Choices",
    "Client",
    "Gallery",
    "GalleryEntry",
    "GalleryFind",
    "GalleryMatch",
    "Job",
    "JsonObject",
    "Picture",
    "Question",
    "Retries",
    "ServiceProblem",
]

"""Every error that imago raises on purpose: a noun, a sentence that tells what to do, and a stable code.

ImagoError
├── ServiceError          answered to a caller; `api/errors.py` alone knows the HTTP status
└── OperatorError         told to the operator: in the log, by `imago check`, in `/models` as the reason
"""


class ImagoError(Exception):
    """An error whose text may be shown as it is."""

    code = "error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class ServiceError(ImagoError):
    """A request that cannot be answered as asked."""


class InvalidRequest(ServiceError):
    """The body is not what the route takes: broken JSON or multipart, no picture, too many pictures."""

    code = "invalid-request"


class EmptyBody(ServiceError):
    """There is no picture in the body, or an empty one."""

    code = "empty-body"

    def __init__(self) -> None:
        super().__init__("The body holds no picture: send the bytes of an image file.")


class InvalidOption(ServiceError):
    """An option is unknown, of the wrong type or out of its range."""

    code = "invalid-option"


class UnsupportedImage(ServiceError):
    """The bytes are no picture, or one in a format that is switched off."""

    code = "unsupported-image"


class UnsupportedEncoding(ServiceError):
    """The body came with a `Content-Encoding`."""

    code = "unsupported-content-encoding"

    def __init__(self, encoding: str) -> None:
        super().__init__(f"Content-Encoding {encoding[:40]!r} is not accepted: send the body as it is.")


class CorruptImage(ServiceError):
    """The picture starts like one of its format and cannot be decoded to its end."""

    code = "corrupt-image"


class ImageTooLarge(ServiceError):
    """The header announces more pixels than are decoded here."""

    code = "image-too-large"

    def __init__(self, limit: int, size: tuple[int, int] | None = None) -> None:
        seen = "has too many pixels" if size is None else f"is {size[0]} x {size[1]} pixels"
        super().__init__(f"The picture {seen}; at most {limit} pixels are decoded: send a smaller one.")


class BodyTooLarge(ServiceError):
    """The body is longer than the limit."""

    code = "body-too-large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is longer than {limit} bytes: send a smaller picture, or fewer in one request.")


class TensorsTooLarge(ServiceError):
    """The tensors of one job, or of its answer, are more than the processes of the service share memory for."""

    code = "tensors-too-large"


class MalformedMessage(ServiceError):
    """What came is no request of HTTP/1.1, or one of nothing that could be found here."""

    code = "malformed-message"

    def __init__(self) -> None:
        super().__init__("What came is no HTTP/1.1 request (RFC 9112): the connection is closed.")


class TargetTooLong(ServiceError):
    """Path and query are longer than the limit."""

    code = "target-too-long"

    def __init__(self, limit: int) -> None:
        super().__init__(f"Path and query are longer than {limit} bytes: send long options in the body.")


class HeadersTooLong(ServiceError):
    """There are too many headers, or their bytes are too many; the same goes for trailers and extensions of chunks."""

    code = "headers-too-long"

    def __init__(self, headers: int, length: int) -> None:
        super().__init__(f"At most {headers} headers of together {length} bytes are read.")


class RequestTimeout(ServiceError):
    """The head or the body of the request did not come in its time."""

    code = "request-timeout"

    def __init__(self) -> None:
        super().__init__("The request took too long to come: send it again, on another connection.")


class TooManyConnections(ServiceError):
    """As many connections are open as one process keeps, all of them with a request."""

    code = "too-many-connections"

    def __init__(self, retry_after: float = 1.0) -> None:
        super().__init__("Too many connections are open: retry after the delay in Retry-After.")
        self.retry_after = retry_after


class NotAcceptable(ServiceError):
    """The media type asked for cannot be made from this request."""

    code = "not-acceptable"


class ModelNotFound(ServiceError):
    """No such model, or no such version of it, is served, or none for the task."""

    code = "model-not-found"

    def __init__(self, name: str | None, version: int | str | None = None) -> None:
        which = "A model for this task" if name is None else f"Model {name[:64]!r}"
        which += "" if version is None else f" version {version}"
        super().__init__(f"{which} is not served here: GET /models lists what is.")


class WrongTask(ServiceError):
    """The model named is for another task."""

    code = "wrong-task"

    def __init__(self, name: str, kind: str, asked: str) -> None:
        path = f"v2/models/{name}/infer" if kind == "tensors" else kind  # plain files have no route of their own
        super().__init__(f"Model {name!r} is for the task {kind!r}: post to /{path}, or name a model for {asked!r}.")


class Unauthenticated(ServiceError):
    """The route needs an API key, and none came, or one that is unknown, expired or revoked."""

    code = "unauthenticated"


class ScopeMissing(ServiceError):
    """The API key does not open this route."""

    code = "scope-missing"

    def __init__(self, scope: str) -> None:
        super().__init__(f"This API key lacks the scope {scope!r}.")


class ForeignOrigin(ServiceError):
    """A page of another site, opened in a browser, asks for what is an administrator's."""

    code = "foreign-origin"

    def __init__(self) -> None:
        super().__init__("This is not answered to pages of other sites: use keys, or no browser.")


class LoadRefused(ServiceError):
    """A model could not be loaded as asked; what served before serves on. The detail says why."""

    code = "load-refused"


class ControlOff(ServiceError):
    """Callers may not load and unload models here."""

    code = "model-control-off"

    def __init__(self) -> None:
        super().__init__(
            "Loading and unloading over HTTP is switched off: the operator allows it with --model-control."
        )


class GalleriesOff(ServiceError):
    """There are no galleries here."""

    code = "galleries-off"

    def __init__(self) -> None:
        super().__init__("Galleries are switched off: the operator gives them a folder with --galleries.")


class GalleryNotFound(ServiceError):
    """No such gallery, or no such id in it, or another key's."""

    code = "gallery-not-found"

    def __init__(self, name: str, identity: str | None = None) -> None:
        which = "" if identity is None else f"id {identity[:128]!r} in the "
        super().__init__(f"There is no {which}gallery {name[:64]!r}: GET /galleries lists those of this key.")


class GalleryConflict(ServiceError):
    """The gallery holds embeddings of another model or version; the detail says what to do."""

    code = "gallery-conflict"


class GalleryFull(ServiceError):
    """There is no room for another gallery, or for more vectors."""

    code = "gallery-full"


class JobsOff(ServiceError):
    """Background jobs are not taken here."""

    code = "jobs-off"

    def __init__(self) -> None:
        super().__init__("Background jobs are switched off: the operator names a folder for them with --jobs-dir.")


class JobNotFound(ServiceError):
    """No background job of whoever asks has this id (any more)."""

    code = "job-not-found"

    def __init__(self) -> None:
        super().__init__("There is no job of yours with this id (any more): GET /jobs lists what is there.")


class JobUnfinished(ServiceError):
    """The results of a background job are not there yet."""

    code = "job-unfinished"

    def __init__(self, done: int, pictures: int) -> None:
        super().__init__(f"{done} of {pictures} pictures are done: its results are there when all are.")


class JobTooLarge(ServiceError):
    """A background job has too many pictures, unpacks to too many bytes, or its results do."""

    code = "job-too-large"


class TooManyJobs(ServiceError):
    """There is no room for another background job."""

    code = "too-many-jobs"

    def __init__(self) -> None:
        super().__init__("There is no room for another job: delete some that have ended, or retry later.")
        self.retry_after = 20.0


class RouteNotFound(ServiceError):
    """No route has this path."""

    code = "route-not-found"

    def __init__(self) -> None:
        super().__init__("There is nothing at this path: GET /docs shows every route.")


class MethodNotAllowed(ServiceError):
    """The route has no such method."""

    code = "method-not-allowed"

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"{method[:16]} is not allowed here, only {allowed}: GET /docs shows every route.")
        self.allowed = allowed


class Overloaded(ServiceError):
    """Waiting would take longer than this request may, so it was refused at once."""

    code = "overloaded"

    def __init__(self, retry_after: float) -> None:
        super().__init__("It could not be answered in time: retry after the delay in Retry-After, or allow more time.")
        self.retry_after = retry_after


class QuotaExceeded(ServiceError):
    """The API key has used up what it may ask for: requests, requests at a time, or pixels."""

    code = "quota-exceeded"

    def __init__(self, limit: str, retry_after: float) -> None:
        super().__init__(f"This API key may ask for {limit}: retry after the delay in Retry-After.")
        self.retry_after = retry_after


class TooManyGuesses(ServiceError):
    """Too many wrong API keys came from this address."""

    code = "too-many-guesses"

    def __init__(self, retry_after: float) -> None:
        super().__init__("Too many wrong API keys came from this address: retry after the delay in Retry-After.")
        self.retry_after = retry_after


class NotReady(ServiceError):
    """The model is known and cannot answer now: loading, broken, or the service is stopping."""

    code = "not-ready"

    def __init__(self, detail: str, retry_after: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class DeadlineExceeded(ServiceError):
    """The deadline passed before the turn of the request came: while its body came, was decoded, or waited."""

    code = "deadline-exceeded"

    def __init__(self) -> None:
        super().__init__("The deadline of this request passed before its turn came.")


class CallerLeft(ServiceError):
    """The caller closed the connection; nobody reads this answer, the log and the metrics do."""

    code = "caller-left"

    def __init__(self) -> None:
        super().__init__("The caller closed the connection before the answer was ready.")


class InferenceFailed(ServiceError):
    """The model ran and failed; the reason is in the log under the request's id."""

    code = "inference-failed"

    def __init__(self) -> None:
        super().__init__("The model failed on this input; the operator finds the reason under this request's id.")


class InsufficientMemory(ServiceError):
    """There was no memory to run the model on this input, even alone."""

    code = "insufficient-memory"

    def __init__(self) -> None:
        super().__init__("There is not enough memory to run the model on this input now: retry, or send a smaller one.")
        self.retry_after = 5.0


class InternalError(ServiceError):
    """A fault of imago's own; its text goes to the log only."""

    code = "internal-error"

    def __init__(self) -> None:
        super().__init__("Something failed here, not in the request; the operator finds it under this request's id.")


class OperatorError(ImagoError):
    """Something that the operator put or set here cannot be used."""


class InvalidSettings(OperatorError):
    """A setting is unknown or has a value that cannot be used."""

    code = "invalid-settings"


class InvalidKeys(OperatorError):
    """The file of API keys is missing, broken, or open to others."""

    code = "invalid-keys"


class InvalidModel(OperatorError):
    """A version folder breaks the contract: manifest, digest, labels or graph."""

    code = "invalid-model"


class InvalidBatch(OperatorError):
    """`imago batch` cannot do what it was asked: no pictures, results that are there already, a library missing."""

    code = "invalid-batch"


class ProcessDied(OperatorError):
    """A process of `imago batch` ended before its pictures were answered."""

    code = "process-died"

    def __init__(self) -> None:
        super().__init__("A process that answered pictures was killed, perhaps for memory: start again to go on.")


class BackendMissing(OperatorError):
    """The inference library for this device is not installed."""

    code = "backend-missing"


class SessionFault(Exception):
    """A session failed, and not over what it was given. Callers are told what becomes of their requests."""


class OutOfMemory(SessionFault):
    """There was no memory for a batch: a smaller one may run."""


class DeviceLost(SessionFault):
    """The device of a session does not run anything any more in this process."""

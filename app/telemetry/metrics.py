"""Prometheus metrics, in base units, on a registry of their own. Label values come from closed sets only."""

from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

_SECONDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
_STAGE_SECONDS: Final = (0.0001, 0.00025, 0.0005, *_SECONDS)
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
_MODEL: Final = ("task", "model")


@dataclass(frozen=True)
class ModelMetrics:
    """The metrics of one model, with their labels already filled in."""

    decode: Histogram
    queue: Histogram
    inference: Histogram
    encode: Histogram
    batch_size: Histogram
    queue_depth: Gauge
    rejected: Counter
    expired: Counter
    cancelled: Counter


class Metrics:
    """All metrics of one application."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "imago_requests", "Requests answered, by status code.", ("task", "model", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "imago_request_duration_seconds", "From the request's headers to the end of its answer.",
            _MODEL, buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.decode = self._stage("imago_decode_seconds", "Decoding and fitting one picture.", registry)
        self.queue = self._stage("imago_queue_seconds", "Waiting of one job for a free session.", registry)
        self.inference = self._stage("imago_inference_seconds", "One run of a session.", registry)
        self.encode = self._stage("imago_encode_seconds", "Turning one job's outputs into its answer.", registry)
        self.batch_size = Histogram(
            "imago_batch_size", "Rows in one run of a session.", _MODEL, buckets=_ROWS, registry=registry
        )
        self.queue_depth = Gauge("imago_queue_depth", "Rows waiting for a session.", _MODEL, registry=registry)
        self.rejected = Counter(
            "imago_rejected", "Jobs not run: refused at once, or expired while they waited.",
            (*_MODEL, "reason"), registry=registry,
        )  # fmt: skip
        self.cancelled = Counter("imago_cancelled", "Jobs whose caller left.", _MODEL, registry=registry)
        self.models_loaded = Gauge("imago_models_loaded", "Model versions ready to answer.", registry=registry)
        ProcessCollector(registry=registry)  # process_resident_memory_bytes, process_cpu_seconds_total and their kin

    def of(self, task: str, model: str) -> ModelMetrics:
        """The metrics of one model; both names come from loaded manifests."""
        return ModelMetrics(
            decode=self.decode.labels(task, model),
            queue=self.queue.labels(task, model),
            inference=self.inference.labels(task, model),
            encode=self.encode.labels(task, model),
            batch_size=self.batch_size.labels(task, model),
            queue_depth=self.queue_depth.labels(task, model),
            rejected=self.rejected.labels(task, model, "overloaded"),
            expired=self.rejected.labels(task, model, "deadline"),
            cancelled=self.cancelled.labels(task, model),
        )

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its media type, in the format that the scraper's `Accept` header asks for."""
        encoder, media_type = choose_encoder(accept)
        return encoder(self.registry), media_type

    @staticmethod
    def _stage(name: str, text: str, registry: CollectorRegistry) -> Histogram:
        return Histogram(name, text, _MODEL, buckets=_STAGE_SECONDS, registry=registry)

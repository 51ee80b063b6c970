"""Prometheus metrics, in base units, of all processes of the service. Label values come from closed sets only.

Owns their names and buckets. Each process observes on its own segment of a board, whichever is asked adds all of them
up: `app.telemetry.board` says where the numbers lie, `families` how they add up, `processes` what the kernel knows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.telemetry.board import Board
from app.telemetry.families import Counter, CounterFamily, Gauge, GaugeFamily, Histogram, HistogramFamily
from app.telemetry.processes import Processes
from app.telemetry.pulse import Pulse
from app.telemetry.statistics import BatchCounts, Statistics

_SECONDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
_STAGE_SECONDS: Final = (0.0001, 0.00025, 0.0005, *_SECONDS)
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
_SHARES: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
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
    batches: BatchCounts
    """Of one version."""


@dataclass(frozen=True)
class ShadowMetrics:
    """How the versions of one model agree, and what became of the calls that were to tell."""

    agreement: Histogram
    compared: Counter
    dropped: Counter
    failed: Counter


@dataclass(frozen=True)
class JobMetrics:
    """The metrics of background jobs."""

    accepted: Counter
    done: Counter
    failed: Counter
    answered: Counter
    """Pictures with a result, and those with an error."""
    unanswered: Counter
    waiting: Gauge


class Metrics(Collector):
    """All metrics of one application: those of this process to write, those of all processes to read.

    The board is made before the service forks, `Metrics` after it, once in the process of a slot. A process that takes
    the slot of one that has ended continues its counters; its gauges start at 0. Without a board there is one process.
    """

    def __init__(self, board: Board | None = None, slot: int = 0) -> None:
        self._segments = (board or Board()).segments
        own = self._own = self._segments[slot]
        self.requests = CounterFamily(own, "imago_requests", "Requests answered, by status code.", (*_MODEL, "status"))
        self.request_seconds = HistogramFamily(
            own, "imago_request_duration_seconds", "From the request's headers to the end of its answer.",
            _MODEL, _SECONDS,
        )  # fmt: skip
        self.decode = self._stage("imago_decode_seconds", "Decoding and fitting one picture.")
        self.queue = self._stage("imago_queue_seconds", "Waiting of one job for a free session.")
        self.inference = self._stage("imago_inference_seconds", "One run of a session.")
        self.encode = self._stage("imago_encode_seconds", "Turning one job's outputs into its answer.")
        self.batch_size = HistogramFamily(own, "imago_batch_size", "Rows in one run of a session.", _MODEL, _ROWS)
        self.queue_depth = GaugeFamily(own, "imago_queue_depth", "Rows waiting for a session.", _MODEL)
        self.rejected = CounterFamily(
            own, "imago_rejected", "Jobs not run: refused at once, or expired while they waited.", (*_MODEL, "reason")
        )
        self.cancelled = CounterFamily(own, "imago_cancelled", "Jobs whose caller left.", _MODEL)
        self.access_refused = CounterFamily(
            own, "imago_access_refused", "Requests refused for their API key or its limits.", ("reason",)
        )
        self.agreement = HistogramFamily(
            own, "imago_shadow_agreement", "Share in which a shadow gave the same as the version that answered.",
            _MODEL, _SHARES,
        )  # fmt: skip
        self.shadowed = CounterFamily(
            own, "imago_shadow", "Calls to be given to a shadow as well.", (*_MODEL, "outcome")
        )
        self._jobs = CounterFamily(own, "imago_jobs", "Background jobs taken in, and ended.", ("event",))
        self._job_pictures = CounterFamily(
            own, "imago_job_pictures", "Pictures of background jobs, by what became of them.", ("outcome",)
        )
        self._job_waiting = GaugeFamily(own, "imago_job_pictures_waiting", "Pictures of jobs that are to be answered.")
        # Each process knows all the models, so that their sum would count every one several times.
        self._models_loaded = GaugeFamily(own, "imago_models_loaded", "Model versions ready to answer.", combine=max)
        self.models_loaded = self._models_loaded.labels()
        self._gallery_seconds = HistogramFamily(
            own, "imago_gallery_search_seconds", "Searching a gallery, without making the embeddings.", (),
            _STAGE_SECONDS,
        )  # fmt: skip
        self.gallery_seconds = self._gallery_seconds.labels()
        self.gallery_vectors = 0
        """Vectors of all galleries: all processes would count the same ones, so whoever is scraped asks just before."""
        self.pulse = Pulse(self._segments, own)
        self.statistics = Statistics(self._segments, own)
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.registry.register(Processes(self._segments, own))

    def of(self, task: str, model: str, version: int) -> ModelMetrics:
        """The metrics of one model, and the batches of one version; the names come from loaded manifests."""
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
            batches=self.statistics.batches(model, version),
        )

    def shadow_of(self, task: str, model: str) -> ShadowMetrics:
        """The metrics of one model's shadow."""
        outcomes = {name: self.shadowed.labels(task, model, name) for name in ("compared", "dropped", "failed")}
        return ShadowMetrics(self.agreement.labels(task, model), **outcomes)

    def of_jobs(self) -> JobMetrics:
        """The metrics of background jobs."""
        return JobMetrics(
            accepted=self._jobs.labels("accepted"),
            done=self._jobs.labels("done"),
            failed=self._jobs.labels("failed"),
            answered=self._job_pictures.labels("answered"),
            unanswered=self._job_pictures.labels("failed"),
            waiting=self._job_waiting.labels(),
        )

    def collect(self) -> Iterator[Metric]:
        """Every family as it is now in all processes, for the registry."""
        for family in (
            self.requests, self.request_seconds, self.decode, self.queue, self.inference, self.encode,
            self.batch_size, self.queue_depth, self.rejected, self.cancelled, self.access_refused, self.agreement,
            self.shadowed, self._jobs, self._job_pictures, self._job_waiting, self._models_loaded,
            self._gallery_seconds,
        ):  # fmt: skip
            yield family.collect(self._segments)
        text = "Vectors of all galleries."
        yield GaugeMetricFamily("imago_gallery_vectors", text, value=float(self.gallery_vectors))

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its media type, in the format that the scraper's `Accept` header asks for; as plain text
        where that cannot be read."""
        try:
            encoder, media_type = choose_encoder(accept.replace('"', ""))  # it does not know quoted parameters
        except TypeError:  # nor versions that are no numbers
            encoder, media_type = choose_encoder("")
        return encoder(self.registry), media_type

    def _stage(self, name: str, text: str) -> HistogramFamily:
        return HistogramFamily(self._own, name, text, _MODEL, _STAGE_SECONDS)

"""Keys and quotas in front of the running server: on the short way, on the long one, and while keys change."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from app.api.access import AccessControl
from app.security.keys import INFER, METRICS, Limits
from tests.api.connection import Caller, Served, make_models, request, serving, until
from tests.api.doors import Keys, bearer
from tests.api.service import Answer
from tests.imaging.pictures import noise, save

PICTURE = save(noise(12, 9))
LONG_WAY = (b"expect", b"100-continue")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("keys") / "keys.json")
    made.add(METRICS)
    return made


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Iterator[Served]:
    with serving(make_models(tmp_path_factory.mktemp("served") / "models"), keys=keys.path) as running:
        yield running


def heed(served: Served) -> None:
    """Look at the file now, as is done twice a second."""
    access = served.app.edge.access
    assert isinstance(access, AccessControl)
    access.keys.look()


def new(served: Served, keys: Keys, *scopes: str, limits: Limits | None = None) -> str:
    secret = keys.add(*scopes, limits=limits or Limits())
    heed(served)
    return secret


def post(secret: str | None, *more: tuple[bytes, bytes], target: bytes = b"/classify") -> bytes:
    return request(PICTURE, target, [*(bearer(secret) if secret else []), *more])


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, "" if answer.status == 200 else answer.json()["code"]


def both_ways(served: Served, secret: str | None, target: bytes = b"/classify") -> tuple[int, str]:
    """What a request is answered with, on the way it takes by itself and on the long one."""
    short = code(served.ask(post(secret, target=target)))
    took = served.fast.took.copy()
    long = code(served.ask(post(secret, LONG_WAY, target=target)))
    assert short == long
    assert took == [short[0] == 200]
    return short


def test_a_good_key_takes_the_short_way_and_all_others_are_refused_on_the_long_one(served: Served, keys: Keys) -> None:
    assert both_ways(served, new(served, keys, INFER)) == (200, "")
    assert both_ways(served, new(served, keys, "infer:tiny-classifier"), b"/classify?model=tiny-classifier") == (
        200,
        "",
    )
    assert both_ways(served, new(served, keys, METRICS)) == (403, "scope-missing")
    assert both_ways(served, new(served, keys, "infer:tiny-segmenter")) == (404, "model-not-found")
    assert both_ways(served, None) == (401, "unauthenticated")


def test_a_wrong_key_is_refused_on_both_ways_and_after_ten_of_them_told_to_wait(served: Served, keys: Keys) -> None:
    wrong = f"imago_00000000_{'x' * 43}"
    answers = [served.ask(post(wrong, *([LONG_WAY] if turn % 2 else []))) for turn in range(12)]
    assert [code(answer) for answer in answers[:10]] == [(401, "unauthenticated")] * 10
    assert code(answers[10]) == code(answers[11]) == (429, "too-many-guesses")
    assert int(answers[10].headers["retry-after"]) >= 1
    assert both_ways(served, new(served, keys, INFER)) == (200, "")  # from the same address


def test_a_key_opens_from_when_it_is_made_until_it_is_revoked(served: Served, keys: Keys) -> None:
    secret = new(served, keys, INFER)
    assert both_ways(served, secret) == (200, "")
    keys.revoke(secret)
    heed(served)
    assert both_ways(served, secret)[0] in {401, 429}


def test_a_connection_that_was_let_in_is_asked_again_with_every_request(served: Served, keys: Keys) -> None:
    secret = new(served, keys, INFER)

    async def tell(caller: Caller) -> list[int]:
        statuses = [(await caller.ask(post(secret))).status]
        keys.revoke(secret)
        heed(served)
        return [*statuses, (await caller.ask(post(secret))).status, (await caller.ask(post(None))).status]

    first, *rest = served.story(tell)
    assert first == 200
    assert set(rest) <= {401, 429}


def test_a_key_that_has_expired_opens_nothing(served: Served, keys: Keys) -> None:
    secret = keys.add(INFER, expires=datetime.now(UTC) - timedelta(seconds=1))
    heed(served)
    assert both_ways(served, secret)[0] in {401, 429}


def test_requests_beyond_the_rate_of_a_key_are_told_when_to_come_back(served: Served, keys: Keys) -> None:
    secret = new(served, keys, INFER, limits=Limits(requests_per_second=0.001))
    assert served.ask(post(secret)).status == 200
    for more in ((), (LONG_WAY,)):
        refused = served.ask(post(secret, *more))
        assert code(refused) == (429, "quota-exceeded")
        assert int(refused.headers["retry-after"]) == 30  # the most that is ever told
    listed = served.ask(request(target=b"/models", method=b"GET", headers=bearer(secret)))
    assert code(listed) == (429, "quota-exceeded")


def test_pixels_of_both_ways_are_charged_to_the_key(served: Served, keys: Keys) -> None:
    for more in ((), (LONG_WAY,)):
        secret = new(served, keys, INFER, limits=Limits(pixels_per_second=1))
        assert served.ask(post(secret, *more)).status == 200
        assert code(served.ask(post(secret))) == (429, "quota-exceeded")
    unlimited = new(served, keys, INFER)
    assert [served.ask(post(unlimited)).status for _ in range(3)] == [200] * 3


def test_requests_at_a_time_are_limited_and_end_however_they_end(served: Served, keys: Keys) -> None:
    """A batch of the waiting model runs when two requests have come: the first one holds the key meanwhile."""
    secret = new(served, keys, INFER, limits=Limits(concurrency=1))
    other = new(served, keys, INFER)
    target = b"/classify?model=waiting-classifier"

    async def tell(first: Caller, second: Caller, third: Caller) -> None:
        first.send(post(secret, target=target))
        await until(lambda: served.jobs("waiting-classifier").lane.waiting == 1)
        assert code(await second.ask(post(secret))) == (429, "quota-exceeded")
        assert (await third.ask(post(other, target=target))).status == 200
        assert (await first.answer()).status == 200

    served.story(tell, callers=3)
    assert code(served.ask(request(b"no picture", headers=bearer(secret)))) == (415, "unsupported-image")
    assert code(served.ask(request(bytes(30 * 2**20), headers=bearer(secret)))) == (413, "body-too-large")

    async def leave(caller: Caller) -> None:
        caller.send(post(secret)[:-5])
        await until(lambda: served.fast.took == [True])
        await caller.reset()

    served.story(leave)
    assert served.ask(post(secret)).status == 200


def test_refusals_are_counted_by_their_reason(served: Served, keys: Keys) -> None:
    metrics = new(served, keys, METRICS)
    served.ask(post(None))
    served.ask(post(metrics))
    text = served.ask(request(target=b"/metrics", method=b"GET", headers=bearer(metrics))).body.decode()
    for reason in ("unauthenticated", "scope-missing"):
        assert f'imago_access_refused_total{{reason="{reason}"}}' in text


@pytest.mark.parametrize(
    "target",
    [
        b"/classify", b"//classify", b"/classify/", b"/%63lassify", b"/classify%0A", b"/classify%3Fx=1",
        b"/classify#/livez",
        b"/livez/../classify", b"/livez%2f..%2fclassify", b"/livez%2fclassify", b"/static/..%2f..%2fclassify", b"*",
        b"http://imago/classify", b"http://imago/livez/../metrics", b"/metrics", b"/%6detrics", b"/metrics?x=/livez",
        b"/metrics%20", b"/%2fmetrics", b"/metrics%00", b"/models/tiny-classifier", b"/models%2ftiny-classifier",
        b"/models//tiny-classifier", b"/openapi.json", b"/openapi%2ejson", b"/OPENAPI.JSON", b"/docs/../openapi.json",
    ],
)  # fmt: skip
@pytest.mark.parametrize("host", [b"imago", b"a/?x=", b"imago/livez?", b"imago/livez#", b"@livez", b"\xff"])
def test_no_target_on_the_wire_leads_around_the_key(served: Served, target: bytes, host: bytes) -> None:
    for method in (b"GET", b"POST", b"HEAD"):
        asked = request(PICTURE if method == b"POST" else b"", target, method=method).replace(
            b"host: imago", b"host: " + host
        )
        answer = served.run(status_of(served, asked))
        assert answer in ({404, 405} if target.startswith(b"/static/") else {400, 401}), (method, answer)


async def status_of(served: Served, asked: bytes) -> int:
    """The status of one answer: one to HEAD has no body, whatever length it tells."""
    caller = await served.connect()
    caller.send(asked)
    head = await caller.reader.readuntil(b"\r\n\r\n")
    await caller.close()
    return int(head.split(b" ")[1])

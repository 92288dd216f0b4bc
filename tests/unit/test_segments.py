"""What the calls about segments and enrichment jobs send, and what they make of the answers."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from types import MappingProxyType, SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from audiencelab_sdk import (
    APIConnectionError,
    AudienceLabError,
    ConflictError,
    CustomColumn,
    EnrichmentJob,
    EnrichmentTimeoutError,
    InvalidArgumentError,
    InvalidRequestError,
    NewSegment,
    NotFoundError,
    PermissionDeniedError,
    Segment,
    SegmentFilter,
    SourceType,
    UnexpectedResponseError,
)
from audiencelab_sdk._http._operation import Operation
from audiencelab_sdk._resources import enrichment as enrichment_module
from tests.unit._operations import (
    ACCOUNT,
    JOB,
    KEY_ID,
    SEGMENT,
    URL,
    enrichment,
    enrichment_of_nobody,
    segments,
    segments_of_nobody,
    success,
    unfetched,
)
from tests.unit.test_api_keys import answered, sent

LISTING: dict[str, Any] = {
    "account_id": None,
    "source_type": None,
    "tags": (),
    "name_contains": None,
    "created_after": None,
    "created_before": None,
    "page_size": 100,
}
NEW = NewSegment(name="n", source_type=SourceType.AUDIENCE, source_id="a")


def listed(changes: dict[str, Any]) -> Any:
    return unfetched(segments.list, **(LISTING | changes)).page()


def drive(steps: Operation[Any], *answers: Any) -> tuple[list[Any], Any]:
    """The requests made, and the result, when each is answered in turn: by data or an error."""
    requests = [next(steps)]
    for answer in answers:
        data = answer(sent(requests[-1])[2]) if callable(answer) else answer
        try:
            if isinstance(data, Exception):
                requests.append(steps.throw(data))
            else:
                requests.append(steps.send(success(data)))
        except StopIteration as stop:
            return [sent(request) for request in requests], stop.value
    raise AssertionError("more requests than answers")


def as_rows(body: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [SEGMENT | row for row in body]


def test_conditions_of_a_list() -> None:
    moment = datetime(2025, 1, 2, tzinfo=UTC)
    steps = listed(
        {
            "account_id": ACCOUNT,
            "source_type": "audience",
            "tags": ["a", 'b"\\,{}'],
            "name_contains": "100% [a]*",
            "created_before": moment,
        }
    )
    path, query, _ = sent(next(steps))
    assert path == "/rest/v1/segments"
    assert query == {
        "select": "*",
        "created_at": "lt.2025-01-02T00:00:00+00:00",
        "account_id": f"eq.{ACCOUNT}",
        "source_type": "eq.audience",
        "tags": 'cs.{"a","b\\"\\\\,{}"}',
        "name": r"imatch.100% \[a\]\*",
        "deleted": "is.false",
        "order": "created_at.desc,id.desc",
        "limit": "100",
    }


def test_a_row_that_is_not_there_is_named() -> None:
    steps = segments.get(KEY_ID)
    next(steps)
    with pytest.raises(NotFoundError, match="no such segment"):
        steps.throw(NotFoundError(406, "PGRST116", "Cannot coerce the result"))


def test_a_missing_table_is_something_else() -> None:
    steps = segments.get(KEY_ID)
    next(steps)
    with pytest.raises(NotFoundError, match="no table"):
        steps.throw(NotFoundError(404, "PGRST205", "no table"))


def test_update_sends_what_was_passed() -> None:
    column = CustomColumn(field="s", header_name="S", type="number")
    steps = segments.update(KEY_ID, description=None, custom_columns=[column])
    path, query, body = sent(next(steps))
    assert (path, query) == ("/rest/v1/segments", {"id": f"eq.{KEY_ID}", "deleted": "is.false"})
    assert body == {
        "description": None,
        "custom_columns": [{"field": "s", "headerName": "S", "type": "number"}],
    }


def test_a_segment_that_cannot_be_read_after_it_was_made_is_named() -> None:
    steps = segments.create(ACCOUNT, name="n", source_type="audience", source_id="a")
    next(steps)
    steps.send(success(KEY_ID))
    with pytest.raises(APIConnectionError) as caught:
        steps.throw(APIConnectionError("reset"))
    assert caught.value.__notes__ == [f"The segment was created nevertheless: its id is {KEY_ID}."]


def test_what_a_lost_request_inserted_is_read() -> None:
    steps = segments.create_many(ACCOUNT, [NEW, NEW])
    written: list[dict[str, Any]] = []

    def none_new(body: Any) -> list[Any]:
        written.extend(as_rows(body))
        return [written[1]]

    requests, outcomes = drive(steps, none_new, lambda _: [written[0]])
    (path, query, _), (_, again, _) = requests
    assert path == "/rest/v1/segments"
    assert query["on_conflict"] == "id"
    assert again["id"] == f"in.({written[0]['id']})"
    assert [str(outcome.value.id) for outcome in outcomes] == [row["id"] for row in written]


def test_a_refused_row_is_found_by_halves() -> None:
    def refuse_the_last(body: list[dict[str, Any]]) -> Any:
        bad = any(row["name"] == "bad" for row in body)
        return InvalidRequestError(400, "23514", "check") if bad else as_rows(body)

    batch = [*[NEW] * 6, NEW.model_copy(update={"name": "bad"}), NEW]
    steps = segments.create_many(ACCOUNT, batch)
    requests, outcomes = drive(steps, *[refuse_the_last] * 7)
    assert [len(body) for _, _, body in requests] == [8, 4, 4, 2, 2, 1, 1]
    assert [bool(outcome) for outcome in outcomes] == [*[True] * 6, False, True]
    assert [outcome.index for outcome in outcomes] == list(range(8))


@pytest.mark.parametrize(
    "error",
    [
        APIConnectionError("reset"),
        PermissionDeniedError(403, "", ""),
        InvalidRequestError(400, "PGRST204", "no such column"),
    ],
)
def test_a_chunk_that_fails_is_the_outcome_of_its_items_only(error: AudienceLabError) -> None:
    steps = segments.create_many(ACCOUNT, [NEW] * 101)
    _, outcomes = drive(steps, error, as_rows)
    assert [outcome.error for outcome in outcomes] == [error] * 100 + [None]
    assert [outcome.index for outcome in outcomes] == list(range(101))


def test_a_wrong_account_costs_one_request_a_chunk() -> None:
    error = ConflictError(409, "23503", "no such account")
    _, outcomes = drive(segments.create_many(ACCOUNT, [NEW] * 100), error)
    assert {outcome.error for outcome in outcomes} == {error}


def test_what_the_caller_does_wrong_is_not_hidden() -> None:
    broken = (len(number) for number in [5])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="has no len"):
        next(segments.create_many(ACCOUNT, broken))


def test_rows_that_the_server_does_not_show_are_not_believed() -> None:
    _, (outcome,) = drive(segments.create_many(ACCOUNT, [NEW]), [], [])
    assert isinstance(outcome.error, UnexpectedResponseError)


def create(**changes: Any) -> Any:
    given = {"name": "n", "source_type": "audience", "source_id": "a"}
    return segments.create(ACCOUNT, **given | changes)


def job(**changes: Any) -> Any:
    given: dict[str, Any] = {
        "total_records": 0,
        "enrichment_fields": (),
        "metadata": None,
        "created_by": None,
    }
    return enrichment.create(ACCOUNT, KEY_ID, "email", **(given | changes))


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: create(name=" "), "name is empty or blank"),
    (lambda: create(name=None), "name must be a str"),
    (lambda: create(source_type="excel"), "one of audience, webhook_upload, csv_upload"),
    (lambda: create(source_id=""), "source_id is empty"),
    (lambda: create(description="\x00"), "description contains NUL"),
    (lambda: create(tags="vip"), "tags must be a sequence"),
    (lambda: create(tags=["a", 1]), r"tags\[1\] must be a str"),
    (lambda: create(filters=SegmentFilter.where("a") == 1), "filters must be a sequence"),
    (lambda: create(filters=[SegmentFilter.where("a")]), "is an incomplete filter"),
    (lambda: create(filters=[{"a": float("nan")}]), r"filters\[0\] must be JSON"),
    (lambda: create(filters=[{"a": "\ud800"}]), r"filters\[0\] must be JSON"),
    (lambda: create(filters=[{1: "a"}]), r"filters\[0\] must be JSON"),
    (lambda: create(custom_columns=[{"a": UUID(int=1)}]), "must be JSON"),
    (lambda: segments.update(KEY_ID), "nothing to update"),
    (lambda: segments.get("x"), "segment_id must be a UUID"),
    (lambda: create(filters=[nested(100)]), "at most 99 levels deep"),
    (lambda: create(filters=[2**1024]), "numbers in the range of a double"),
    (lambda: create(name="n" * 256), "name has 256 characters; at most 255"),
    (lambda: create(description="d" * 10_001), "description has 10,001 characters"),
    (lambda: create(source_id="s" * 1_001), "source_id has 1,001 characters"),
    (lambda: create(tags=["t"] * 1_001), "tags has 1,001 items; at most 1,000"),
    (lambda: create(tags=["t" * 256]), r"tags\[0\] has 256 characters"),
    (lambda: create(enrichment_fields=["f" * 256]), r"enrichment_fields\[0\] has 256"),
    (lambda: create(filters=["x" * 262_141]), "filters has 262,145 bytes as JSON"),
    (lambda: create(custom_columns=["ñ" * 131_071]), "custom_columns has 262,146 bytes as JSON"),
    (
        lambda: segments.create_many(
            ACCOUNT, [NEW, NEW.model_copy(update={"name": " "})], created_by=None
        ),
        r"segments\[1\]\.name is empty or blank",
    ),
    (lambda: segments.create_many(ACCOUNT, NEW), "of NewSegment, not NewSegment"),
    (lambda: segments.create_many(ACCOUNT, [{}]), "sequence of NewSegment"),
    (lambda: segments_of_nobody.create_many(ACCOUNT, []), "created_by is missing"),
    (lambda: listed({"created_after": datetime(2025, 1, 1)}), "time zone"),  # noqa: DTZ001 - it is the point
    (lambda: listed({"tags": "a"}), "tags must be a sequence"),
    (lambda: listed({"page_size": 0}), "page_size"),
    (lambda: job(total_records=-1), "total_records must be from 0"),
    (lambda: job(metadata={"a": object()}), "metadata must be JSON"),
    (lambda: job(metadata="abc"), "metadata must be a mapping"),
    (lambda: job(metadata=[("a", 1)]), "metadata must be a mapping"),
    (
        lambda: enrichment_of_nobody.create(ACCOUNT, KEY_ID, "email"),
        "created_by is missing",
    ),
    (
        lambda: enrichment.report_progress(KEY_ID, worker="", processed=1, failed=0),
        "worker is empty",
    ),
    (
        lambda: enrichment.report_progress(KEY_ID, worker="w", processed=-1, failed=0),
        "processed must be from 0",
    ),
    (lambda: enrichment.fail(KEY_ID, ""), "error is empty"),
    (lambda: enrichment.fail(KEY_ID, None), "error must be a str"),
    (
        lambda: enrichment.wait(KEY_ID, timeout=0, poll_interval=1),
        "timeout must be more than 0",
    ),
    (
        lambda: enrichment.wait(KEY_ID, timeout=1, poll_interval=float("inf")),
        "poll_interval must be",
    ),
    (
        lambda: enrichment.wait(KEY_ID, timeout=True, poll_interval=1),
        "timeout must be a number",
    ),
]


@pytest.mark.parametrize(("operation", "message"), REFUSED)
def test_bad_arguments_are_refused_before_any_request(
    operation: Callable[[], Any], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        next(operation())


def test_a_transition_whose_answer_was_lost_is_known_as_ours() -> None:
    steps = enrichment.complete(KEY_ID)
    body = sent(next(steps))[2]
    steps.send(success([]))
    with pytest.raises(StopIteration) as stop:
        steps.send(success(JOB | body))
    assert stop.value.value.status == "completed"


def test_the_same_state_by_somebody_else_is_a_conflict() -> None:
    steps = enrichment.complete(KEY_ID)
    body = sent(next(steps))[2] | {"completed_at": "2025-01-02T03:04:05+00:00"}
    steps.send(success([]))
    with pytest.raises(ConflictError, match="that is completed cannot become completed"):
        steps.send(success(JOB | body))


def test_fail_writes_over_nothing_but_what_it_read() -> None:
    meanwhile = JOB | {"updated_at": "2025-01-02T03:04:06.000001+00:00", "metadata": {"b": 2}}
    steps = enrichment.fail(KEY_ID, RuntimeError())
    requests, failed = drive(steps, JOB, [], meanwhile, lambda body: [meanwhile | body])
    guards = [query["updated_at"] for path, query, body in requests if body]
    assert guards == [
        "eq.2025-01-02T03:04:05.678901+00:00",
        "eq.2025-01-02T03:04:06.000001+00:00",
    ]
    assert failed.metadata == {"b": 2, "error": "RuntimeError"}


def test_fail_gives_up_on_a_job_that_never_holds_still() -> None:
    reads: list[Any] = [{**JOB, "processed_records": number} for number in range(50)]
    answers: list[Any] = []
    for read in reads:
        answers += [[], read]
    with pytest.raises(ConflictError, match="try again"):
        drive(enrichment.fail(KEY_ID, "x"), JOB, *answers)


def test_a_job_that_may_only_be_read_is_not_failed() -> None:
    with pytest.raises(PermissionDeniedError, match="but not change it"):
        drive(enrichment.fail(KEY_ID, "x"), JOB, [], JOB)


def test_a_job_that_may_only_be_read_is_not_started() -> None:
    with pytest.raises(PermissionDeniedError, match="but not change it"):
        drive(enrichment.start(KEY_ID), [], JOB)


def test_wait_ends_whatever_the_clock_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.5, 102.0, 110.0])
    monkeypatch.setattr(enrichment_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    steps = enrichment.wait(KEY_ID, timeout=10, poll_interval=3)
    calls = [next(steps)]
    calls += [steps.send(success(JOB)) for _ in range(2)]
    assert [call.delay for call in calls] == [0, 3, 3]
    with pytest.raises(EnrichmentTimeoutError, match="still pending after 10 s: 3 of 10"):
        steps.send(success(JOB))


def test_looks_of_a_wait_are_not_retried_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0])
    monkeypatch.setattr(enrichment_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    steps = enrichment.wait(KEY_ID, timeout=9, poll_interval=1)
    assert next(steps).retried
    assert not steps.send(success(JOB)).retried


def test_an_outage_does_not_end_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr(enrichment_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    done = JOB | {"status": "completed"}
    outage = APIConnectionError("reset")
    requests, waited = drive(
        enrichment.wait(KEY_ID, timeout=9, poll_interval=1),
        JOB,
        outage,
        outage,
        done,
    )
    assert len(requests) == 4
    assert waited.status == "completed"


def test_a_wait_that_ends_in_an_outage_tells_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 10.0])
    monkeypatch.setattr(enrichment_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    outage = APIConnectionError("reset")
    with pytest.raises(EnrichmentTimeoutError) as caught:
        drive(enrichment.wait(KEY_ID, timeout=9, poll_interval=1), JOB, outage)
    assert caught.value.__cause__ is outage


@pytest.mark.parametrize("error", [PermissionDeniedError(403, "", ""), NotFoundError(404, "", "")])
def test_a_refusal_ends_a_wait(error: AudienceLabError) -> None:
    with pytest.raises(type(error)):
        drive(enrichment.wait(KEY_ID, timeout=9, poll_interval=1), JOB, error)


def test_odd_values_of_one_row_do_not_hide_the_others() -> None:
    odd = {"tags": ["a", None], "enrichment_fields": [["b"], ["c"]]}
    listing = unfetched(segments.list, **LISTING)
    (row,) = answered(listing.page(), [SEGMENT | odd]).items
    assert (row.tags, row.enrichment_fields) == (("a",), ("b", "c"))
    job = EnrichmentJob.model_validate(JOB | {"started_at": "infinity"})
    assert job.started_at == datetime.max.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "moment",
    [
        *("infinity", "-infinity", "20000-01-01T00:00:00+00:00"),
        *("2025-01-02T03:04:05.000001+05:30", "1883-11-18T12:03:57.999-04:56:02"),
    ],
)
def test_a_page_begins_after_whatever_time_the_one_before_ended_with(moment: str) -> None:
    listing = unfetched(segments.list, **LISTING)
    fetched = answered(listing.page(), [SEGMENT | {"created_at": moment}])
    query = sent(next(listing.page(fetched.last)))[1]
    assert query["created_at"] == f"lte.{moment}"
    assert query["or"] == f"(created_at.lt.{moment},id.lt.{KEY_ID})"


@pytest.mark.parametrize("value", ["[" * 300 + "]" * 300, "9" * 4400], ids=["deep", "long"])
def test_json_that_pydantic_cannot_read_is_named(value: str) -> None:
    body = json.dumps(JOB | {"metadata": "?"}).replace('"?"', value)
    steps = enrichment.get(KEY_ID)
    next(steps)
    with pytest.raises(UnexpectedResponseError, match="goes too deep, or has too long a number"):
        steps.send(httpx.Response(200, content=body, request=httpx.Request("GET", URL)))


def test_a_filter_takes_any_sequence_and_mapping() -> None:
    made = SegmentFilter.where("country").op("in", ("US", MappingProxyType({"a": (1,)})))
    assert made.value == ["US", {"a": [1]}]
    filters = (MappingProxyType({"in": ("US",)}), made)
    body = sent(next(segments.update(KEY_ID, filters=filters)))[2]
    assert json.loads(json.dumps(body)) == {"filters": [{"in": ["US"]}, made.model_dump()]}


def test_a_filter_takes_no_bytes() -> None:
    with pytest.raises(ValidationError, match="value"):
        SegmentFilter.where("country").op("=", b"US")
    with pytest.raises(InvalidArgumentError, match=r"filters\[0\] must be JSON"):
        next(create(filters=[b"US"]))


def test_a_filter_is_neither_true_nor_false() -> None:
    with pytest.raises(TypeError, match="pass a list of them"):
        _ = SegmentFilter.where("age") >= 18 and SegmentFilter.where("age") < 65
    with pytest.raises(TypeError, match="chained comparison"):
        _ = 18 <= SegmentFilter.where("age") < 65


def test_new_segments_keep_json_as_it_is() -> None:
    column = {"field": "f", "header_name": "h", "type": "t"}
    new = NEW.model_copy(update={"custom_columns": [column]})
    again = NewSegment.model_validate(dict(new))
    call = next(segments.create_many(ACCOUNT, [again]))
    assert sent(call)[2][0]["custom_columns"] == [column]


def test_models_keep_what_they_do_not_know() -> None:
    odd = JOB | {"metadata": [1], "progress_note": "new column"}
    read = EnrichmentJob.model_validate(odd)
    assert read.metadata == {"value": [1]}
    assert read.model_extra == {"progress_note": "new column"}
    assert Segment.model_validate(SEGMENT).model_dump(mode="json") == SEGMENT


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=4)
KEYS = st.sampled_from(["field", "operator", "value", "headerName", "header_name", "type"]) | TEXTS
# As often as not what the columns should hold.
STORED: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(KEYS, inner, max_size=4),
        st.fixed_dictionaries({"field": TEXTS, "operator": TEXTS}, optional={"value": inner}),
        st.fixed_dictionaries({"field": TEXTS, "headerName": TEXTS, "type": TEXTS}),
    ),
    max_leaves=8,
)


@given(STORED, STORED)
def test_any_json_is_written_back_as_it_was_read(filters: Any, columns: Any) -> None:
    row = SEGMENT | {"filters": filters, "custom_columns": columns}
    segment = answered(segments.get(KEY_ID), row)
    read = {"filters": segment.filters, "custom_columns": segment.custom_columns}
    body = sent(next(segments.update(KEY_ID, **read)))[2]
    for column, value in (("filters", filters), ("custom_columns", columns)):
        array = [] if value is None else value if isinstance(value, list) else [value]
        assert json.dumps(body[column], sort_keys=True) == json.dumps(array, sort_keys=True)


@pytest.mark.parametrize(
    ("made", "operator"),
    [
        (SegmentFilter.where("a") == 1, "="),
        (SegmentFilter.where("a") != 1, "!="),
        (SegmentFilter.where("a") < 1, "<"),
        (SegmentFilter.where("a") <= 1, "<="),
        (SegmentFilter.where("a") > 1, ">"),
        (SegmentFilter.where("a") >= 1, ">="),
        (SegmentFilter.where("a").op("near", 1), "near"),
    ],
)
def test_filters_of_comparisons(made: SegmentFilter, operator: str) -> None:
    assert made == SegmentFilter(field="a", operator=operator, value=1)
    assert made.model_dump() == {"field": "a", "operator": operator, "value": 1}

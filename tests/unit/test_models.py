"""What holds for every model."""

import json
import pickle
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from audiencelab_sdk import (
    ApiKey,
    CreatedApiKey,
    CustomColumn,
    EnrichmentJob,
    EnrichmentStatus,
    InvalidApiKey,
    NewSegment,
    Scope,
    Segment,
    SegmentFilter,
    SourceType,
    UnknownColumn,
    UnknownFilter,
    UsageEvent,
    UsageLog,
    ValidApiKey,
)
from tests.unit._samples import CREATED, JOB, KEY_ID, LISTED, SEGMENT, VALID

EXAMPLES = [
    Scope(entity_type="segment", entity_id="*", action="read"),
    ApiKey.model_validate(LISTED),
    CreatedApiKey.model_validate(CREATED),
    ValidApiKey.model_validate(VALID),
    InvalidApiKey(error="Invalid API key"),
    UsageEvent(api_key_id=UUID(KEY_ID), endpoint="/", method="GET"),
    SegmentFilter(field="country", operator="=", value="US"),
    CustomColumn(field="score", header_name="Score", type="number"),
    Segment.model_validate(SEGMENT),
    NewSegment(name="n", source_type=SourceType.AUDIENCE, source_id="a"),
    EnrichmentJob.model_validate(JOB),
    UsageLog.model_validate({"log_id": KEY_ID, "timestamp": LISTED["created_at"]}),
]


@pytest.mark.parametrize("model", EXAMPLES, ids=lambda model: type(model).__name__)
def test_models_are_immutable(model: Any) -> None:
    for name in type(model).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(model, name, None)


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_json_schemas_describe_the_columns(mode: Any) -> None:
    columns = Segment.model_json_schema(mode=mode)["properties"]
    assert columns["tags"] == {"items": {"type": "string"}, "title": "Tags", "type": "array"}
    assert columns["created_at"]["format"] == "date-time"
    assert columns["filters"]["type"] == "array"
    metadata = EnrichmentJob.model_json_schema(mode=mode)["properties"]["metadata"]
    assert metadata["type"] == "object"


def test_models_keep_unknown_columns() -> None:
    odd = JOB | {"metadata": [1], "progress_note": "new column"}
    read = EnrichmentJob.model_validate(odd)
    assert read.metadata == {"value": [1]}
    assert read.model_extra == {"progress_note": "new column"}
    assert Segment.model_validate(SEGMENT).model_dump(mode="json") == SEGMENT


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("enrichment_fields", "email"),
        ("enrichment_fields", [1]),
        ("started_at", "yesterday"),
    ],
)
def test_invalid_columns_are_rejected(column: str, value: Any) -> None:
    with pytest.raises(ValidationError, match="Input is not valid for this field"):
        EnrichmentJob.model_validate(JOB | {column: value})


def test_values_of_a_newer_database_are_read_as_text() -> None:
    job = EnrichmentJob.model_validate(JOB | {"status": "paused", "enrichment_type": "fax"})
    segment = Segment.model_validate(SEGMENT | {"source_type": "crm"})

    assert (job.status, job.enrichment_type, segment.source_type) == ("paused", "fax", "crm")
    assert not job.is_final
    assert job.status != EnrichmentStatus.PENDING


def test_known_values_are_members_of_their_enumerations() -> None:
    job = EnrichmentJob.model_validate_json(json.dumps(JOB | {"status": "failed"}))

    assert job.status is EnrichmentStatus.FAILED
    assert job.is_final


@pytest.mark.parametrize("raw", [{"and": []}, {"field": ""}, "legacy", ["a"], 7, True, None])
def test_filters_and_columns_of_another_format_are_kept(raw: Any) -> None:
    segment = Segment.model_validate_json(
        json.dumps(SEGMENT | {"filters": [raw], "custom_columns": [raw]})
    )

    assert segment.filters == (UnknownFilter(raw=raw),)
    assert segment.custom_columns == (UnknownColumn(raw=raw),)
    assert segment.filters[0].field == segment.custom_columns[0].header_name == ""
    assert segment.model_dump()["filters"] == (raw,)
    assert json.loads(segment.model_dump_json())["custom_columns"] == [raw]


@pytest.mark.parametrize("column", [{"field": "a", "operator": "=", "value": 1}, "legacy", 7])
def test_a_column_that_is_not_an_array_is_its_only_item(column: Any) -> None:
    segment = Segment.model_validate(SEGMENT | {"filters": column, "custom_columns": column})

    assert segment.filters == (UnknownFilter(raw=column),)
    assert segment.custom_columns == (UnknownColumn(raw=column),)


def test_models_pickle() -> None:
    for model in (
        Segment.model_validate(SEGMENT),
        EnrichmentJob.model_validate(JOB),
        CreatedApiKey.model_validate(CREATED),
        InvalidApiKey(error="no"),
    ):
        assert pickle.loads(pickle.dumps(model)) == model

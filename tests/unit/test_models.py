"""What holds for every model."""

from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from audiencelab_sdk import (
    ApiKey,
    CreatedApiKey,
    CustomColumn,
    EnrichmentJob,
    InvalidApiKey,
    NewSegment,
    Scope,
    Segment,
    SegmentFilter,
    SourceType,
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
    with pytest.raises(ValidationError, match="neither of the type"):
        EnrichmentJob.model_validate(JOB | {column: value})

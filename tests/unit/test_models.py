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
from tests.unit._operations import CREATED, JOB, KEY_ID, LISTED, SEGMENT, VALID

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
def test_models_do_not_change(model: Any) -> None:
    for name in type(model).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(model, name, None)


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_json_schemas_say_what_columns_should_hold(mode: Any) -> None:
    columns = Segment.model_json_schema(mode=mode)["properties"]
    assert columns["tags"] == {"items": {"type": "string"}, "title": "Tags", "type": "array"}
    assert columns["created_at"]["format"] == "date-time"
    assert columns["filters"]["type"] == "array"
    metadata = EnrichmentJob.model_json_schema(mode=mode)["properties"]["metadata"]
    assert metadata["type"] == "object"


@pytest.mark.parametrize("field", ["entity_type", "entity_id", "action"])
@pytest.mark.parametrize("value", ["", None, 7])
def test_a_scope_has_three_texts(field: str, value: Any) -> None:
    texts: dict[str, Any] = {"entity_type": "segment", "entity_id": "*", "action": "read"}
    with pytest.raises(ValidationError, match=field):
        Scope.model_validate(texts | {field: value})


def test_an_old_key_shows_its_scopes_when_read_again() -> None:
    key = ApiKey.model_validate({**LISTED, "scopes": [EXAMPLES[0]]})
    assert ApiKey.model_validate(key.model_dump()) == key
    assert ApiKey.model_validate_json(key.model_dump_json()) == key


@pytest.mark.parametrize(
    "field", [{"endpoint": ""}, {"method": ""}, {"endpoint": 7}, {"status_code": 99}]
)
def test_a_usage_event_that_says_too_little_is_refused(field: dict[str, Any]) -> None:
    event: dict[str, Any] = {"api_key_id": KEY_ID, "endpoint": "/", "method": "GET"}
    UsageEvent.model_validate(event)
    with pytest.raises(ValidationError, match=next(iter(field))):
        UsageEvent.model_validate(event | field)


def test_empty_texts_of_a_usage_event_are_none() -> None:
    event = UsageEvent(
        api_key_id=UUID(KEY_ID), endpoint="/", method="GET", ip_address="", user_agent=""
    )
    assert event.ip_address is event.user_agent is None

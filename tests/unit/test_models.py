from typing import Any

import pytest
from pydantic import ValidationError

from audiencelab_sdk import ApiKey, CreatedApiKey, InvalidApiKey, Scope, UsageLog, ValidApiKey
from tests.unit._support import CREATED, KEY_ID, LISTED, VALID

EXAMPLES = [
    Scope(entity_type="segment", entity_id="*", action="read"),
    ApiKey.model_validate(LISTED),
    CreatedApiKey.model_validate(CREATED),
    ValidApiKey.model_validate(VALID),
    InvalidApiKey(error="Invalid API key"),
    UsageLog.model_validate({"log_id": KEY_ID, "timestamp": LISTED["created_at"]}),
]


@pytest.mark.parametrize("model", EXAMPLES, ids=lambda model: type(model).__name__)
def test_models_do_not_change(model: Any) -> None:
    for name in type(model).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(model, name, None)


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

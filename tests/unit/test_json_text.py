"""Slices of JSON that Python cannot parse as a whole."""

import pytest

from audiencelab_sdk._http._json_text import member, parts
from tests.unit._samples import ODD_JSON


@pytest.mark.parametrize("odd", ODD_JSON)
def test_items_and_members_are_found_at_any_depth(odd: str) -> None:
    text = ODD_JSON[odd]
    assert parts(f" [{text}, 1 ,{text}]\n") == [text, "1", text]
    assert member(f'{{"a,\\"": {text}, "id" : {text} }}', "id") == text
    assert member(f'{{"a": {text}}}', "id") is None


@pytest.mark.parametrize(
    "text", ["", "1", '"[]"', "[", "[1", "[1}]", "[]]", "[] []", "x[]", "]", '["']
)
def test_text_that_is_no_array_has_no_parts(text: str) -> None:
    assert parts(text) is None


def test_an_object_with_invalid_members_has_none() -> None:
    assert member('{"a": 1, id: 2}', "id") is None


def test_a_long_text_without_an_end_takes_no_time() -> None:
    assert parts('["' + '\\"' * 1_000_000) is None

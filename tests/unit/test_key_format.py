"""The format of API keys, and their checksum."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiencelab_sdk._key_format import checksum, may_be_api_key

ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits
bodies = st.text(ALPHABET, min_size=40, max_size=40).map("sk_".__add__)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "AAAAAA"),  # CRC-32 of nothing is 0
        ("123456789", "DtjbWO"),  # the published check value 0xCBF43926: 3, 45, 35, 27, 22, 14
        ("sk_" + "A" * 40, "CQhpZi"),
        ("sk_0123456789abcdefghijABCDEFGHIJ0123456789", "DLdQ0u"),
    ],
)
def test_checksum_is_crc32_in_six_base62_digits(text: str, expected: str) -> None:
    assert checksum(text) == expected


@given(bodies)
def test_a_key_with_its_checksum_may_be_one(body: str) -> None:
    assert may_be_api_key(body + checksum(body))


@given(bodies, st.integers(0, 45), st.sampled_from(ALPHABET))
def test_one_wrong_character_is_noticed(body: str, position: int, character: str) -> None:
    key = body + checksum(body)
    wrong = key[: 3 + position] + character + key[4 + position :]
    assert may_be_api_key(wrong) == (wrong == key)


@given(bodies, st.integers(3, 47))
def test_two_swapped_neighbours_are_noticed(body: str, position: int) -> None:
    key = body + checksum(body)
    swapped = key[:position] + key[position + 1] + key[position] + key[position + 2 :]
    assert may_be_api_key(swapped) == (swapped == key)


@given(st.text(ALPHABET, min_size=1, max_size=125).filter(lambda text: len(text) != 46))
def test_the_database_is_asked_about_other_lengths(rest: str) -> None:
    assert may_be_api_key("sk_" + rest)


@given(st.text())
def test_nothing_but_sk_and_ascii_alphanumerics_may_be_a_key(text: str) -> None:
    for candidate in (text, "sk_" + text):
        if may_be_api_key(candidate):
            assert re.fullmatch(r"sk_[A-Za-z0-9]{1,125}", candidate)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sk_",
        "SK_abc",
        "sk_" + "a" * 126,
        "sk_abc\n",
        "sk_a\x00",
        "sk_🔑",
        "sk_é",
        "sk_٣",
        " sk_a",
    ],
)
def test_these_cannot_be_keys(text: str) -> None:
    assert not may_be_api_key(text)

"""The format of API keys.

A key is ``sk_``, 40 random characters and a checksum of 6 characters. Older keys have no checksum,
and up to 43 characters after ``sk_``.
"""

import re
import string
import zlib

_ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits
_KEY = re.compile(r"sk_[A-Za-z0-9]+")
_LONGEST = 128
_CHECKSUM_LENGTH = 6
_LENGTH = len("sk_") + 40 + _CHECKSUM_LENGTH


def checksum(text: str) -> str:
    """Return the CRC-32 of an ASCII text as six base-62 digits, most significant first."""
    number = zlib.crc32(text.encode("ascii"))
    digits = ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits


def may_be_api_key(text: str) -> bool:
    """Return whether a text has the format of an API key, with a correct checksum if it has one."""
    if len(text) > _LONGEST or not _KEY.fullmatch(text):
        return False
    if len(text) != _LENGTH:
        return True
    return text[-_CHECKSUM_LENGTH:] == checksum(text[:-_CHECKSUM_LENGTH])

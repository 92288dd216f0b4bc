"""The database's limits on stored values, see SECURITY.md."""

import sys

# In characters.
LONGEST_NAME = 255
LONGEST_DESCRIPTION = 10_000
LONGEST_SOURCE_ID = 1_000
LONGEST_ITEM = 255

MOST_ITEMS = 1_000
MOST_SCOPES = 100

MOST_JSON_BYTES = 262_144
MOST_JSON_LEVELS = 100
LARGEST_NUMBER = int(sys.float_info.max)
MOST_RECORDS = 2**31 - 1

# Longer texts in the usage log are truncated.
LONGEST_ENDPOINT = 2_000
LONGEST_USER_AGENT = 1_000
LONGEST_LOG_TEXT = 255

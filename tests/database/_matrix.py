"""What each actor gets from each operation on each table, function and policy of the API."""

from __future__ import annotations

from tests.database._inventory import PUBLIC_FUNCTIONS, TABLES

ACTORS = (
    *("anon", "member", "owner", "member of another account", "former member"),
    *("key with the scope", "key with another scope", "revoked key", "expired key"),
    "service_role",
)

# One column for each actor, in the order of ACTORS:
#   1  it succeeds: a row is returned or changed, or the result is true or a value
#   0  it is allowed, but no row is returned or changed, or the result is false or null
#   x  permission denied (42501)
#   4  not found (PT404)
OUTCOMES = {
    "select public.segments": "x 1 1 0 0 1 0 0 0 1",
    "insert public.segments": "x 1 1 x x 1 x x x 1",
    "update public.segments": "x 1 1 0 0 1 0 0 0 1",
    "soft delete public.segments": "x 1 1 0 0 1 0 0 0 1",
    "select deleted public.segments": "x 0 0 0 0 0 0 0 0 1",
    "update deleted public.segments": "x 0 0 0 0 0 0 0 0 1",
    "delete public.segments": "x 1 1 0 0 x x x x 1",
    "select public.enrichment_tracking": "x 1 1 0 0 1 0 0 0 1",
    "insert public.enrichment_tracking": "x 1 1 x x 1 x x x 1",
    "update public.enrichment_tracking": "x 1 1 0 0 1 0 0 0 1",
    "delete public.enrichment_tracking": "x x x x x x x x x 1",
    **{f"call {function.rpc}": function.outcomes for function in PUBLIC_FUNCTIONS},
}

# Statements on a private table that affect no row. The REST API exposes no private table.
PRIVATE_OUTCOMES = {
    name: "x x x x x x x x x 0" for name in TABLES if not name.startswith("public.")
}

# An operation above that each policy decides.
POLICIES = {
    ("segments", "segments_select"): "select public.segments",
    ("segments", "segments_insert"): "insert public.segments",
    ("segments", "segments_update"): "update public.segments",
    ("segments", "segments_delete"): "delete public.segments",
    ("segments", "segments_select_api_key"): "select public.segments",
    ("segments", "segments_insert_api_key"): "insert public.segments",
    ("segments", "segments_update_api_key"): "update public.segments",
    ("enrichment_tracking", "enrichment_tracking_select"): "select public.enrichment_tracking",
    ("enrichment_tracking", "enrichment_tracking_insert"): "insert public.enrichment_tracking",
    ("enrichment_tracking", "enrichment_tracking_update"): "update public.enrichment_tracking",
    ("enrichment_tracking", "enrichment_tracking_select_api_key"): (
        "select public.enrichment_tracking"
    ),
    ("enrichment_tracking", "enrichment_tracking_insert_api_key"): (
        "insert public.enrichment_tracking"
    ),
    ("enrichment_tracking", "enrichment_tracking_update_api_key"): (
        "update public.enrichment_tracking"
    ),
}


def outcomes_of(operation: str) -> dict[str, str]:
    """The outcome of an operation for each actor."""
    return dict(zip(ACTORS, OUTCOMES[operation].split(), strict=True))

"""The functions, tables, views and types that the migrations create, each listed once.

`test_inventory.py` compares the inventory with the catalogs of a migrated database. The other tests
read it, and `make sql` writes it into supabase/verify.sql and supabase/tests/privileges.test.sql.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.database._attempts import Target

ROLES = ("anon", "authenticated", "service_role", "api_key")
PRIVATE_SCHEMAS = (
    *("audiencelab_private", "api_keys_private", "api_keys_direct", "enrichment_private"),
)
SCHEMAS = ("public", *PRIVATE_SCHEMAS)
# Part of V3's base schema, or of its stand-in.
BASE_SCHEMA = {
    *("accounts", "accounts_memberships", "roles"),
    *("has_role_on_account", "trigger_set_timestamps"),
}


@dataclass(frozen=True)
class Function:
    """A function, as the catalogs describe it."""

    signature: str
    executors: frozenset[str] = frozenset()
    """The roles that may execute it, apart from its owner."""
    definer: str | None = None
    """Why it runs with the privileges of its owner, and what limits them; None if it does not."""

    @property
    def name(self) -> str:
        return self.signature.partition("(")[0]


@dataclass(frozen=True)
class PublicFunction(Function):
    """A function that the REST API exposes."""

    outcomes: str = ""
    """What a call returns to each actor, in the notation of `_matrix.py`."""
    arguments: Callable[[Target], dict[str, object]] = lambda _: {}
    """The arguments of that call."""

    @property
    def rpc(self) -> str:
        """The name in the URL, below `/rpc/`."""
        return self.name.removeprefix("public.")


def to(*roles: str) -> frozenset[str]:
    return frozenset(roles)


_KEYS = "callers cannot read the keys"
_MEMBERS_OR_SERVICE = "checks membership, except for service_role"
_SERVICE = "only service_role may call it"

PUBLIC_FUNCTIONS = (
    PublicFunction(
        "public.create_api_key(uuid, text, jsonb, timestamp with time zone)",
        to("authenticated"),
        definer=f"{_KEYS}; checks membership",
        outcomes="x 1 1 x x x x x x x",
        arguments=lambda it: {"p_account_id": it.account_id, "p_name": "n", "p_scopes": []},
    ),
    PublicFunction(
        "public.issue_api_key(uuid, uuid, text, jsonb, timestamp with time zone)",
        to("service_role"),
        definer=_SERVICE,
        outcomes="x x x x x x x x x 1",
        arguments=lambda it: {
            "p_account_id": it.account_id,
            "p_created_by": it.created_by,
            "p_name": "n",
            "p_scopes": [],
        },
    ),
    PublicFunction(
        "public.list_api_keys(uuid)",
        to("authenticated", "service_role"),
        definer=f"{_KEYS}; {_MEMBERS_OR_SERVICE}",
        outcomes="x 1 1 x x x x x x 1",
        arguments=lambda it: {"p_account_id": it.account_id},
    ),
    PublicFunction(
        "public.revoke_api_key(uuid)",
        to("authenticated", "service_role"),
        definer=f"{_KEYS}; {_MEMBERS_OR_SERVICE}",
        outcomes="x 1 1 x x x x x x 1",
        arguments=lambda it: {"p_api_key_id": it.key},
    ),
    PublicFunction(
        "public.revoke_api_keys_of(uuid, uuid)",
        to("authenticated", "service_role"),
        definer=f"{_KEYS}; {_MEMBERS_OR_SERVICE}",
        outcomes="x 1 1 x x x x x x 1",
        arguments=lambda it: {"p_user_id": it.key_creator, "p_account_id": it.account_id},
    ),
    PublicFunction(
        "public.verify_api_key(text)",
        to("service_role", "api_key"),
        definer=f"{_KEYS}; reveals nothing about a key that the caller does not present",
        outcomes="x x x x x 1 1 x x 1",
        arguments=lambda it: {"p_api_key": it.key_text},
    ),
    PublicFunction(
        "public.authenticate_api_key(text, inet)",
        to("service_role"),
        definer=_SERVICE,
        outcomes="x x x x x x x x x 1",
        arguments=lambda it: {"p_api_key": it.key_text, "p_ip": "192.0.2.1"},
    ),
    PublicFunction(
        "public.log_api_key_usage(uuid, text, text, integer, text, text)",
        to("service_role"),
        definer=_SERVICE,
        outcomes="x x x x x x x x x 1",
        arguments=lambda it: {
            "p_api_key_id": it.key,
            "p_endpoint": "/",
            "p_method": "GET",
            "p_status_code": 200,
            "p_ip_address": None,
            "p_user_agent": None,
        },
    ),
    PublicFunction(
        "public.log_api_key_usage_batch(jsonb)",
        to("service_role"),
        definer=_SERVICE,
        outcomes="x x x x x x x x x 1",
        arguments=lambda it: {
            "p_events": [{"api_key_id": str(it.key), "endpoint": "/", "method": "GET"}]
        },
    ),
    PublicFunction(
        "public.api_key_log(uuid, uuid, integer, timestamp with time zone, uuid)",
        to("authenticated", "service_role"),
        definer=f"{_KEYS}; checks membership, except for service_role",
        outcomes="x 1 1 x x x x x x 1",
        arguments=lambda it: {"p_account_id": it.account_id, "p_api_key_id": it.key},
    ),
    PublicFunction(
        "public.api_key_usage(uuid, timestamp with time zone, timestamp with time zone, text,"
        " uuid)",
        to("authenticated", "service_role"),
        definer=f"{_KEYS}; checks membership, except for service_role",
        outcomes="x 1 1 x x x x x x 1",
        arguments=lambda it: {
            "p_account_id": it.account_id,
            "p_from": "2020-01-01",
            "p_to": "2100-01-01",
            "p_api_key_id": it.key,
        },
    ),
    PublicFunction(
        "public.purge_api_key_logs(timestamp with time zone, integer)",
        to("service_role"),
        definer=_SERVICE,
        outcomes="x x x x x x x x x 1",
        arguments=lambda _: {"p_before": "2020-01-01"},
    ),
    PublicFunction(
        "public.has_scope(text, text, text)",
        to("api_key"),
        definer=f"{_KEYS}; reads the caller's own key",
        outcomes="x x x x x 1 0 0 0 x",
        arguments=lambda _: {"p_entity_type": "segment", "p_entity_id": "*", "p_action": "read"},
    ),
    PublicFunction(
        "public.get_api_key_account_id()",
        to("api_key"),
        definer=f"{_KEYS}; reads the caller's own key",
        outcomes="x x x x x 1 1 0 0 x",
    ),
    PublicFunction(
        "public.get_api_key(uuid)",
        to("authenticated", "service_role"),
        definer=f"{_KEYS}; {_MEMBERS_OR_SERVICE}",
        outcomes="x 1 1 4 4 x x x x 1",
        arguments=lambda it: {"p_api_key_id": it.key},
    ),
    PublicFunction(
        "public.update_api_key(uuid, jsonb)",
        to("authenticated", "service_role"),
        definer=f"{_KEYS}; {_MEMBERS_OR_SERVICE}",
        outcomes="x 1 1 4 4 x x x x 1",
        arguments=lambda it: {"p_api_key_id": it.key, "p_changes": {"name": "n"}},
    ),
    PublicFunction(
        "public.disable_api_key(uuid)",
        to("authenticated", "service_role"),
        definer=f"{_KEYS}; {_MEMBERS_OR_SERVICE}",
        outcomes="x 1 1 4 4 x x x x 1",
        arguments=lambda it: {"p_api_key_id": it.key},
    ),
    PublicFunction(
        "public.enable_api_key(uuid)",
        to("authenticated", "service_role"),
        definer=f"{_KEYS}; {_MEMBERS_OR_SERVICE}",
        outcomes="x 1 1 4 4 x x x x 1",
        arguments=lambda it: {"p_api_key_id": it.key},
    ),
    PublicFunction(
        "public.rotate_api_key(uuid, interval)",
        to("authenticated", "service_role"),
        definer=f"{_KEYS}; {_MEMBERS_OR_SERVICE}",
        outcomes="x 1 1 4 4 x x x x 1",
        arguments=lambda it: {"p_api_key_id": it.key},
    ),
    PublicFunction(
        "public.list_api_key_events(uuid, uuid, integer, timestamp with time zone, uuid)",
        to("authenticated", "service_role"),
        definer=f"{_KEYS}; {_MEMBERS_OR_SERVICE}",
        outcomes="x 1 1 x x x x x x 1",
        arguments=lambda it: {"p_account_id": it.account_id, "p_api_key_id": it.key},
    ),
    PublicFunction(
        "public.create_studio_segment(uuid, text, text, text, text, jsonb, text[], jsonb, text[])",
        to("authenticated", "api_key"),
        definer="callers cannot execute the shared functions; checks membership and scopes",
        outcomes="x 1 1 x x 1 x x x x",
        arguments=lambda it: {
            "p_account_id": it.account_id,
            "p_name": "n",
            "p_source_type": "audience",
            "p_source_id": "1",
        },
    ),
    PublicFunction(
        "public.delete_studio_segment(uuid)",
        to("authenticated", "api_key"),
        definer="row level security hides deleted segments; checks membership and scopes",
        outcomes="x 1 1 4 4 1 4 4 4 x",
        arguments=lambda it: {"p_segment_id": it.segment},
    ),
    PublicFunction(
        "public.restore_studio_segment(uuid)",
        to("authenticated", "api_key"),
        definer="row level security hides deleted segments; checks membership and scopes",
        outcomes="x 1 1 4 4 1 4 4 4 x",
        arguments=lambda it: {"p_segment_id": it.segment},
    ),
    PublicFunction(
        "public.report_enrichment_progress(uuid, text, integer, integer)",
        to("authenticated", "service_role", "api_key"),
        definer="callers cannot write the totals of units; checks write access to the job",
        outcomes="x 1 1 4 4 1 4 4 4 1",
        arguments=lambda it: {
            "p_job_id": it.job,
            "p_unit": "u",
            "p_processed": 1,
            "p_failed": 0,
        },
    ),
    PublicFunction(
        "public.reset_enrichment_progress(uuid, text)",
        to("service_role"),
        definer=_SERVICE,
        outcomes="x x x x x x x x x 1",
        arguments=lambda it: {"p_job_id": it.job},
    ),
    PublicFunction(
        "public.retry_enrichment_job(uuid, boolean)",
        to("authenticated", "service_role", "api_key"),
        definer="callers cannot write the totals of units; checks write access to the job",
        outcomes="x 1 1 4 4 1 4 4 4 1",
        arguments=lambda it: {"p_job_id": it.failed_job, "p_reset": True},
    ),
    PublicFunction(
        "public.fail_stale_enrichment_jobs(interval)",
        to("service_role"),
        definer=_SERVICE,
        outcomes="x x x x x x x x x 1",
        arguments=lambda _: {"p_older_than": "10 minutes"},
    ),
)

PRIVATE_FUNCTIONS = (
    Function(
        "audiencelab_private.caller_id()",
        definer="role api_key has no access to schema auth; returns the caller's own id",
    ),
    Function(
        "audiencelab_private.member_account_ids()",
        to("authenticated"),
        definer="callers cannot read memberships; returns the caller's own accounts",
    ),
    Function("audiencelab_private.is_member(uuid, character varying)"),
    Function("audiencelab_private.require_member(uuid)"),
    Function(
        "audiencelab_private.is_service()",
        definer="compares the role of the request with the owner of the function; reads no table",
    ),
    Function("audiencelab_private.require_segment_writer(uuid, uuid)"),
    Function(
        "audiencelab_private.set_server_columns()",
        definer="callers cannot execute caller_id; sets columns of the inserted row only",
    ),
    Function("audiencelab_private.keep_identity()"),
    Function("audiencelab_private.enforce_limit()"),
    Function(
        "audiencelab_private.exceeds_json_limit(jsonb)",
        to("authenticated", "service_role", "api_key"),
    ),
    Function(
        "audiencelab_private.exceeds_texts_limit(text[])",
        to("authenticated", "service_role", "api_key"),
    ),
    Function("audiencelab_private.require_ownership(text, text[])"),
    Function("audiencelab_private.revoke_privileges(text, text[])"),
    Function("audiencelab_private.prepare_functions(text[])"),
    Function("audiencelab_private.apply_type(text)"),
    Function("audiencelab_private.table_parts(regclass)"),
    Function("audiencelab_private.table_columns(regclass)"),
    Function("audiencelab_private.apply_columns(regclass, regclass)"),
    Function("audiencelab_private.apply_parts(regclass, regclass, text[], jsonb)"),
    Function("audiencelab_private.apply_table(text, text)"),
    Function("audiencelab_private.apply_foreign_keys(regclass, jsonb)"),
    Function("audiencelab_private.publish(regclass)"),
    Function(
        "api_keys_private.record_event()",
        definer="service_role cannot write events; records the change of the row",
    ),
    Function("api_keys_private.require_scopes(jsonb)"),
    Function("api_keys_private.base62(integer)"),
    Function("api_keys_private.random_base62(integer)"),
    Function("api_keys_private.crc32(bytea)"),
    Function("api_keys_private.generate_api_key()"),
    Function("api_keys_private.require_manager(uuid)"),
    Function("api_keys_private.may_read(uuid)"),
    Function("api_keys_private.require_name(text)"),
    Function("api_keys_private.require_expiry(timestamp with time zone)"),
    Function("api_keys_private.require_room(uuid)"),
    Function(
        "api_keys_private.store_api_key(uuid, uuid, text, jsonb, timestamp with time zone, jsonb,"
        " cidr[])"
    ),
    Function("api_keys_private.add_api_key(uuid, uuid, text, jsonb, timestamp with time zone)"),
    Function("api_keys_private.without_mapping(inet)"),
    Function("api_keys_private.rehash_api_key(text, text)"),
    Function("api_keys_private.admit_comparison(text, text)"),
    Function("api_keys_private.count_failed_comparisons(text, integer, bigint)"),
    Function("api_keys_private.require_live_caller()"),
    Function("api_keys_private.time_ordered_id()"),
    Function("api_keys_private.log_usage_events(jsonb)"),
    Function("api_keys_private.require_reader(uuid, uuid)"),
    Function("api_keys_private.roll_up_usage()"),
    Function("api_keys_private.keep_api_key_logs(interval)"),
    Function(
        "api_keys_private.scoped_entity_ids(text, text[])",
        to("api_key"),
        definer=f"{_KEYS}; reads the caller's own key",
    ),
    Function("api_keys_private.has_scope_on_all(text, text[])", to("api_key")),
    Function("api_keys_private.to_response(api_keys_private.api_keys)"),
    Function("api_keys_private.find_api_key(uuid)"),
    Function("api_keys_private.lock_api_key(uuid)"),
    Function("api_keys_private.max_overlap()"),
    Function("api_keys_private.require_json_type(jsonb, text, text[])"),
    Function("api_keys_private.parse_time(text, text)"),
    Function("api_keys_private.parse_network(text)"),
    Function("api_keys_private.parse_networks(jsonb)"),
    Function("api_keys_private.caller_may_write(text, uuid, uuid)"),
    Function("api_keys_private.caller_creator_id()"),
    Function("api_keys_direct.configured_function()"),
    Function("api_keys_direct.enable()"),
    Function("api_keys_direct.disable()"),
    Function("enrichment_private.keep_counters()"),
    Function("enrichment_private.may_write(enrichment_tracking)"),
    Function("enrichment_private.require_read_committed()"),
    Function("enrichment_private.lock_reports(uuid)"),
    Function("enrichment_private.count_units(uuid)"),
    Function("enrichment_private.combine_partial_sums(uuid)"),
    Function(
        "enrichment_private.add_up_records()",
        definer="callers cannot read the totals of units; changes the row of the update only",
    ),
    Function(
        "enrichment_private.delete_partial_sums()",
        definer="service_role cannot write partial sums; deletes those of the deleted row",
    ),
)

# PostgREST calls the first in the transaction of each request, which calls the second.
PRE_REQUEST_FUNCTIONS = (
    # Every role, because a role without the privilege cannot make any request.
    Function("api_keys_direct.pre_request()", to("public", *ROLES)),
    Function(
        "api_keys_direct.find_api_key(text)",
        to("anon"),
        definer=f"{_KEYS}; reveals nothing about a key that the caller does not present",
    ),
)

FUNCTIONS: tuple[Function, ...] = (
    *(*PUBLIC_FUNCTIONS, *PRIVATE_FUNCTIONS, *PRE_REQUEST_FUNCTIONS),
)

READ_WRITE = to("SELECT", "INSERT", "UPDATE", "DELETE")
# The privileges of each role on each table and view.
TABLES: dict[str, dict[str, frozenset[str]]] = {
    "public.enrichment_tracking": {
        "authenticated": READ_WRITE - {"DELETE"},
        "service_role": READ_WRITE,
        "api_key": to("SELECT", "INSERT"),  # and UPDATE of some columns
    },
    "public.segments": {
        "authenticated": READ_WRITE,
        "service_role": READ_WRITE,
        "api_key": to("SELECT", "INSERT"),  # and UPDATE of some columns
    },
    "api_keys_private.api_keys": {"service_role": READ_WRITE},
    "api_keys_private.api_key_events": {"service_role": to("SELECT")},
    "api_keys_private.api_key_logs": {"service_role": READ_WRITE},
    "api_keys_private.api_key_usage_hours": {"service_role": to("SELECT")},
    "api_keys_private.api_key_usage_progress": {"service_role": to("SELECT")},
    "api_keys_private.failed_comparisons": {"service_role": to("SELECT", "DELETE")},
    "api_keys_private.settings": {"service_role": to("SELECT", "UPDATE")},
    "api_keys_private.live_api_keys": {"service_role": to("SELECT")},
    "api_keys_private.bcrypt_api_keys": {"service_role": to("SELECT")},
    "enrichment_private.unit_progress": {"service_role": to("SELECT")},
    "enrichment_private.partial_sums": {"service_role": to("SELECT")},
}

PUBLIC_TABLES = tuple(name.removeprefix("public.") for name in TABLES if name.startswith("public."))
PUBLIC_TYPES = (
    *("create_api_key_response", "verify_api_key_response", "api_key_usage_log_response"),
    *("authenticate_api_key_response", "api_key_response"),
)

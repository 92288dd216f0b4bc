"""The error of each method, by its caller and by the object that its arguments name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from audiencelab_sdk import (
    AudienceLabError,
    AuthenticationError,
    AuthenticationOverloadedError,
    ConfigurationError,
    ConflictError,
    EnrichmentChunkError,
    EnrichmentFailedError,
    EnrichmentTimeoutError,
    InvalidArgumentError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    UsageLogError,
)
from tests.e2e._scenarios import KEYS, OUTSIDERS


@dataclass(frozen=True)
class Refusal:
    """An expected error: its class, status and code, and the beginning of its message or hint."""

    error: type[AudienceLabError]
    status: int | None
    code: str | None
    begins: str


unauthenticated = partial(Refusal, AuthenticationError, 401)
denied = partial(Refusal, PermissionDeniedError, 403, "42501")
conflict = partial(Refusal, ConflictError, 409)
refused = partial(Refusal, InvalidRequestError, 400, "22023")
not_logged = partial(Refusal, UsageLogError, None, "23503")
invalid = partial(Refusal, InvalidArgumentError, None, None)
unusable = partial(Refusal, ConfigurationError, None, None)
OVERLOADED = Refusal(AuthenticationOverloadedError, None, None, "too many unknown API keys")

ANONYMOUS = unauthenticated("42501", "permission denied for ")
EXPIRED = unauthenticated("PGRST303", "JWT expired")
FORGED = unauthenticated("PGRST301", "JWT ")
NOT_ITS_ROLE = denied("permission denied for ")
KEYS_ONLY = denied("Only an API key may do this: use client.as_api_key")
NO_MEMBER = denied("the account does not exist, or you are not a member of it")
NO_MANAGER = denied("only members with the account role owner may manage the API keys")
NO_ACCOUNT_NAMED = denied("only service_role may revoke API keys in all accounts")
NO_KEY = denied("the API key does not exist, or you are not a member of its account")
DEAD_KEY = denied("the API key that the request runs as is revoked, disabled or expired")
NO_ISSUER = refused("the account does not exist, or the creator of the API key is not a member")
UNSEEN_KEY = Refusal(NotFoundError, 404, "PT404", "the API key does not exist, or you are not")
FOREIGN_KEY = Refusal(NotFoundError, 404, "PT404", "the API key ")
REVOKED = conflict("PT409", "the API key is revoked")
NO_LOGGED_KEY = not_logged("the API key does not exist")
FOREIGN_ROW = denied("new row violates row-level security policy")
NO_CREATOR = invalid("created_by is missing, and this client acts as no user or API key")
NO_PARENT = conflict("23503", "insert or update on table ")
UNSEEN_SEGMENT = Refusal(
    NotFoundError, 404, "PGRST116", "the segment does not exist, is deleted, or"
)
NO_SCOPE = denied("the account is not that of the API key, or the API key has no scope for")
UNWRITABLE_SEGMENT = Refusal(
    NotFoundError, 404, "PT404", "the segment does not exist, or the API key has no scope for"
)
NO_SEGMENT = Refusal(NotFoundError, 404, "PT404", "the segment does not exist, or you are not")
UNSEEN_JOB = Refusal(
    NotFoundError, 404, "PGRST116", "the enrichment job does not exist, or is not visible"
)
NO_JOB = Refusal(NotFoundError, 404, "PT404", "the enrichment job does not exist")
WRONG_STATUS = conflict(None, "the enrichment job is ")
ENDED = conflict("PT409", "the enrichment job is already ")
ALREADY_ENDED = conflict(None, "the enrichment job is already ")
NOT_FAILED = conflict("PT409", "the enrichment job is ")
READ_ONLY = Refusal(PermissionDeniedError, 403, None, "this client may read the enrichment job")
FULL = conflict("PT409", "the account has 1000 live API keys")
THROTTLED = Refusal(RateLimitError, 429, "PT429", "too many invalid API keys with this prefix")
NOT_RUN = Refusal(EnrichmentChunkError, None, None, "records 5 to 9 did not run in 1 attempt: ")
FAILED = Refusal(EnrichmentFailedError, None, None, "enrichment job ")
TIMED_OUT = Refusal(EnrichmentTimeoutError, None, None, "enrichment job ")
NO_RICH = unusable("the progress bar needs rich")
RETURNS = None

# A call, the object that it names, the callers, and what the call raises for them.
Table = list[tuple[str, str, str, Refusal | None]]
API_KEYS: Table = [
    ("api_keys.create", "account", "member junior", RETURNS),
    ("api_keys.create", "account", OUTSIDERS, NO_MEMBER),
    ("api_keys.create", "account", f"service {KEYS}", NOT_ITS_ROLE),
    ("api_keys.create", "account", "anon", ANONYMOUS),
    ("api_keys.create", "account", "expired", EXPIRED),
    ("api_keys.create", "account", "forged", FORGED),
    ("api_keys.create", "no account", "member", NO_MEMBER),
    ("api_keys.create", "deleted account", "member", NO_MEMBER),
    ("api_keys.create", "managed account", "member", RETURNS),
    ("api_keys.create", "managed account", "junior", NO_MANAGER),
    ("api_keys.create", "full account", "member", FULL),
    ("api_keys.create", "no UUID", "member", invalid("account_id must be a UUID")),
    ("api_keys.create(odd scope)", "account", "member", refused("scopes[0] has an unknown field")),
    ("api_keys.list", "account", "member junior service", RETURNS),
    ("api_keys.list", "account", OUTSIDERS, NO_MEMBER),
    ("api_keys.list", "account", KEYS, NOT_ITS_ROLE),
    ("api_keys.list", "account", "anon", ANONYMOUS),
    ("api_keys.list", "no account", "member", NO_MEMBER),
    ("api_keys.list", "deleted account", "member", NO_MEMBER),
    ("api_keys.list", "managed account", "junior", RETURNS),
    ("api_keys.revoke", "key", "member junior service", RETURNS),
    ("api_keys.revoke", "key", OUTSIDERS, NO_KEY),
    ("api_keys.revoke", "key", KEYS, NOT_ITS_ROLE),
    ("api_keys.revoke", "key", "anon", ANONYMOUS),
    ("api_keys.revoke", "no key", "member", NO_KEY),
    ("api_keys.revoke", "deleted key", "member", NO_KEY),
    ("api_keys.revoke", "revoked key", "member", RETURNS),
    ("api_keys.revoke", "managed key", "member", RETURNS),
    ("api_keys.revoke", "managed key", "junior", NO_MANAGER),
    ("api_keys.revoke_all_of", "account", "member junior service", RETURNS),
    ("api_keys.revoke_all_of", "account", OUTSIDERS, NO_MEMBER),
    ("api_keys.revoke_all_of", "account", KEYS, NOT_ITS_ROLE),
    ("api_keys.revoke_all_of", "account", "anon", ANONYMOUS),
    ("api_keys.revoke_all_of", "account, no user", "member service", RETURNS),
    ("api_keys.revoke_all_of", "no account", "member", NO_MEMBER),
    ("api_keys.revoke_all_of", "no account", "service", RETURNS),
    ("api_keys.revoke_all_of", "managed account", "member", RETURNS),
    ("api_keys.revoke_all_of", "managed account", "junior", NO_MANAGER),
    ("api_keys.revoke_all_of(user)", "account", "service", RETURNS),
    ("api_keys.revoke_all_of(user)", "account", f"member {OUTSIDERS}", NO_ACCOUNT_NAMED),
    ("api_keys.verify", "key", "service key wrong_key", RETURNS),
    ("api_keys.verify", "key", "revoked_key", DEAD_KEY),
    ("api_keys.verify", "key", f"member {OUTSIDERS}", NOT_ITS_ROLE),
    ("api_keys.verify", "key", "anon", ANONYMOUS),
    ("api_keys.verify", "no key", "service member anon", RETURNS),
    ("api_keys.verify", "deleted key", "service", RETURNS),
    ("api_keys.verify", "revoked key", "service", RETURNS),
    ("api_keys.verify", "throttled key", "service", THROTTLED),
    ("api_keys.verify(bytes)", "key", "service", invalid("api_key must be a str or SecretStr")),
    ("api_keys.log_usage", "key", "service", RETURNS),
    ("api_keys.log_usage", "key", f"member {OUTSIDERS} {KEYS}", NOT_ITS_ROLE),
    ("api_keys.log_usage", "key", "anon", ANONYMOUS),
    ("api_keys.log_usage", "no key", "service", NO_LOGGED_KEY),
    ("api_keys.log_usage", "deleted key", "service", NO_LOGGED_KEY),
    ("api_keys.log_usage", "revoked key", "service", RETURNS),
    ("api_keys.log_usage_batch", "key", f"member {OUTSIDERS} service {KEYS} anon", RETURNS),
    ("api_keys.log_usage_batch", "no key", "service", RETURNS),
    ("api_keys.log_usage_batch(int)", "nothing", "service", invalid("events must be a sequence")),
    ("Outcome.unwrap(log_usage_batch)", "key", "service", RETURNS),
    ("Outcome.unwrap(log_usage_batch)", "key", f"member {OUTSIDERS} {KEYS}", NOT_ITS_ROLE),
    ("Outcome.unwrap(log_usage_batch)", "key", "anon", ANONYMOUS),
    ("Outcome.unwrap(log_usage_batch)", "no key", "service", NO_LOGGED_KEY),
    ("api_keys.has_scope", "nothing", KEYS, RETURNS),
    ("api_keys.has_scope", "nothing", f"member {OUTSIDERS} service", KEYS_ONLY),
    ("api_keys.has_scope", "nothing", "anon", ANONYMOUS),
    ("api_keys.has_scope(blank)", "nothing", "key", invalid("action is empty or blank")),
    ("api_keys.account_id", "nothing", KEYS, RETURNS),
    ("api_keys.account_id", "nothing", f"member {OUTSIDERS} service", KEYS_ONLY),
    ("api_keys.account_id", "nothing", "anon", ANONYMOUS),
    ("Page.next", "left account", "member", NO_MEMBER),
]
LIFE_CYCLE: Table = [
    ("api_keys.issue", "account", "service", RETURNS),
    ("api_keys.issue", "account", f"member {OUTSIDERS} {KEYS}", NOT_ITS_ROLE),
    ("api_keys.issue", "account", "anon", ANONYMOUS),
    ("api_keys.issue", "account, no user", "service", NO_ISSUER),
    ("api_keys.issue", "no account", "service", NO_ISSUER),
    ("api_keys.issue", "full account", "service", FULL),
    *(
        row
        for method in ("get", "update", "disable", "enable", "rotate")
        for row in (
            (f"api_keys.{method}", "key", "member service", RETURNS),
            (f"api_keys.{method}", "key", OUTSIDERS, UNSEEN_KEY),
            (f"api_keys.{method}", "key", KEYS, NOT_ITS_ROLE),
            (f"api_keys.{method}", "key", "anon", ANONYMOUS),
            (f"api_keys.{method}", "no key", "member service", UNSEEN_KEY),
            (f"api_keys.{method}", "deleted key", "member service", UNSEEN_KEY),
        )
    ),
    ("api_keys.get", "revoked key", "member", RETURNS),
    ("api_keys.get", "managed key", "junior", RETURNS),
    ("api_keys.get", "no UUID", "member", invalid("api_key_id must be a UUID")),
    *(
        row
        for method in ("update", "disable", "enable", "rotate")
        for row in (
            (f"api_keys.{method}", "managed key", "member", RETURNS),
            (f"api_keys.{method}", "managed key", "junior", NO_MANAGER),
            (f"api_keys.{method}", "revoked key", "member", REVOKED),
        )
    ),
    ("api_keys.update(nothing)", "key", "member", invalid("there is nothing to update")),
    ("api_keys.update(odd scope)", "key", "member", refused("scopes[0] has an unknown field")),
    *(
        row
        for method in ("events", "log", "usage")
        for row in (
            (f"api_keys.{method}", "account", "member junior service", RETURNS),
            (f"api_keys.{method}", "account", OUTSIDERS, NO_MEMBER),
            (f"api_keys.{method}", "account", KEYS, NOT_ITS_ROLE),
            (f"api_keys.{method}", "account", "anon", ANONYMOUS),
            (f"api_keys.{method}", "no account", "member", NO_MEMBER),
            (f"api_keys.{method}(no key)", "account", "member", FOREIGN_KEY),
        )
    ),
    ("api_keys.purge_logs", "nothing", "service", RETURNS),
    ("api_keys.purge_logs", "nothing", f"member {OUTSIDERS} {KEYS}", NOT_ITS_ROLE),
    ("api_keys.purge_logs", "nothing", "anon", ANONYMOUS),
    ("api_keys.usage(backwards)", "account", "member", refused("the ")),
    ("api_keys.authenticate", "key", "service", RETURNS),
    ("api_keys.authenticate", "key", f"member {OUTSIDERS} {KEYS}", NOT_ITS_ROLE),
    ("api_keys.authenticate", "key", "anon", ANONYMOUS),
    ("api_keys.authenticate", "no key", "service member anon", RETURNS),
    ("api_keys.authenticate", "revoked key", "service", RETURNS),
    ("api_keys.authenticate", "throttled key", "service", THROTTLED),
    ("api_keys.authenticate(bytes)", "key", "service", invalid("api_key must be a str or")),
]
SEGMENTS: Table = [
    ("segments.create", "account", "member wrong_key", RETURNS),
    ("segments.create", "account", OUTSIDERS, NO_MEMBER),
    ("segments.create", "account", "service", NOT_ITS_ROLE),
    ("segments.create", "account", "key revoked_key", NO_SCOPE),
    ("segments.create", "account", "anon", ANONYMOUS),
    ("segments.create", "no account", "member", NO_MEMBER),
    ("segments.create", "deleted account", "member", NO_MEMBER),
    ("segments.create(odd filter)", "account", "member", refused("filters must be an array of")),
    ("segments.create_many", "account", f"member {OUTSIDERS} {KEYS}", RETURNS),
    ("segments.create_many", "account", "service anon", NO_CREATOR),
    ("segments.create_many(created_by)", "account", f"service {KEYS} anon", RETURNS),
    ("Outcome.unwrap(create_many)", "account", "member", RETURNS),
    ("Outcome.unwrap(create_many)", "account", OUTSIDERS, FOREIGN_ROW),
    ("Outcome.unwrap(create_many)", "no account", "member", FOREIGN_ROW),
    ("Outcome.unwrap(created_by)", "account", "member service wrong_key", RETURNS),
    ("Outcome.unwrap(created_by)", "account", "key revoked_key", FOREIGN_ROW),
    ("Outcome.unwrap(created_by)", "account", "anon", ANONYMOUS),
    ("Outcome.unwrap(created_by)", "no account", "service", NO_PARENT),
    ("Outcome.unwrap(created_by)", "account, no user", "service", NO_PARENT),
    ("segments.get", "segment", "member service key wrong_key", RETURNS),
    ("segments.get", "segment", f"{OUTSIDERS} revoked_key", UNSEEN_SEGMENT),
    ("segments.get", "segment", "anon", ANONYMOUS),
    ("segments.get", "segment", "expired", EXPIRED),
    ("segments.get", "segment", "forged", FORGED),
    ("segments.get", "no segment", "member service key", UNSEEN_SEGMENT),
    ("segments.get", "deleted segment", "member service key", UNSEEN_SEGMENT),
    ("segments.get", "no UUID", "member", invalid("segment_id must be a UUID")),
    ("segments.list", "account", f"member {OUTSIDERS} service {KEYS}", RETURNS),
    ("segments.list", "account", "anon", ANONYMOUS),
    ("segments.list", "no account", "member service", RETURNS),
    ("segments.update", "segment", "member service wrong_key", RETURNS),
    ("segments.update", "segment", f"{OUTSIDERS} key revoked_key", UNSEEN_SEGMENT),
    ("segments.update", "segment", "anon", ANONYMOUS),
    ("segments.update", "no segment", "member service", UNSEEN_SEGMENT),
    ("segments.update", "deleted segment", "member service", UNSEEN_SEGMENT),
    ("segments.update(nothing)", "segment", "member", invalid("there is nothing to update")),
    ("segments.delete", "segment", "member wrong_key", RETURNS),
    ("segments.delete", "segment", OUTSIDERS, NO_SEGMENT),
    ("segments.delete", "segment", "service", NOT_ITS_ROLE),
    ("segments.delete", "segment", "key revoked_key", UNWRITABLE_SEGMENT),
    ("segments.delete", "segment", "anon", ANONYMOUS),
    ("segments.delete", "no segment", "member", NO_SEGMENT),
    ("segments.delete", "deleted segment", "member", RETURNS),
    ("segments.restore", "deleted segment", "member wrong_key", RETURNS),
    ("segments.restore", "deleted segment", OUTSIDERS, NO_SEGMENT),
    ("segments.restore", "deleted segment", "service", NOT_ITS_ROLE),
    ("segments.restore", "deleted segment", "key revoked_key", UNWRITABLE_SEGMENT),
    ("segments.restore", "deleted segment", "anon", ANONYMOUS),
    ("segments.restore", "no segment", "member", NO_SEGMENT),
    ("segments.restore", "segment", "member", RETURNS),
]
ENRICHMENT: Table = [
    ("enrichment.create", "account", "member key", RETURNS),
    ("enrichment.create", "account", f"{OUTSIDERS} wrong_key revoked_key", FOREIGN_ROW),
    ("enrichment.create", "account", "service anon", NO_CREATOR),
    ("enrichment.create", "no account", "member", FOREIGN_ROW),
    ("enrichment.create", "deleted account", "member", FOREIGN_ROW),
    ("enrichment.create(created_by)", "account", "member service key", RETURNS),
    ("enrichment.create(created_by)", "account", "wrong_key revoked_key", FOREIGN_ROW),
    ("enrichment.create(created_by)", "account", "anon", ANONYMOUS),
    ("enrichment.create(created_by)", "no account", "service", NO_PARENT),
    ("enrichment.create(created_by)", "account, no user", "service", NO_PARENT),
    ("enrichment.get", "pending job", "member service key read_key", RETURNS),
    ("enrichment.get", "pending job", f"{OUTSIDERS} wrong_key revoked_key", UNSEEN_JOB),
    ("enrichment.get", "pending job", "anon", ANONYMOUS),
    ("enrichment.get", "pending job", "expired", EXPIRED),
    ("enrichment.get", "pending job", "forged", FORGED),
    ("enrichment.get", "no job", "member service key", UNSEEN_JOB),
    ("enrichment.get", "deleted job", "member service key", UNSEEN_JOB),
    ("enrichment.get", "no UUID", "member", invalid("job_id must be a UUID")),
    ("enrichment.list", "account", f"member {OUTSIDERS} service {KEYS}", RETURNS),
    ("enrichment.list", "account", "anon", ANONYMOUS),
    ("enrichment.list", "no account", "member service", RETURNS),
    ("enrichment.start", "pending job", "member service key", RETURNS),
    ("enrichment.start", "pending job", f"{OUTSIDERS} wrong_key revoked_key", UNSEEN_JOB),
    ("enrichment.start", "pending job", "read_key", READ_ONLY),
    ("enrichment.start", "pending job", "anon", ANONYMOUS),
    ("enrichment.start", "processing job", "member service key", WRONG_STATUS),
    ("enrichment.start", "completed job", "member", WRONG_STATUS),
    ("enrichment.start", "failed job", "member", WRONG_STATUS),
    ("enrichment.start", "no job", "member service", UNSEEN_JOB),
    ("enrichment.start", "deleted job", "member", UNSEEN_JOB),
    ("enrichment.report_progress", "pending job", "member service key", RETURNS),
    ("enrichment.report_progress", "pending job", f"{OUTSIDERS} wrong_key revoked_key", NO_JOB),
    ("enrichment.report_progress", "pending job", "read_key", NO_JOB),
    ("enrichment.report_progress", "pending job", "anon", ANONYMOUS),
    ("enrichment.report_progress", "processing job", "member", RETURNS),
    ("enrichment.report_progress", "completed job", "member service key", ENDED),
    ("enrichment.report_progress", "failed job", "member", ENDED),
    ("enrichment.report_progress", "no job", "member service", NO_JOB),
    ("enrichment.report_progress", "deleted job", "member", NO_JOB),
    ("enrichment.reset_progress", "processing job", "service", RETURNS),
    ("enrichment.reset_progress", "processing job", f"member {OUTSIDERS} {KEYS}", NOT_ITS_ROLE),
    ("enrichment.reset_progress", "processing job", "anon", ANONYMOUS),
    ("enrichment.reset_progress", "completed job", "service", RETURNS),
    ("enrichment.reset_progress", "no job", "service", NO_JOB),
    ("enrichment.reset_progress", "deleted job", "service", NO_JOB),
    ("enrichment.retry", "failed job", "member service key", RETURNS),
    ("enrichment.retry", "failed job", f"{OUTSIDERS} wrong_key revoked_key read_key", NO_JOB),
    ("enrichment.retry", "failed job", "anon", ANONYMOUS),
    ("enrichment.retry", "pending job", "member", NOT_FAILED),
    ("enrichment.retry", "processing job", "member service key", NOT_FAILED),
    ("enrichment.retry", "completed job", "member", NOT_FAILED),
    ("enrichment.retry", "no job", "member service", NO_JOB),
    ("enrichment.retry", "deleted job", "member", NO_JOB),
    ("enrichment.fail_stale", "processing job", "service", RETURNS),
    ("enrichment.fail_stale", "processing job", f"member {OUTSIDERS} {KEYS}", NOT_ITS_ROLE),
    ("enrichment.fail_stale", "processing job", "anon", ANONYMOUS),
    ("enrichment.complete", "processing job", "member service key", RETURNS),
    ("enrichment.complete", "processing job", f"{OUTSIDERS} wrong_key revoked_key", UNSEEN_JOB),
    ("enrichment.complete", "processing job", "read_key", READ_ONLY),
    ("enrichment.complete", "processing job", "anon", ANONYMOUS),
    ("enrichment.complete", "pending job", "member service key", WRONG_STATUS),
    ("enrichment.complete", "completed job", "member", WRONG_STATUS),
    ("enrichment.complete", "failed job", "member", WRONG_STATUS),
    ("enrichment.complete", "no job", "member service", UNSEEN_JOB),
    ("enrichment.complete", "deleted job", "member", UNSEEN_JOB),
    ("enrichment.fail", "pending job", "member service key", RETURNS),
    ("enrichment.fail", "pending job", f"{OUTSIDERS} wrong_key revoked_key", UNSEEN_JOB),
    ("enrichment.fail", "pending job", "read_key", READ_ONLY),
    ("enrichment.fail", "pending job", "anon", ANONYMOUS),
    ("enrichment.fail", "processing job", "member", RETURNS),
    ("enrichment.fail", "completed job", "member service key", WRONG_STATUS),
    ("enrichment.fail", "failed job", "member", WRONG_STATUS),
    ("enrichment.fail", "no job", "member service", UNSEEN_JOB),
    ("enrichment.fail", "deleted job", "member", UNSEEN_JOB),
    ("enrichment.wait", "completed job", "member service key read_key", RETURNS),
    ("enrichment.wait", "completed job", f"{OUTSIDERS} wrong_key revoked_key", UNSEEN_JOB),
    ("enrichment.wait", "completed job", "anon", ANONYMOUS),
    ("enrichment.wait", "pending job", "member", TIMED_OUT),
    ("enrichment.wait", "failed job", "member", FAILED),
    ("enrichment.wait", "left job", "member", UNSEEN_JOB),
    ("enrichment.wait", "no job", "member service", UNSEEN_JOB),
    ("enrichment.wait", "deleted job", "member", UNSEEN_JOB),
    ("enrichment.wait(show)", "job, no rich", "member", NO_RICH),
    ("enrichment.track", "pending job", "member service key", RETURNS),
    ("enrichment.track", "pending job", f"{OUTSIDERS} wrong_key revoked_key read_key", NO_JOB),
    ("enrichment.track", "pending job", "anon", ANONYMOUS),
    ("enrichment.track", "processing job", "member", RETURNS),
    ("enrichment.track", "completed job", "member service key", ENDED),
    ("enrichment.track", "failed job", "member", ENDED),
    ("enrichment.track", "stopped job", "member", ENDED),
    ("enrichment.track", "left job", "member", NO_JOB),
    ("enrichment.track", "no job", "member service", NO_JOB),
    ("enrichment.track", "deleted job", "member", NO_JOB),
    ("enrichment.track(show)", "job, no rich", "member", NO_RICH),
    ("enrichment.run", "pending job", "member service key", RETURNS),
    ("enrichment.run", "pending job", f"{OUTSIDERS} wrong_key revoked_key", UNSEEN_JOB),
    ("enrichment.run", "pending job", "read_key", NO_JOB),
    ("enrichment.run", "pending job", "anon", ANONYMOUS),
    ("enrichment.run", "processing job", "member", RETURNS),
    ("enrichment.run", "completed job", "member service key", ALREADY_ENDED),
    ("enrichment.run", "failed job", "member", ALREADY_ENDED),
    ("enrichment.run", "stopped job", "member", ENDED),
    ("enrichment.run", "left job", "member", NO_JOB),
    ("enrichment.run", "no job", "member service", UNSEEN_JOB),
    ("enrichment.run", "deleted job", "member", UNSEEN_JOB),
    ("enrichment.run(0)", "pending job", "member", invalid("chunk_size must be from 1 to")),
    ("enrichment.run(show)", "job, no rich", "member", NO_RICH),
    ("enrichment.run(no threads)", "pending job", "member", NOT_RUN),
    ("EnrichmentRun.job", "pending job", "member", invalid("the job is not available yet")),
    ("enrichment.track(no unit)", "pending job", "member", invalid("unit is missing")),
    ("Progress.advance", "stopped job", "member", ENDED),
    ("Progress.advance", "left job", "member", NO_JOB),
    ("Progress.advance(-1)", "pending job", "member", invalid("processed must be from 0 to")),
    ("Progress.job", "pending job", "member", invalid("the job is not available yet")),
]
CLIENT: Table = [
    ("AudienceLab.__init__", "nothing", "service", unusable("key is empty")),
    ("AudienceLab.from_env", "no environment", "service", unusable("set the environment variable")),
    ("AudienceLab.from_supabase", "nothing", "service", unusable("supabase_client must be a")),
    ("AudienceLab.as_user", "token", "service", RETURNS),
    ("AudienceLab.as_user", "nothing", "service", unusable("access_token is empty")),
    ("AudienceLab.as_api_key", "no key", "service", RETURNS),
    ("AudienceLab.as_api_key", "no UUID", "service", invalid("api_key_id must be a UUID")),
    ("AudienceLab.as_api_key(short secret)", "key", "service", invalid("jwt_secret must have")),
    ("AudienceLab.as_api_key(no secret)", "key", "service", invalid("pass jwt_secret")),
    ("AudienceLab.as_api_key(public key)", "key", "service", invalid("signing_key is a public")),
    ("AudienceLab.with_options", "nothing", "service", RETURNS),
    ("AudienceLab.with_options(0)", "nothing", "service", unusable("timeout must be more than 0")),
]
BACKEND: Table = [
    ("KeyAuthenticator.__init__", "nothing", "service", invalid("max_age must be a number of")),
    ("KeyAuthenticator.__init__(other client)", "nothing", "service", unusable("pass an A")),
    ("KeyAuthenticator.authenticate", "nothing", "service", RETURNS),
    ("KeyAuthenticator.authenticate", "nothing", "member", NOT_ITS_ROLE),
    ("KeyAuthenticator.authenticate(two)", "nothing", "service", OVERLOADED),
    ("UsageRecorder.__init__", "nothing", "service", invalid("max_queued must be from 1")),
    ("UsageRecorder.__init__(other client)", "nothing", "service", unusable("pass an A")),
    ("UsageRecorder.record", "nothing", "service", invalid("event must be a UsageEvent")),
]


@dataclass(frozen=True)
class Row:
    call: str
    thing: str
    caller: str
    expected: Refusal | None

    @property
    def method(self) -> str:
        return self.call.partition("(")[0]

    def __str__(self) -> str:
        return f"{self.call} - {self.thing} - {self.caller}"


ROWS = [
    Row(name, thing, caller, expected)
    for table in (API_KEYS, LIFE_CYCLE, SEGMENTS, ENRICHMENT, CLIENT, BACKEND)
    for name, thing, callers, expected in table
    for caller in callers.split()
]

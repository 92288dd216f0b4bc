"""Advice for errors of the API."""

import pytest

from audiencelab_sdk._http._advice import advice

FKEY = 'insert or update on table "segments" violates foreign key constraint "segments_{}_fkey"'
CHECK = 'new row for relation "x" violates check constraint "x_{}_check"'


@pytest.mark.parametrize(
    ("status", "code", "message", "begins"),
    [
        (401, "42501", "permission denied for schema public", "The publishable (anon) key alone"),
        (403, "42501", "permission denied for function create_api_key", "Only a user may do this"),
        (403, "42501", "permission denied for function verify_api_key", "Use the project's secret"),
        (403, "42501", "permission denied for function log_api_key_usage", "Only the service"),
        (403, "42501", "permission denied for function has_scope", "Only an API key may do this"),
        (403, "42501", "permission denied for table segments", "An API key may not do this"),
        (403, "42501", 'new row violates row-level security policy for table "x"', "The account"),
        (409, "23503", FKEY.format("account_id"), "There is no account with this account_id."),
        (409, "23503", FKEY.format("created_by"), "There is no user with this created_by."),
        (400, "23514", CHECK.format("enrichment_type"), "The values of enrichment_type are email,"),
        (400, "23514", CHECK.format("source_type"), "The values of source_type are audience,"),
        (401, "PGRST301", "JWSError", "The access token has expired"),
        (401, "PGRST303", "JWT expired", "The access token has expired"),
        (404, "PGRST202", "Could not find the function", "The API's schema cache lacks"),
        (404, "42P01", "relation does not exist", "The API's schema cache lacks"),
        (401, None, "Invalid API key", "The gateway does not accept the project's key"),
        (404, None, "no Route matched", "There is no Supabase API here"),
        (405, None, "Method Not Allowed", "There is no Supabase API here"),
    ],
)
def test_advice(status: int, code: str | None, message: str, begins: str) -> None:
    text = advice(status, code, message)
    assert text
    assert text.startswith(begins)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "42501", "permission denied for function of_another_application"),
        (403, "42501", "the account does not exist, or you are not a member of it"),
        (409, "23503", FKEY.format("owner_id")),
        (409, "23505", "duplicate key value violates unique constraint"),
        (400, "23514", CHECK.format("name")),
        (429, "PT429", "too many invalid API keys with this prefix"),
        (500, None, "oops"),
    ],
)
def test_an_error_that_says_all_gets_no_advice(status: int, code: str | None, message: str) -> None:
    assert advice(status, code, message) is None

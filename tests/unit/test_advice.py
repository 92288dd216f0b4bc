"""Advice about errors of the API, by status, code and message."""

import pytest

from audiencelab_sdk._http._advice import advice


@pytest.mark.parametrize(
    ("status", "code", "message", "expected"),
    [
        (401, "42501", "permission denied for function verify_api_key", "publishable (anon) key"),
        (403, "42501", "permission denied for function create_api_key", "client.as_user(...)"),
        (403, "42501", "permission denied for function log_api_key_usage", "the service role"),
        (403, "42501", "permission denied for function has_scope", "client.as_api_key(...)"),
        (403, "42501", "permission denied for table segments", "An API key may not do this"),
        (403, "42501", "new row violates row-level security policy", "not a member of it"),
        (
            409,
            "23503",
            'constraint "segments_account_id_fkey"',
            "no account with the id account_id",
        ),
        (409, "23503", 'constraint "segments_created_by_fkey"', "no user with the id created_by"),
        (400, "23514", '"segments_source_type_check"', "source_type are audience, webhook_upload"),
        (401, "PGRST301", "JWT cryptographic operation failed", "signed for another project"),
        (404, "PGRST202", "Could not find the function", "supabase db push"),
        (401, None, "Invalid API key", "The gateway does not accept"),
        (404, None, "nginx", "There is no Supabase API here"),
    ],
)
def test_known_errors_have_advice(
    status: int, code: str | None, message: str, expected: str
) -> None:
    assert expected in (advice(status, code, message) or "")


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "42501", "permission denied for function of_another_application"),
        (403, "42501", "the account does not exist"),
        (409, "23503", 'constraint "orders_customer_id_fkey"'),
        (400, "22023", "scopes[0] has an unknown field"),
        (500, None, "oops"),
    ],
)
def test_other_errors_have_no_advice(status: int, code: str | None, message: str) -> None:
    assert advice(status, code, message) is None

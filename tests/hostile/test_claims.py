"""Tokens with invalid claims.

No policy may raise an error for them: if one raises for one subscriber, Realtime loses the changes
for all subscribers.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from audiencelab_sdk.local import _migrate as migrate
from tests.database._attempts import World, through_sql
from tests.database._matrix import OUTCOMES, outcomes_of
from tests.database._sql import Actor, Database

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

ODD_SUBS: tuple[Any, ...] = (
    *("user_abc", "", " ", "null", "0", "*", "%", "'; drop table segments; --", "a" * 100_000),
    *("7f3b5a52-8a4f-4d0e-9d0c", "7f3b5a52-8a4f-4d0e-9d0c-2f1f6f0c9a1g", "\u0661" * 36, "\t\n"),
    *(None, 0, -1.5, 1e300, True, [], ["x"], {}, {"sub": "x"}),
)
# The value of the setting request.jwt.claims.
ODD_CLAIMS = (
    *(json.dumps({"sub": sub}) for sub in ODD_SUBS),
    *("", "{}", "[]", "null", '"text"', "1", "{", "not json", '{"sub": "\\u0000"}'),
)


class ClaimingDatabase(Database):
    """A database in which all actors have the same claims."""

    def __init__(self, db: Database, claims: str) -> None:
        super().__init__(db.admin_url, migrate.as_role(db.admin_url, "authenticator"))
        self._claims = claims

    @contextmanager
    def acting(self, actor: Actor) -> Iterator[psycopg.Connection[Any]]:
        with super().acting(actor) as connection:
            connection.execute("select set_config('request.jwt.claims', %s, true)", [self._claims])
            yield connection


@pytest.mark.parametrize("claims", ODD_CLAIMS, ids=lambda claims: claims[:40])
def test_to_stop_everybodys_realtime_by_a_subject_that_is_no_uuid(
    db: Database, world: World, claims: str
) -> None:
    claiming = ClaimingDatabase(db, claims)
    target = world.target()
    for operation in OUTCOMES:
        columns = outcomes_of(operation)
        # The outcomes of roles without access to the account.
        expected = {
            "anon": columns["anon"],
            "authenticated": columns["former member"],
            "api_key": columns["revoked key"],
        }
        for role, outcome in expected.items():
            assert through_sql(claiming, Actor(role), operation, target) == outcome, operation
        if operation.startswith("select "):
            seen = through_sql(claiming, Actor("service_role"), operation, world.target())
            assert seen == columns["service_role"], operation


def test_to_act_as_somebody_by_the_setting_of_older_versions(db: Database, world: World) -> None:
    """auth.uid() reads request.jwt.claim.sub first, and caller_id() calls it."""
    with db.acting(Actor("authenticated")) as connection:
        connection.execute("select set_config('request.jwt.claim.sub', 'user_abc', true)")
        count = connection.execute("select count(*) from public.segments").fetchone()
    assert count == (0,)

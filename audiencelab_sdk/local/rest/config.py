"""The settings that PostgREST reads from the database: those of the login role and of its roles."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import LiteralString

import psycopg

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class DatabaseConfig:
    """Settings that are read from the database, at the start and on `notify pgrst`.

    Attributes:
        pre_request: The function `pgrst.db_pre_request`, which runs before each statement.
        max_rows: The value of `pgrst.db_max_rows`, or None.
        role_settings: The settings of the roles that the login role may switch to, by role.
            PostgreSQL itself applies them at login only.
    """

    pre_request: str | None = None
    max_rows: int | None = None
    role_settings: Mapping[str, Pairs] = field(default_factory=dict[str, Pairs])


async def load_config(connection: psycopg.AsyncConnection) -> DatabaseConfig:
    """Return the settings of the connection's current role.

    That is the login role, unless SQL has switched the role of the session. PostgREST then reads
    the settings of that role, too.

    Args:
        connection: A connection in a new transaction.
    """
    own: dict[str, str] = {name: value async for name, value in await connection.execute(_OWN)}
    by_role: dict[str, Pairs] = {}
    async for role, name, value in await connection.execute(_OF_ROLES):
        by_role[role] = (*by_role.get(role, ()), (name, value))
    most = own.get("pgrst.db_max_rows", "")
    return DatabaseConfig(
        pre_request=own.get("pgrst.db_pre_request") or None,
        max_rows=int(most) if most.isdecimal() else None,
        role_settings=by_role,
    )


# A setting of the role in this database follows, and so replaces, one of the role everywhere.
_OWN: LiteralString = """
select split_part(setting, '=', 1), substr(setting, strpos(setting, '=') + 1)
from pg_catalog.pg_db_role_setting as stored
cross join lateral unnest(stored.setconfig) as setting
where stored.setrole = (select oid from pg_catalog.pg_roles where rolname = current_user)
  and stored.setdatabase
    in (0, (select oid from pg_catalog.pg_database where datname = current_database()))
order by stored.setdatabase
"""

_OF_ROLES: LiteralString = """
select role.rolname::text, known.name, substr(stored.pair, strpos(stored.pair, '=') + 1)
from pg_catalog.pg_auth_members as membership
join pg_catalog.pg_roles as role on role.oid = membership.roleid
cross join lateral unnest(role.rolconfig) as stored (pair)
join pg_catalog.pg_settings as known on known.name = split_part(stored.pair, '=', 1)
where membership.member = (select oid from pg_catalog.pg_roles where rolname = current_user)
  and known.name <> 'default_transaction_isolation'
  and (
    known.context = 'user' or has_parameter_privilege(current_user, known.name, 'set')
  )
"""

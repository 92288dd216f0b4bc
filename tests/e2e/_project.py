"""The Supabase project under test: the embedded stack, or one that the environment names."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import jwt
import psycopg
from psycopg.rows import dict_row

if TYPE_CHECKING:
    from audiencelab_sdk.local import LocalStack


@dataclass(frozen=True)
class Tenant:
    """An account and its one member."""

    account_id: UUID
    user_id: UUID


@dataclass(frozen=True)
class Project:
    """The URLs and keys of a project, and the creation of users and accounts for one test.

    Of a project that the environment names, the keys with a default may be unknown.
    """

    url: str
    anon_key: str
    service_role_key: str
    jwt_secret: str
    db_url: str
    publishable_key: str = ""
    secret_key: str = ""
    signing_keys: tuple[str, ...] = ()

    @classmethod
    def of(cls, stack: LocalStack) -> Project:
        return cls(
            url=stack.url,
            anon_key=stack.anon_key,
            service_role_key=stack.service_role_key,
            jwt_secret=stack.jwt_secret,
            db_url=stack.db_url,
            publishable_key=stack.publishable_key,
            secret_key=stack.secret_key,
            signing_keys=(stack.signing_key, stack.rsa_signing_key),
        )

    @classmethod
    def from_env(cls) -> Project:
        signing_key = os.environ.get("SUPABASE_SIGNING_KEY")
        return cls(
            url=os.environ["SUPABASE_URL"],
            anon_key=os.environ["SUPABASE_ANON_KEY"],
            service_role_key=os.environ["SUPABASE_SERVICE_ROLE_KEY"],
            jwt_secret=os.environ["SUPABASE_JWT_SECRET"],
            db_url=os.environ["SUPABASE_DB_URL"],
            publishable_key=os.environ.get("SUPABASE_PUBLISHABLE_KEY", ""),
            secret_key=os.environ.get("SUPABASE_SECRET_KEY", ""),
            signing_keys=(signing_key,) if signing_key else (),
        )

    def sql(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        """Run one statement as role postgres, which bypasses row level security."""
        with psycopg.connect(self.db_url, autocommit=True) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            cursor.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def add_user(self) -> UUID:
        user_id = uuid4()
        self.sql("insert into auth.users (id) values (%s)", user_id)
        return user_id

    def add_tenant(self) -> Tenant:
        user_id = self.add_user()
        return Tenant(self.add_account(user_id), user_id)

    def add_account(self, owner_id: UUID) -> UUID:
        account_id = uuid4()
        self.sql(
            "insert into public.accounts (id, name, is_personal_account, primary_owner_user_id)"
            " values (%s, 'T', false, %s)",
            account_id,
            owner_id,
        )
        self.add_member(account_id, owner_id, "owner")
        return account_id

    def add_member(self, account_id: UUID, user_id: UUID, account_role: str = "member") -> None:
        self.sql(
            "insert into public.accounts_memberships (account_id, user_id, account_role)"
            " values (%s, %s, %s) on conflict do nothing",
            account_id,
            user_id,
            account_role,
        )

    def remove_member(self, account_id: UUID, user_id: UUID) -> None:
        self.sql(
            "delete from public.accounts_memberships where account_id = %s and user_id = %s",
            account_id,
            user_id,
        )

    def access_token(self, user_id: UUID, expires_in: int = 600) -> str:
        expires_at = int(time.time()) + expires_in
        claims = {"role": "authenticated", "sub": str(user_id), "exp": expires_at}
        return jwt.encode(claims, self.jwt_secret, algorithm="HS256")

    def count_keys(self, account_id: UUID) -> int:
        (row,) = self.sql(
            "select count(*) from api_keys_private.api_keys where account_id = %s", account_id
        )
        return int(row["count"])

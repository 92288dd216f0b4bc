"""Supabase Auth as a function, since the embedded stack has none."""

import json
import time
from typing import Any
from uuid import UUID

import httpx

from tests.e2e._project import Project, Tenant


class Auth:
    """Signs in the user whose id is the part of the email address before the @."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/logout"):
            return httpx.Response(204)
        assert request.url.path.endswith("/auth/v1/token")
        user_id = json.loads(request.content)["email"].removesuffix("@example.com")
        return httpx.Response(
            200,
            json={
                "access_token": self._project.access_token(UUID(user_id)),
                "refresh_token": "refresh",
                "token_type": "bearer",
                "expires_in": 600,
                "expires_at": int(time.time()) + 600,
                "user": {
                    "id": user_id,
                    "app_metadata": {},
                    "user_metadata": {},
                    "aud": "authenticated",
                    "created_at": "2025-01-02T03:04:05Z",
                },
            },
        )


def credentials(tenant: Tenant) -> Any:
    return {"email": f"{tenant.user_id}@example.com", "password": "password"}

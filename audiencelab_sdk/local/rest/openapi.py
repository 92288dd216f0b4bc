"""The description of the API at its root: the names that the role may use."""

import json
from typing import Any

from psycopg.sql import SQL
from starlette.responses import Response

from audiencelab_sdk.local.rest.render import Statement
from audiencelab_sdk.local.rest.transaction import Row

_MEDIA_TYPE = "application/openapi+json; charset=utf-8"


def describe(schema: str) -> Statement:
    """Return the statement that lists the relations and functions of a schema.

    Like PostgREST, it lists only those for which the role has a privilege.
    """
    return Statement(_NAMES, (schema,))


def description_response(row: Row, schema: str) -> Response:
    """Return a document of OpenAPI 2.0 with the paths only.

    It ignores the settings `response.headers` and `response.status`, as PostgREST does.
    """
    names: dict[str, list[str]] = json.loads(row.body)
    paths = {"/": _operations("get")}
    for name in names["relations"]:
        paths[f"/{name}"] = _operations("get", "post", "patch", "delete")
    for name in names["functions"]:
        paths[f"/rpc/{name}"] = _operations("get", "post")
    document = {
        "swagger": "2.0",
        "info": {"title": f"{schema} schema", "version": "14.17"},
        "paths": paths,
    }
    return Response(json.dumps(document), media_type=_MEDIA_TYPE)


def _operations(*methods: str) -> dict[str, Any]:
    return {
        method: {"responses": {"default": {"description": "See PostgREST"}}} for method in methods
    }


_NAMES = SQL(
    """
    select null::bigint, 0, null::bigint, json_build_object(
      'relations', array(
        select relation.relname
        from pg_catalog.pg_class as relation
        where relation.relnamespace = namespace.oid
          and relation.relkind in ('r', 'p', 'v', 'm', 'f')
          and (
            has_table_privilege(relation.oid, 'select, insert, update, delete')
            or has_any_column_privilege(relation.oid, 'select, insert, update')
          )
        order by 1
      ),
      'functions', array(
        select distinct function.proname
        from pg_catalog.pg_proc as function
        where function.pronamespace = namespace.oid
          and function.prokind = 'f'
          and function.prorettype <> 'trigger'::regtype
          and has_function_privilege(function.oid, 'execute')
        order by 1
      )
    )::text, null, null
    from pg_catalog.pg_namespace as namespace
    where namespace.nspname = $1
    """
) + SQL("")

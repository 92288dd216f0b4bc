"""The objects of the migrations as the catalogs describe them, to compare two databases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.database._inventory import PRIVATE_SCHEMAS, PUBLIC_FUNCTIONS, PUBLIC_TABLES, PUBLIC_TYPES

if TYPE_CHECKING:
    from tests.database._sql import Database

# The schemas, tables, functions and types of the migrations.
_OURS = f"""
with namespaces as (
  select oid, nspname, nspowner, nspacl from pg_namespace
  where nspname in {PRIVATE_SCHEMAS} or nspname = 'audiencelab_desired'
),
relations as (
  select oid from pg_class
  where relkind in ('r', 'v') and relnamespace in (select oid from namespaces)
     or relnamespace = 'public'::regnamespace and relname in {PUBLIC_TABLES}
),
functions as (
  select oid from pg_proc
  where pronamespace in (select oid from namespaces)
     or pronamespace = 'public'::regnamespace
     and proname in {tuple(function.rpc for function in PUBLIC_FUNCTIONS)}
),
types as (
  select typrelid as oid from pg_type
  where typnamespace = 'public'::regnamespace and typname in {PUBLIC_TYPES}
)
"""

_PARTS = {
    "schemas": """
        select nspname, pg_get_userbyid(nspowner) from namespaces""",
    "relations": """
        select oid::regclass::text, relkind, relrowsecurity, relforcerowsecurity, reloptions,
               pg_get_userbyid(relowner), pg_get_viewdef(oid)
        from pg_class join relations using (oid)""",
    "columns": """
        select attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull,
               attidentity, attgenerated, pg_get_expr(adbin, adrelid)
        from pg_attribute
        join (table relations union table types) as ours on ours.oid = attrelid
        left join pg_attrdef on adrelid = attrelid and adnum = attnum
        where attnum > 0 and not attisdropped""",
    # Without not-null constraints, which PostgreSQL 18 lists here: `columns` compares them.
    "constraints": """
        select conrelid::regclass::text, conname, pg_get_constraintdef(pg_constraint.oid),
               convalidated
        from pg_constraint join relations on relations.oid = conrelid where contype <> 'n'""",
    "indexes": """
        select indexrelid::regclass::text, pg_get_indexdef(indexrelid), indisvalid
        from pg_index join relations on relations.oid = indrelid""",
    "policies": """
        select polrelid::regclass::text, polname, polcmd, polpermissive, polroles::regrole[]::text,
               pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
        from pg_policy join relations on relations.oid = polrelid""",
    "triggers": """
        select tgrelid::regclass::text, tgname, pg_get_triggerdef(pg_trigger.oid), tgenabled
        from pg_trigger join relations on relations.oid = tgrelid where not tgisinternal""",
    "functions": """
        select oid::regprocedure::text, pg_get_functiondef(oid), pg_get_userbyid(proowner)
        from functions join pg_proc using (oid)""",
    "privileges": """
        select kind, name, pg_get_userbyid(grantor),
               case grantee when 0 then 'public' else pg_get_userbyid(grantee) end,
               privilege_type, is_grantable
        from (
          select 'relation' as kind, oid::regclass::text as name,
                 coalesce(relacl, acldefault('r', relowner)) as acl, relowner as owner
          from pg_class join relations using (oid)
          union all
          select 'column', attrelid::regclass || '.' || attname, attacl, null
          from pg_attribute join relations on relations.oid = attrelid
          union all
          select 'function', oid::regprocedure::text, coalesce(proacl, acldefault('f', proowner)),
                 proowner
          from pg_proc join functions using (oid)
          union all
          select 'schema', nspname, coalesce(nspacl, acldefault('n', nspowner)), nspowner
          from namespaces
        ) as object
        cross join lateral aclexplode(acl)
        where grantee is distinct from owner""",
    "comments": """
        select 'relation', objoid::regclass::text, attname, description
        from pg_description join relations on relations.oid = objoid
        left join pg_attribute on attrelid = objoid and attnum = objsubid and attnum > 0
        where classoid = 'pg_class'::regclass
        union all
        select 'function', objoid::regprocedure::text, null, description
        from pg_description join functions on functions.oid = objoid
        where classoid = 'pg_proc'::regclass
        union all
        select 'type', objoid::regtype::text, null, description
        from pg_description
        join pg_type on pg_type.oid = objoid
        join types on types.oid = typrelid
        where classoid = 'pg_type'::regclass
        union all
        select 'schema', nspname, null, obj_description(oid, 'pg_namespace')
        from namespaces""",
    "publication": """
        select relid::regclass::text, qual
        from pg_get_publication_tables('supabase_realtime')
        join relations on relations.oid = relid""",
    "roles": """
        select rolname, rolcanlogin, rolinherit, rolbypassrls, rolsuper, rolcreaterole,
               rolcreatedb, rolreplication, has_schema_privilege(oid, 'public', 'usage'),
               (select array_agg(pg_get_userbyid(member)::text order by pg_get_userbyid(member))
                from pg_auth_members where roleid = pg_roles.oid) as members,
               (select array_agg(pg_get_userbyid(roleid)::text order by pg_get_userbyid(roleid))
                from pg_auth_members where member = pg_roles.oid) as member_of
        from pg_roles where rolname = 'api_key'""",
}


def catalog(db: Database) -> dict[str, list[str]]:
    """Every property of the objects that a migration determines, as sorted lists of text."""
    return {
        part: sorted(str(tuple(row.values())) for row in db.admin(_OURS + query))
        for part, query in _PARTS.items()
    }

-- The foundation of the other migrations: role api_key, functions that identify the caller, and helpers that alter an
-- existing database to match the schema.
--
-- One transaction, safe to run again. Requires V3's base schema (accounts, memberships, auth) and does not change it.

begin;

set local search_path = '';
-- Requests queue behind a statement that waits for a lock, so the wait is short. After a timeout, run the migration again.
set local lock_timeout = '3s';
set local statement_timeout = '10min';
-- Serializes sessions that run migrations concurrently.
select pg_advisory_xact_lock(hashtext('audiencelab migrations'));
set local client_min_messages = warning;

-- Checks all prerequisites before anything is changed, and reports all that are not met in one error. It reads the
-- catalogs instead of calling to_regclass, which raises an error for a schema that the caller may not use.
do $requirements$
declare
  c_pgcrypto constant text := 'run: create extension pgcrypto with schema extensions,'
    ' or if it is in another schema: alter extension pgcrypto set schema extensions';
  v_unmet text;
begin
  with existing (object) as (
    select format('%s.%s', namespace.nspname, class.relname)
    from pg_class as class
    join pg_namespace as namespace on namespace.oid = class.relnamespace
    union all
    select format('%s.%s(%s)', namespace.nspname, function.proname, oidvectortypes(function.proargtypes))
    from pg_proc as function
    join pg_namespace as namespace on namespace.oid = function.pronamespace
    union all
    select format('role %s', rolname)
    from pg_roles
    union all
    select format('publication %s', pubname)
    from pg_publication
  ),
  caller as (
    select oid, rolname, rolsuper, rolcreaterole
    from pg_roles
    where rolname = current_user
  ),
  api_key as (
    select *
    from pg_roles
    where rolname = 'api_key'
  ),
  -- From PostgreSQL 16 on, only a role with the privileges of the grantor can revoke a membership.
  api_key_membership as (
    select
      quote_ident(pg_get_userbyid(granted.roleid)) as role_name,
      quote_ident(pg_get_userbyid(granted.grantor)) as grantor_name,
      case
        when caller.rolsuper then true
        when current_setting('server_version_num')::integer < 160000
          then caller.rolcreaterole or pg_has_role(granted.roleid, 'member with admin option')
        else pg_has_role(granted.grantor, 'usage')
      end as is_revocable
    from api_key
    join pg_auth_members as granted on granted.member = api_key.oid
    cross join caller
  ),
  required (prerequisite, remedy, is_met) as (
    select needed.object, needed.remedy, needed.object in (select existing.object from existing)
    from (
      values
        ('public.accounts', 'apply V3''s base schema first'),
        ('public.accounts_memberships', 'apply V3''s base schema first'),
        ('public.roles', 'apply V3''s base schema first'),
        ('public.has_role_on_account(uuid, character varying)', 'apply V3''s base schema first'),
        ('public.trigger_set_timestamps()', 'apply V3''s base schema first'),
        ('auth.users', 'run the migrations on a Supabase database'),
        ('auth.uid()', 'run the migrations on a Supabase database'),
        ('role anon', 'run the migrations on a Supabase database'),
        ('role authenticated', 'run the migrations on a Supabase database'),
        ('role service_role', 'run the migrations on a Supabase database'),
        ('role authenticator', 'run the migrations on a Supabase database'),
        ('extensions.gen_random_bytes(integer)', c_pgcrypto),
        ('extensions.crypt(text, text)', c_pgcrypto),
        ('publication supabase_realtime', 'run: create publication supabase_realtime')
    ) as needed (object, remedy)
    union all
    select
      allowed.prerequisite,
      format('run the migration as a role that has it, such as postgres; the current role is %s', current_user),
      allowed.is_met
    from (
      values
        (
          'the privilege to create role api_key',
          exists (select from api_key) or exists (select from caller where rolsuper or rolcreaterole)
        ),
        ('the privilege to create schemas', has_database_privilege(current_database(), 'create')),
        (
          'the privilege to create objects in schema public and to grant its usage',
          not exists (
            select from pg_namespace
            where nspname = 'public'
              and not (has_schema_privilege(oid, 'create') and has_schema_privilege(oid, 'usage with grant option'))
          )
        ),
        (
          'the privilege to use the schemas auth and extensions',
          not exists (
            select from pg_namespace
            where nspname in ('auth', 'extensions') and not has_schema_privilege(oid, 'usage')
          )
        ),
        (
          'the privilege to read auth.users',
          not exists (
            select from pg_class as class
            join pg_namespace as namespace on namespace.oid = class.relnamespace
            where (namespace.nspname, class.relname) = ('auth', 'users') and not has_table_privilege(class.oid, 'select')
          )
        ),
        (
          'the privilege to reference public.accounts, public.roles and auth.users',
          not exists (
            select from pg_class as class
            join pg_namespace as namespace on namespace.oid = class.relnamespace
            where (namespace.nspname, class.relname) in (('public', 'accounts'), ('public', 'roles'), ('auth', 'users'))
              and not has_table_privilege(class.oid, 'references')
          )
        ),
        (
          'the privilege to add tables to publication supabase_realtime',
          not exists (
            select from pg_publication
            where pubname = 'supabase_realtime' and not puballtables and not pg_has_role(pubowner, 'usage')
          )
        )
    ) as allowed (prerequisite, is_met)
    union all
    select
      'the privilege to alter and grant role api_key',
      format('as a superuser, or as the role that created it, run: grant api_key to %I with admin option', caller.rolname),
      caller.rolsuper
        or pg_has_role(api_key.oid, 'member with admin option')
        or (caller.rolcreaterole and current_setting('server_version_num')::integer < 160000)
        or (
          not api_key.rolinherit
          and not exists (select from api_key_membership)
          and exists (select from pg_auth_members where roleid = api_key.oid and member = to_regrole('authenticator'))
        )
    from api_key
    cross join caller
    union all
    -- These attributes may have been set on purpose, so the migration does not alter them.
    select
      format('role api_key without the attribute %s', attribute.name),
      'as a superuser, run: alter role api_key no' || attribute.name,
      not attribute.is_set
    from api_key
    cross join lateral (
      values
        ('login', rolcanlogin),
        ('bypassrls', rolbypassrls),
        ('superuser', rolsuper),
        ('createrole', rolcreaterole),
        ('createdb', rolcreatedb),
        ('replication', rolreplication)
    ) as attribute (name, is_set)
    union all
    select
      format('role api_key without membership in %s', role_name),
      format('as %s, run: revoke %s from api_key', grantor_name, role_name),
      role_name = 'anon' and is_revocable
    from api_key_membership
    union all
    select
      format('role api_key without the member %I', member.rolname),
      format('as %I, run: revoke api_key from %I', pg_get_userbyid(granted.grantor), member.rolname),
      member.rolname = 'authenticator' or member.rolsuper or member.rolcreaterole
    from api_key
    join pg_auth_members as granted on granted.roleid = api_key.oid
    join pg_roles as member on member.oid = granted.member
    union all
    select
      'the ownership of schema audiencelab_private',
      format('run the migration as %s', pg_get_userbyid(nspowner)),
      pg_has_role(nspowner, 'usage')
    from pg_namespace
    where nspname = 'audiencelab_private'
  )
  select string_agg(format(E'\n- %s: %s', unmet.prerequisites, unmet.remedy), '' order by unmet.remedy)
  into v_unmet
  from (
    select string_agg(required.prerequisite, ', ' order by required.prerequisite) as prerequisites, required.remedy
    from required
    where not required.is_met
    group by required.remedy
  ) as unmet;

  if v_unmet is not null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed, because prerequisites are not met:' || v_unmet;
  end if;
end;
$requirements$;

-- Requests with a token for an API key run as this role. The token's sub is the id of the key.
do $role$
declare
  c_version constant integer := current_setting('server_version_num');
  v_api_key pg_roles;
  v_granted record;
begin
  select * into v_api_key from pg_roles where rolname = 'api_key';
  if not found then
    create role api_key nologin noinherit;
  elsif v_api_key.rolinherit then
    raise warning 'role api_key is altered from inherit to noinherit';
    alter role api_key noinherit;
  end if;

  for v_granted in
    select pg_get_userbyid(roleid) as role, pg_get_userbyid(member) as member, pg_get_userbyid(grantor) as grantor
    from pg_auth_members
    where (roleid = to_regrole('anon') and member = to_regrole('api_key'))
      -- From PostgreSQL 16 on, the bootstrap superuser makes the creator of a role a member of it. A second grant is not
      -- needed.
      or (
        roleid = to_regrole('api_key')
        and member = to_regrole(quote_ident(current_user))
        and grantor = member
        and c_version >= 160000
      )
  loop
    raise warning 'the membership of % in % is revoked', v_granted.member, v_granted.role;
    execute format('revoke %I from %I granted by %I', v_granted.role, v_granted.member, v_granted.grantor);
  end loop;

  if not exists (
    select from pg_auth_members where roleid = to_regrole('api_key') and member = to_regrole('authenticator')
  ) then
    grant api_key to authenticator;
  end if;
  -- On PostgreSQL 15, the creator of a role is not a member of it. This grant results in the same state on all versions.
  if c_version < 160000 and not (select rolsuper from pg_roles where rolname = current_user) then
    execute format('grant api_key to %I', current_user);
  end if;
end;
$role$;
-- V3's base schema revokes usage of schema public from PUBLIC.
grant usage on schema public to api_key;

create schema if not exists audiencelab_private;
comment on schema audiencelab_private is
  'Functions that the policies and migrations of AudienceLab share. Not exposed by the REST API.';

create or replace function audiencelab_private.caller_id()
returns uuid
language plpgsql
stable
-- Definer: role api_key has no access to schema auth. It returns the caller's own id only.
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return auth.uid();
exception
  -- auth.uid() raises if the sub is not a UUID or the claims are not JSON. If a policy raises for one subscriber, Realtime
  -- loses the changes for all of them.
  when others then
    return null;
end;
$$;
comment on function audiencelab_private.caller_id() is
  'Returns the id of the user or API key that the request runs as, from the sub of its claims. Returns null if there is no'
  ' sub or it is not a UUID. Never raises an error.';

create or replace function audiencelab_private.member_account_ids()
returns setof uuid
language sql
stable
-- Definer: policies call it for callers who cannot read memberships. It returns the caller's own accounts only.
security definer
set search_path = pg_catalog, pg_temp
as $$
  select membership.account_id
  from public.accounts_memberships as membership
  where membership.user_id = (select audiencelab_private.caller_id());
$$;
comment on function audiencelab_private.member_account_ids() is
  'Returns the ids of the accounts that the caller is a member of. Used by policies.';

create or replace function audiencelab_private.is_member(p_account_id uuid, p_account_role varchar default null)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  -- has_role_on_account calls auth.uid(), which can raise an error if caller_id() returns null.
  if audiencelab_private.caller_id() is null then
    return false;
  end if;
  -- Both arguments are passed, so that an overload of the function cannot make the call ambiguous.
  return public.has_role_on_account(p_account_id, p_account_role) is true;
end;
$$;
comment on function audiencelab_private.is_member(uuid, varchar) is
  'Returns whether the caller is a member of the account, with the account role if one is passed. Never returns null.';

create or replace function audiencelab_private.require_member(p_account_id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if not audiencelab_private.is_member(p_account_id) then
    raise exception using
      errcode = 'insufficient_privilege',
      message = 'the account does not exist, or you are not a member of it';
  end if;
end;
$$;
comment on function audiencelab_private.require_member(uuid) is
  'Raises 42501 if the account does not exist or the caller is not a member of it.';

create or replace function audiencelab_private.is_service()
returns boolean
language sql
stable
-- Definer: current_user is then the owner of the functions and tables. It reads no table.
security definer
set search_path = pg_catalog, pg_temp
as $$
  -- The setting "role" is the role of the request, even in definer functions; it is "none" without a SET ROLE.
  select acting.role = 'service_role' or pg_has_role(acting.role, current_user, 'usage')
  from (
    select case current_setting('role') when 'none' then session_user else current_setting('role')::name end
  ) as acting (role);
$$;
comment on function audiencelab_private.is_service() is
  'Returns whether the request runs as service_role or as the owner of the tables.';

-- Trigger functions of the tables that clients write.

create or replace function audiencelab_private.set_server_columns()
returns trigger
language plpgsql
-- Definer: callers cannot execute caller_id. It changes the inserted row only.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  -- The setting "role" is the role of the request, even in definer functions; it is "none" without a SET ROLE.
  c_role constant name := case current_setting('role') when 'none' then session_user else current_setting('role')::name end;
begin
  -- The owner of the table may insert any values, for example to restore a backup.
  if not pg_has_role(c_role, current_user, 'usage') then
    new.created_at := now();
    new.updated_at := now();
    if c_role = 'api_key' then
      new.created_by := api_keys_private.caller_creator_id();
    elsif c_role <> 'service_role' then
      new.created_by := audiencelab_private.caller_id();
    end if;
  end if;
  return new;
end;
$$;
comment on function audiencelab_private.set_server_columns() is
  'Trigger function, before insert: sets created_at and updated_at to now(), and created_by to the caller, or if the caller is'
  ' an API key, to the user who created it. service_role may choose created_by, and the owner of the table may choose all'
  ' three.';

create or replace function audiencelab_private.keep_identity()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if not pg_has_role((select relowner from pg_class where oid = tg_relid), 'usage') then
    raise exception using
      errcode = 'insufficient_privilege',
      message = format('id, account_id and created_by of %I cannot be changed', tg_table_name);
  end if;
  return new;
end;
$$;
comment on function audiencelab_private.keep_identity() is
  'Trigger function, before a change of id, account_id or created_by: raises 42501, except for the owner of the table.';

-- A limit is a trigger whose condition is true for a value that exceeds the limit. A check constraint, even if it is NOT
-- VALID, would also reject every update of an older row that exceeds the limit.
create or replace function audiencelab_private.enforce_limit()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  c_column constant text := tg_argv[0];
begin
  -- An unchanged value may have been written before the limit was introduced.
  if tg_op = 'UPDATE' and to_jsonb(new) -> c_column = to_jsonb(old) -> c_column then
    return new;
  end if;
  raise exception using
    errcode = 'check_violation',
    schema = tg_table_schema,
    table = tg_table_name,
    column = c_column,
    constraint = tg_name,
    message = format('%s is exceeded: %s %s', tg_name, c_column, tg_argv[1]);
end;
$$;
comment on function audiencelab_private.enforce_limit() is
  'Trigger function, before an insert or update that exceeds a limit: raises 23514 unless the value is unchanged. The'
  ' trigger arguments are the column and the rule, which is part of the message.';

create or replace function audiencelab_private.exceeds_json_limit(p_value jsonb)
returns boolean
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select octet_length(p_value::text) > 262144
    -- The outermost value is at level 0.
    or p_value @? 'strict $.**{100} ? (@.type() == "object" || @.type() == "array")'
    -- Most JSON parsers read numbers as doubles.
    or p_value @? 'strict $.** ? (@.type() == "number" && (@ > 1.7976931348623157e308 || @ < -1.7976931348623157e308))';
$$;
comment on function audiencelab_private.exceeds_json_limit(jsonb) is
  'Returns whether JSON exceeds 262,144 bytes as text or 100 levels, or contains a number beyond the range of a double.';

create or replace function audiencelab_private.exceeds_texts_limit(p_texts text[])
returns boolean
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select cardinality(p_texts) > 1000
    or exists (select from unnest(p_texts) as element (value) where length(element.value) > 255);
$$;
comment on function audiencelab_private.exceeds_texts_limit(text[]) is
  'Returns whether an array has more than 1,000 elements, or an element of more than 255 characters.';

-- The functions below are helpers for migrations. A migration creates its tables and types in the schema
-- audiencelab_desired, which it drops at its end. The helpers compare the definition of each table there with that of the
-- existing table of the same name, as PostgreSQL prints them, and alter the existing table where they differ. They never
-- delete rows. Foreign keys are not created in that schema, because creating and dropping them would lock the referenced
-- tables even if nothing differs.

create or replace function audiencelab_private.require_ownership(p_schema text, p_names text[])
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_unmet text;
begin
  select string_agg(
    format(
      E'\n- the ownership of %s: %s',
      owned.object,
      case
        when owned.is_api_role
          then format('change its owner from %s to %I', pg_get_userbyid(owned.owner), current_user)
        else format('run the migration as %s', pg_get_userbyid(owned.owner))
      end
    ),
    '' order by owned.object
  )
  into v_unmet
  from (
    select format('%I.%I', p_schema, relname), relowner
    from pg_class
    where relnamespace = to_regnamespace(quote_ident(p_schema)) and relname = any (p_names)
    union all
    select format('function %I.%I', p_schema, proname), proowner
    from pg_proc
    where pronamespace = to_regnamespace(quote_ident(p_schema)) and proname = any (p_names)
    union all
    select format('schema %I', nspname), nspowner
    from pg_namespace
    where nspname = p_schema and nspname <> 'public'
  ) as found (object, owner)
  cross join lateral (
    -- Row level security does not apply to the owner of a table, so a role that requests run as must not own one.
    select
      found.object,
      found.owner,
      pg_get_userbyid(found.owner) in ('anon', 'authenticated', 'service_role', 'authenticator', 'api_key')
  ) as owned (object, owner, is_api_role)
  where owned.is_api_role or not pg_has_role(owned.owner, 'usage');

  if v_unmet is not null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed, because prerequisites are not met:' || v_unmet;
  end if;
end;
$$;
comment on function audiencelab_private.require_ownership(text, text[]) is
  'Raises 55000 unless the caller owns the schema, and the relations and functions with these names in it.';

create or replace function audiencelab_private.revoke_privileges(p_schema text, p_names text[] default null)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_granted record;
begin
  for v_granted in
    with privileged (kind, object, owner, acl, is_table) as (
      select 'schema', format('%I', nspname), nspowner, nspacl, false
      from pg_namespace
      where nspname = p_schema and coalesce(cardinality(p_names), 0) = 0
      union all
      select 'table', class.oid::regclass::text, class.relowner, acl, class.relkind in ('r', 'p')
      from pg_class as class
      cross join lateral (
        select class.relacl
        union all
        select attacl from pg_attribute where attrelid = class.oid
      ) as granted (acl)
      where class.relnamespace = to_regnamespace(quote_ident(p_schema))
        and class.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
        and (p_names is null or class.relname = any (p_names))
      union all
      select 'routine', oid::regprocedure::text, proowner, coalesce(proacl, acldefault('f', proowner)), false
      from pg_proc
      where pronamespace = to_regnamespace(quote_ident(p_schema)) and (p_names is null or proname = any (p_names))
    )
    select distinct
      privileged.kind,
      privileged.object,
      privileged.is_table,
      case entry.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(entry.grantee)) end as grantee
    from privileged
    cross join lateral aclexplode(privileged.acl) as entry
    where entry.grantee <> privileged.owner and pg_has_role(privileged.owner, 'usage')
  loop
    -- Default privileges and earlier scripts grant to these roles, so no warning is needed. The migration grants again what
    -- they need.
    if v_granted.grantee not in ('public', 'anon', 'authenticated', 'service_role', 'api_key') then
      raise warning 'the privileges of % on % % are revoked', v_granted.grantee, v_granted.kind, v_granted.object;
    end if;
    -- Later statements need this lock. A vacuum of the table holds it too, and waits for the transaction that has changed the
    -- table's row in pg_class, as revoke does. Without the lock first, the two would deadlock.
    if v_granted.is_table then
      execute format('lock table only %s in share update exclusive mode', v_granted.object);
    end if;
    execute format('revoke all on %s %s from %s cascade', v_granted.kind, v_granted.object, v_granted.grantee);
  end loop;
end;
$$;
comment on function audiencelab_private.revoke_privileges(text, text[]) is
  'Revokes the privileges of all roles but the owner: on the named relations and functions, or on the schema if there are no'
  ' names, or on the schema and all objects in it if they are null. Raises a warning for each role that is not one of'
  ' Supabase''s.';

create or replace function audiencelab_private.prepare_functions(variadic p_signatures text[])
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  -- A signature may span several lines.
  c_signatures constant text[] := array(
    select regexp_replace(signature, '\s+', ' ', 'g') from unnest(p_signatures) as signature
  );
  c_names constant text[] := array(select split_part(signature, '(', 1) from unnest(p_signatures) as signature);
  v_function record;
begin
  for v_function in
    select
      oid::regprocedure as function,
      format('%s(%s) returns %s', proname, pg_get_function_arguments(oid), pg_get_function_result(oid)) as signature
    from pg_proc
    where pronamespace = 'public'::regnamespace and proname = any (c_names)
  loop
    if v_function.signature <> all (c_signatures) then
      raise warning 'function public.% is dropped, because its signature differs', v_function.signature;
      execute format('drop routine %s', v_function.function);
    end if;
  end loop;
end;
$$;
comment on function audiencelab_private.prepare_functions(text[]) is
  'Drops the functions in schema public that have one of these names but another signature, with a warning. A signature is'
  ' spelled name(arguments) returns type, as PostgreSQL prints them.';

create or replace function audiencelab_private.apply_type(p_name text)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_found text;
  v_desired text;
begin
  if to_regtype(format('public.%I', p_name)) is null then
    execute format('alter type audiencelab_desired.%I set schema public', p_name);
    return;
  end if;

  select
    string_agg(attribute, ', ' order by position) filter (where namespace = 'public'),
    string_agg(attribute, ', ' order by position) filter (where namespace = 'audiencelab_desired')
  into v_found, v_desired
  from (
    select
      type.typnamespace::regnamespace::text,
      attribute.attnum,
      format('%I %s', attribute.attname, format_type(attribute.atttypid, attribute.atttypmod))
    from pg_type as type
    join pg_attribute as attribute on attribute.attrelid = type.typrelid
    where type.typname = p_name and attribute.attnum > 0 and not attribute.attisdropped
  ) as typed (namespace, position, attribute);
  if v_found is distinct from v_desired then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = format(
        'nothing was changed, because type public.%I has the attributes (%s) instead of (%s)', p_name, v_found, v_desired
      ),
      hint = 'Rename or drop the type, then run the migration again.';
  end if;
end;
$$;
comment on function audiencelab_private.apply_type(text) is
  'Moves a composite type from audiencelab_desired to public. Raises 55000 if public contains a type of that name with other'
  ' attributes.';

create or replace function audiencelab_private.table_parts(p_table regclass)
returns table (kind text, name text, definition text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    case contype when 'f' then 'foreign key' else 'constraint' end,
    conname::text,
    pg_get_constraintdef(oid)
  from pg_constraint
  where conrelid = p_table and contype in ('c', 'f', 'p', 'u', 'x')
  union all
  select
    case when index.indisunique then 'unique index' else 'index' end,
    class.relname::text,
    case when index.indisvalid then substring(pg_get_indexdef(class.oid) from ' (USING .*)$') else 'invalid' end
  from pg_index as index
  join pg_class as class on class.oid = index.indexrelid
  where index.indrelid = p_table
    and not exists (
      select from pg_constraint as held where held.conindid = index.indexrelid and held.contype in ('p', 'u', 'x')
    )
  union all
  select
    'trigger',
    tgname::text,
    case
      when tgenabled <> 'O' then 'not enabled'
      else replace(
        substring(pg_get_triggerdef(oid) from ' ((BEFORE|AFTER|INSTEAD OF) .*)$'),
        format(' ON %s ', p_table),
        ' ON <table> '
      )
    end
  from pg_trigger
  where tgrelid = p_table and not tgisinternal
  union all
  select 'rule', rulename::text, pg_get_ruledef(oid)
  from pg_rewrite
  where ev_class = p_table
  union all
  select
    'policy',
    polname::text,
    concat_ws(
      ' ',
      'as',
      case when polpermissive then 'permissive' else 'restrictive' end,
      'for',
      case polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
      'to',
      (
        select string_agg(grantee.name, ', ' order by grantee.name)
        from unnest(polroles) as role
        cross join lateral (
          select case role when 0 then 'public' else quote_ident(pg_get_userbyid(role)) end
        ) as grantee (name)
      ),
      'using (' || pg_get_expr(polqual, polrelid) || ')',
      'with check (' || pg_get_expr(polwithcheck, polrelid) || ')'
    )
  from pg_policy
  where polrelid = p_table;
$$;
comment on function audiencelab_private.table_parts(regclass) is
  'Returns the constraints, indexes, triggers, rules and policies of a table. The definitions do not contain the name of the'
  ' table, so that those of two tables can be compared.';

create or replace function audiencelab_private.table_columns(p_table regclass)
returns table ("position" smallint, name text, type text, expression text, is_required boolean, definition text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select
    attribute.attnum,
    attribute.attname::text,
    typed.name,
    col_default.expression,
    attribute.attnotnull,
    concat_ws(
      ' ', typed.name, case when attribute.attnotnull then 'not null' end, 'default ' || col_default.expression
    )
  from pg_attribute as attribute
  cross join lateral (select format_type(attribute.atttypid, attribute.atttypmod)) as typed (name)
  left join lateral (
    select pg_get_expr(adbin, adrelid)
    from pg_attrdef
    where adrelid = attribute.attrelid and adnum = attribute.attnum
    union all
    select 'generated as identity'
    where attribute.attidentity <> ''
  ) as col_default (expression) on true
  where attribute.attrelid = p_table and attribute.attnum > 0 and not attribute.attisdropped;
$$;
comment on function audiencelab_private.table_columns(regclass) is
  'Returns the columns of a table, with their types, defaults and nullability.';

create or replace function audiencelab_private.apply_columns(p_table regclass, p_desired regclass)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_column record;
  v_filled bigint;
begin
  for v_column in
    select
      coalesce(desired.name, found.name) as name,
      desired.type,
      desired.expression,
      desired.is_required,
      found.type is distinct from desired.type as has_other_type,
      found.expression is distinct from desired.expression as has_other_default,
      found.is_required is distinct from desired.is_required as has_other_nullability,
      found.definition as found_definition,
      desired.definition as desired_definition
    from audiencelab_private.table_columns(p_desired) as desired
    full join audiencelab_private.table_columns(p_table) as found on found.name = desired.name
    order by desired.position, found.position
  loop
    if v_column.found_definition is null then
      execute format('alter table %s add column %I %s', p_table, v_column.name, v_column.desired_definition);
      continue;
    elsif v_column.desired_definition is null then
      raise warning 'column % of % is not part of the schema; it is kept: %',
        v_column.name, p_table, v_column.found_definition;
      if v_column.found_definition ~ ' not null$' then
        -- Inserts do not set the column, so they would fail if it has no default.
        raise warning 'column % of % is altered to be nullable', v_column.name, p_table;
        execute format('alter table %s alter column %I drop not null', p_table, v_column.name);
      end if;
      continue;
    elsif v_column.found_definition = v_column.desired_definition then
      continue;
    end if;

    raise warning 'column % of % is altered from % to %',
      v_column.name, p_table, v_column.found_definition, v_column.desired_definition;
    if v_column.has_other_type then
      -- The default is dropped first, because it may have no cast to the new type.
      execute format('alter table %s alter column %I drop default', p_table, v_column.name);
      execute format('alter table %s alter column %I type %s', p_table, v_column.name, v_column.type);
    end if;
    if v_column.has_other_type or v_column.has_other_default then
      execute format(
        'alter table %s alter column %I %s', p_table, v_column.name,
        coalesce('set default ' || v_column.expression, 'drop default')
      );
    end if;
    if v_column.has_other_nullability and v_column.is_required and v_column.expression is not null then
      execute format(
        'update %1$s set %2$I = %3$s where %2$I is null', p_table, v_column.name, v_column.expression
      );
      get diagnostics v_filled = row_count;
      if v_filled > 0 then
        raise warning 'column % of % is set to its default in % rows that were null', v_column.name, p_table, v_filled;
      end if;
    end if;
    if v_column.has_other_nullability then
      execute format(
        'alter table %s alter column %I %s not null', p_table, v_column.name,
        case when v_column.is_required then 'set' else 'drop' end
      );
    end if;
  end loop;
end;
$$;
comment on function audiencelab_private.apply_columns(regclass, regclass) is
  'Alters the columns of a table to match those of another table. Additional columns are kept, with a warning.';

create or replace function audiencelab_private.apply_parts(
  p_table regclass, p_desired regclass, p_kinds text[], p_foreign_keys jsonb default '{}'
)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  c_schema constant text := (select relnamespace::regnamespace::text from pg_class where oid = p_table);
  v_taken record;
  v_step record;
begin
  for v_taken in
    select desired.name, index.indrelid::regclass as owner
    from audiencelab_private.table_parts(p_desired) as desired
    join pg_class as class on class.relname = desired.name and class.relnamespace = c_schema::regnamespace
    join pg_index as index on index.indexrelid = class.oid and index.indrelid <> p_table
    where desired.kind = any (p_kinds) and desired.kind in ('constraint', 'unique index', 'index')
  loop
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = format('nothing was changed, because %s has an index with the name %I', v_taken.owner, v_taken.name),
      hint = format(
        'Rename the index (alter index %s.%I rename to ...), then run the migration again.', c_schema, v_taken.name
      );
  end loop;

  for v_step in
    with desired as materialized (
      select * from audiencelab_private.table_parts(p_desired) where kind = any (p_kinds)
      union all
      select 'foreign key', foreign_key.key, foreign_key.value
      from jsonb_each_text(p_foreign_keys) as foreign_key
    ),
    found as materialized (
      select * from audiencelab_private.table_parts(p_table) where kind = any (p_kinds)
    ),
    -- An existing part with the same definition is reused: it is renamed and validated, not built again. A part with the
    -- right name is preferred.
    matched as materialized (
      select distinct on (desired.kind, desired.name)
        desired.kind,
        desired.name,
        desired.definition,
        found.name as found_name,
        found.definition as found_definition
      from desired
      left join found
        on found.kind = desired.kind
        and found.definition in (desired.definition, desired.definition || ' NOT VALID')
        and (found.name = desired.name or found.kind not in ('policy', 'trigger'))
        and not exists (
          select from desired as other where other.name = found.name and other.name <> desired.name
        )
      order by desired.kind, desired.name, found.name <> desired.name, found.name
    )
    select *
    from (
      select 1, found.kind, found.name, found.definition, null::text
      from found
      where not exists (select from matched where matched.kind = found.kind and matched.found_name = found.name)
      union all
      -- Columns are altered after the drops, because a policy or a check can block altering a column.
      select 2, 'column', null, null, null where 'column' = any (p_kinds)
      union all
      select 3, kind, found_name, definition, name from matched where found_name <> name
      union all
      select 4, kind, name, definition, null from matched where found_definition <> definition
      union all
      select 5, kind, name, definition, null from matched where found_name is null
    ) as steps (step, kind, name, definition, new_name)
    order by step, array_position(p_kinds, kind), name
  loop
    case v_step.step
      when 1 then
        raise warning '% % on % is dropped: %', v_step.kind, v_step.name, p_table, v_step.definition;
        execute case
          when v_step.kind in ('constraint', 'foreign key')
            then format('alter table %s drop constraint %I', p_table, v_step.name)
          when v_step.kind in ('index', 'unique index') then format('drop index %s.%I', c_schema, v_step.name)
          else format('drop %s %I on %s', v_step.kind, v_step.name, p_table)
        end;
      when 2 then
        perform audiencelab_private.apply_columns(p_table, p_desired);
      when 3 then
        raise warning '% % on % is renamed to %', v_step.kind, v_step.name, p_table, v_step.new_name;
        execute case
          when v_step.kind in ('constraint', 'foreign key')
            then format('alter table %s rename constraint %I to %I', p_table, v_step.name, v_step.new_name)
          else format('alter index %s.%I rename to %I', c_schema, v_step.name, v_step.new_name)
        end;
      when 4 then
        execute format('alter table %s validate constraint %I', p_table, v_step.name);
      when 5 then
        execute case
          when v_step.kind in ('constraint', 'foreign key')
            then format('alter table %s add constraint %I %s', p_table, v_step.name, v_step.definition)
          when v_step.kind = 'trigger'
            then replace(
              format('create trigger %I %s', v_step.name, v_step.definition), ' ON <table> ', format(' ON %s ', p_table)
            )
          else format('create %s %I on %s %s', v_step.kind, v_step.name, p_table, v_step.definition)
        end;
    end case;
  end loop;
end;
$$;
comment on function audiencelab_private.apply_parts(regclass, regclass, text[], jsonb) is
  'Alters the parts of a table that are of these kinds to match those of another table. Additional parts are dropped and'
  ' misnamed ones renamed, with a warning.';

create or replace function audiencelab_private.apply_table(p_schema text, p_name text)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  c_desired constant regclass := format('audiencelab_desired.%I', p_name)::regclass;
  v_table regclass := to_regclass(format('%I.%I', p_schema, p_name));
  v_found pg_class;
begin
  if v_table is null then
    execute format('create table %I.%I ()', p_schema, p_name);
    v_table := format('%I.%I', p_schema, p_name)::regclass;
  end if;
  select * into v_found from pg_class where oid = v_table;
  if v_found.relkind <> 'r' then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = format('nothing was changed, because %s is not an ordinary table', v_table),
      hint = 'Rename it, then run the migration again.';
  end if;

  perform audiencelab_private.apply_parts(
    v_table, c_desired, '{column,rule,policy,trigger,constraint,unique index,index}'
  );

  if not v_found.relrowsecurity then
    execute format('alter table %s enable row level security', v_table);
  end if;
  if v_found.relforcerowsecurity then
    raise warning 'FORCE ROW LEVEL SECURITY is removed from %', v_table;
    execute format('alter table %s no force row level security', v_table);
  end if;
  -- PostgreSQL rejects updates of a published table whose replica identity is an index that was dropped.
  if v_found.relreplident in ('i', 'n') then
    raise warning 'the replica identity of % is reset to its primary key', v_table;
    execute format('alter table %s replica identity default', v_table);
  end if;
  perform audiencelab_private.revoke_privileges(p_schema, array[p_name]);
end;
$$;
comment on function audiencelab_private.apply_table(text, text) is
  'Creates a table or alters it to match the table of the same name in audiencelab_desired, except for foreign keys. Enables'
  ' row level security and revokes all privileges.';

create or replace function audiencelab_private.apply_foreign_keys(p_table regclass, p_foreign_keys jsonb)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select audiencelab_private.apply_parts(p_table, null, '{foreign key}', p_foreign_keys);
$$;
comment on function audiencelab_private.apply_foreign_keys(regclass, jsonb) is
  'Alters the foreign keys of a table to match an object of names and definitions, spelled as by pg_get_constraintdef.'
  ' Additional ones are dropped, with a warning.';

create or replace function audiencelab_private.publish(p_table regclass)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  -- With a row filter or a list of columns, some changes would not be sent.
  if exists (
    select from pg_publication_rel as entry
    join pg_publication as publication on publication.oid = entry.prpubid
    where publication.pubname = 'supabase_realtime'
      and entry.prrelid = p_table
      and (entry.prqual is not null or entry.prattrs is not null)
  ) then
    raise warning 'publication supabase_realtime published only some rows or columns of %; it now publishes the whole table',
      p_table;
    execute format('alter publication supabase_realtime drop table %s', p_table);
  end if;
  -- Also true for a publication of all tables or of the whole schema.
  if not exists (select from pg_get_publication_tables('supabase_realtime') where relid = p_table) then
    execute format('alter publication supabase_realtime add table %s', p_table);
  end if;
end;
$$;
comment on function audiencelab_private.publish(regclass) is
  'Adds a table to publication supabase_realtime, with all rows and columns.';

select audiencelab_private.revoke_privileges('audiencelab_private');
-- Only policies and triggers can call these, because no role has usage of the schema.
grant execute on function audiencelab_private.member_account_ids() to authenticated;
grant execute on function audiencelab_private.exceeds_json_limit(jsonb) to authenticated, service_role, api_key;
grant execute on function audiencelab_private.exceeds_texts_limit(text[]) to authenticated, service_role, api_key;

commit;

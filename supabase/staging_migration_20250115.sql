-- All AudienceLab migrations, for the dashboard's SQL editor: paste the whole file and click Run.
--
-- One transaction, safe to run again, before or after `supabase db push`. Built by `make sql` from
-- the files in supabase/migrations: change those.

begin;

set local search_path = '';
-- Requests queue behind a statement that waits for a lock, so the wait is short. After a timeout, run the migration again.
set local lock_timeout = '3s';
set local statement_timeout = '10min';
-- Serializes sessions that run migrations concurrently.
select pg_advisory_xact_lock(hashtext('audiencelab migrations'));
set local client_min_messages = warning;

-- 20261122000100_foundation.sql

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


-- 20261122000200_api_keys.sql

do $requirements$
begin
  if to_regprocedure('audiencelab_private.apply_table(text, text)') is null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: apply 20261122000100_foundation.sql first';
  end if;
end;
$requirements$;
select audiencelab_private.require_ownership(
  'api_keys_private', '{api_keys,api_key_events,api_key_logs,failed_comparisons,settings,live_api_keys,bcrypt_api_keys}'
);
select audiencelab_private.require_ownership(
  'public',
  '{create_api_key,issue_api_key,list_api_keys,revoke_api_key,revoke_api_keys_of,authenticate_api_key,verify_api_key,
    has_scope,get_api_key_account_id}'
);

create schema if not exists api_keys_private;
comment on schema api_keys_private is 'API keys and their usage logs. Not exposed by the REST API.';
-- An insert into the log locks the log and then, for the foreign key, the keys. The file for the SQL editor alters both in
-- one transaction, and locking in the opposite order could deadlock. If the migration was applied before, it does not alter
-- the tables and needs no lock.
do $lock$
begin
  if to_regclass('api_keys_private.api_key_logs') is not null
    and to_regclass('api_keys_private.live_api_keys') is null
  then
    lock table api_keys_private.api_key_logs in access exclusive mode;
  end if;
end;
$lock$;

-- Revokes what earlier scripts granted on the schema. The privileges on the objects in it are revoked and granted below and
-- in the next migration, which need not be run again after this one.
select audiencelab_private.revoke_privileges('api_keys_private', '{}');
grant usage on schema api_keys_private to service_role;

-- The tables are created in this schema, then applied to those of the database.
create schema audiencelab_desired;

create table audiencelab_desired.api_key_events (
  id uuid not null default gen_random_uuid(),
  account_id uuid not null,
  api_key_id uuid not null,
  event text not null,
  actor_type text not null,
  actor_id uuid,
  changes jsonb not null,
  -- Not now(), so that the events of one transaction are in their order.
  created_at timestamptz not null default clock_timestamp(),
  constraint api_key_events_pkey primary key (id),
  constraint api_key_events_event_check check (event in ('create', 'update', 'disable', 'enable', 'rotate', 'revoke')),
  constraint api_key_events_actor_type_check check (actor_type in ('user', 'api_key', 'service'))
);
-- Lists are read newest first; id makes the order total.
create index api_key_events_account_id_created_at_id_idx
  on audiencelab_desired.api_key_events (account_id, created_at desc, id desc);
create index api_key_events_api_key_id_created_at_id_idx
  on audiencelab_desired.api_key_events (api_key_id, created_at desc, id desc);

select audiencelab_private.apply_table('api_keys_private', 'api_key_events');
comment on table api_keys_private.api_key_events is
  'The audit trail of the API keys: one row for each change. A trigger writes it. Without foreign keys, so that the events'
  ' outlive the key and the account. Only the owner of the table can change or delete them.';
comment on column api_keys_private.api_key_events.actor_type is
  'Who made the change: a user, an API key, or service for service_role and the owner of the tables.';
comment on column api_keys_private.api_key_events.actor_id is 'The id of the user or API key; null for service.';
comment on column api_keys_private.api_key_events.changes is
  'An object with a field for each changed column: {"old": ..., "new": ...}. Never contains the key, its prefix or its hash.';
grant select on api_keys_private.api_key_events to service_role;

create or replace function api_keys_private.record_event()
returns trigger
language plpgsql
volatile
-- Definer: service_role writes keys, but must not write events. The function records the change of the row and nothing else.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  c_columns constant text[] := array[
    'account_id', 'name', 'scopes', 'expires_at', 'created_by', 'is_active', 'disabled_at', 'metadata', 'allowed_ips',
    'successor_id'
  ];
  -- The setting "role" is the role of the request, even in definer functions.
  c_actor_type constant text := case
    when audiencelab_private.is_service() then 'service'
    when current_setting('role') = 'api_key' then 'api_key'
    else 'user'
  end;
  v_old jsonb := jsonb '{}';
  v_new jsonb := to_jsonb(new);
  v_event text := 'create';
  v_changes jsonb;
begin
  if tg_op = 'UPDATE' then
    v_old := to_jsonb(old);
    v_event := case
      when old.is_active and not new.is_active then 'revoke'
      when new.successor_id is distinct from old.successor_id and new.successor_id is not null then 'rotate'
      when old.disabled_at is null and new.disabled_at is not null then 'disable'
      when old.disabled_at is not null and new.disabled_at is null then 'enable'
      else 'update'
    end;
  end if;

  select coalesce(jsonb_object_agg(name, jsonb_build_object('old', v_old -> name, 'new', v_new -> name)), '{}')
  into v_changes
  from unnest(c_columns) as name
  where coalesce(v_old -> name, 'null') <> coalesce(v_new -> name, 'null');

  insert into api_keys_private.api_key_events (account_id, api_key_id, event, actor_type, actor_id, changes)
  values (
    new.account_id,
    new.id,
    v_event,
    c_actor_type,
    case when c_actor_type <> 'service' then audiencelab_private.caller_id() end,
    v_changes
  );
  return null;
end;
$$;
comment on function api_keys_private.record_event() is
  'Trigger function, after an insert or update of an API key: writes an event with who changed which columns.';
select audiencelab_private.revoke_privileges('api_keys_private', '{record_event}');

create table audiencelab_desired.api_keys (
  id uuid not null default gen_random_uuid(),
  account_id uuid not null,
  name text not null,
  key_prefix varchar(7) not null,
  key_hash text not null,
  scopes jsonb not null default '[]',
  expires_at timestamptz,
  created_at timestamptz not null default now(),
  last_used_at timestamptz,
  created_by uuid not null,
  is_active boolean not null default true,
  disabled_at timestamptz,
  metadata jsonb not null default '{}',
  allowed_ips cidr[],
  -- Without a foreign key, which would have to scan the keys of a live database.
  successor_id uuid,
  constraint api_keys_pkey primary key (id)
);
-- Verification is one look-up.
create unique index api_keys_key_hash_key on audiencelab_desired.api_keys (key_hash);
-- Lists are read newest first; id makes the order total.
create index api_keys_account_id_created_at_id_idx
  on audiencelab_desired.api_keys (account_id, created_at desc, id desc);
-- bcrypt hashes cannot be looked up, so keys hashed with bcrypt are found by prefix until they are re-hashed.
create index api_keys_key_prefix_idx on audiencelab_desired.api_keys (key_prefix) where key_hash like '$2a$%';

create trigger api_keys_name_limit
  before insert or update of name on audiencelab_desired.api_keys
  for each row when (length(new.name) > 255)
  execute function audiencelab_private.enforce_limit('name', 'must have at most 255 characters');
create trigger api_keys_scopes_limit
  before insert or update of scopes on audiencelab_desired.api_keys
  for each row
  when (
    case jsonb_typeof(new.scopes) when 'array' then jsonb_array_length(new.scopes) end > 100
    or new.scopes @? '$[*].* ? (@ like_regex "^.{255}." flag "s")'
  )
  execute function audiencelab_private.enforce_limit(
    'scopes', 'must have at most 100 elements, with values of at most 255 characters'
  );
create trigger api_keys_expires_at_limit
  before insert or update of expires_at on audiencelab_desired.api_keys
  for each row when (new.expires_at >= '10000-01-01 00:00:00+00')
  execute function audiencelab_private.enforce_limit('expires_at', 'must be before the year 10000');
create trigger api_keys_metadata_limit
  before insert or update of metadata on audiencelab_desired.api_keys
  for each row
  when (
    jsonb_typeof(new.metadata) <> 'object'
    or octet_length(new.metadata::text) > 4096
    or audiencelab_private.exceeds_json_limit(new.metadata)
  )
  execute function audiencelab_private.enforce_limit(
    'metadata', 'must be an object of at most 4,096 bytes as text and 100 levels, with numbers in the range of a double'
  );
create trigger api_keys_allowed_ips_limit
  before insert or update of allowed_ips on audiencelab_desired.api_keys
  for each row when (cardinality(new.allowed_ips) not between 1 and 50)
  execute function audiencelab_private.enforce_limit('allowed_ips', 'must be null or have 1 to 50 networks');

create trigger api_keys_record_creation
  after insert on audiencelab_desired.api_keys
  for each row execute function api_keys_private.record_event();
-- Not after updates of last_used_at, which are frequent, or of key_hash, which is re-hashed.
create trigger api_keys_record_change
  after update of
    account_id, name, scopes, expires_at, created_by, is_active, disabled_at, metadata, allowed_ips, successor_id
  on audiencelab_desired.api_keys
  for each row
  when (
    old.account_id is distinct from new.account_id
    or old.name is distinct from new.name
    or old.scopes is distinct from new.scopes
    or old.expires_at is distinct from new.expires_at
    or old.created_by is distinct from new.created_by
    or old.is_active is distinct from new.is_active
    or old.disabled_at is distinct from new.disabled_at
    or old.metadata is distinct from new.metadata
    or old.allowed_ips is distinct from new.allowed_ips
    or old.successor_id is distinct from new.successor_id
  )
  execute function api_keys_private.record_event();

select audiencelab_private.apply_table('api_keys_private', 'api_keys');
comment on table api_keys_private.api_keys is 'API keys, by account. The keys themselves are not stored.';
comment on column api_keys_private.api_keys.key_prefix is
  'The first seven characters of the key, which identify it in lists.';
comment on column api_keys_private.api_keys.key_hash is
  'SHA-256 of the key, in hex; bcrypt for older keys that have not been verified since SHA-256 was introduced.';
comment on column api_keys_private.api_keys.scopes is 'Array of {"entity_type", "entity_id", "action"}; "*" is a wildcard.';
comment on column api_keys_private.api_keys.last_used_at is 'When the key was last used. Updated at most once a minute.';
comment on column api_keys_private.api_keys.is_active is 'False after the key was revoked, which is permanent.';
comment on column api_keys_private.api_keys.disabled_at is 'When the key was disabled; null if it is enabled.';
comment on column api_keys_private.api_keys.metadata is
  'An object with data of the account, which the database does not interpret.';
comment on column api_keys_private.api_keys.allowed_ips is
  'The networks that the key may be used from; null for all. An IPv4-mapped IPv6 network is stored as IPv4.';
comment on column api_keys_private.api_keys.successor_id is 'The key that replaces this one, if it was rotated.';
-- No policies: only service_role has access, and it bypasses row level security.
grant select, insert, update, delete on api_keys_private.api_keys to service_role;

create table audiencelab_desired.failed_comparisons (
  key_prefix varchar(7) not null,
  period bigint not null,
  comparisons integer not null,
  slot bigint,
  constraint failed_comparisons_pkey primary key (key_prefix)
);
select audiencelab_private.apply_table('api_keys_private', 'failed_comparisons');
comment on table api_keys_private.failed_comparisons is
  'Recently failed comparisons with bcrypt hashes, by prefix. The counts limit the CPU time that invalid keys cost.';
comment on column api_keys_private.failed_comparisons.period is 'The period of 30 seconds, counted from 1970.';
comment on column api_keys_private.failed_comparisons.comparisons is 'The number of failed comparisons in the period.';
comment on column api_keys_private.failed_comparisons.slot is
  'The latest slot of two seconds, counted from 1970, in which a key was compared although the limit was reached.';
grant select, delete on api_keys_private.failed_comparisons to service_role;

create table audiencelab_desired.settings (
  id boolean not null default true,
  manage_keys_role varchar(50),
  constraint settings_pkey primary key (id),
  constraint settings_id_check check (id)
);
create index settings_manage_keys_role_idx on audiencelab_desired.settings (manage_keys_role);
select audiencelab_private.apply_table('api_keys_private', 'settings');
comment on table api_keys_private.settings is 'Settings for all API keys, in one row.';
comment on column api_keys_private.settings.manage_keys_role is
  'The account role that is required to create, change, rotate and revoke API keys, such as owner. Null allows every member.';
insert into api_keys_private.settings default values on conflict do nothing;
grant select, update on api_keys_private.settings to service_role;

-- The only definition of a live key.
create or replace view api_keys_private.live_api_keys
with (security_invoker = true)
as
select id, account_id, key_prefix, key_hash, scopes, allowed_ips
from api_keys_private.api_keys
where is_active and disabled_at is null and (expires_at is null or expires_at > now());
comment on view api_keys_private.live_api_keys is 'The API keys that are neither revoked, disabled nor expired.';
select audiencelab_private.revoke_privileges('api_keys_private', '{live_api_keys}');

create or replace view api_keys_private.bcrypt_api_keys
with (security_invoker = true)
as
select api_key.id, api_key.account_id, api_key.name, api_key.key_prefix, api_key.created_by, api_key.created_at,
  api_key.last_used_at, api_key.expires_at
from api_keys_private.api_keys as api_key
join api_keys_private.live_api_keys as live on live.id = api_key.id
where api_key.key_hash like '$2a$%';
comment on view api_keys_private.bcrypt_api_keys is
  'The live API keys that are still hashed with bcrypt. If there are none, verify_api_key compares nothing with bcrypt.';
select audiencelab_private.revoke_privileges('api_keys_private', '{bcrypt_api_keys}');
grant select on api_keys_private.bcrypt_api_keys to service_role;
-- bcrypt_api_keys reads this view with the privileges of its caller.
grant select on api_keys_private.live_api_keys to service_role;

create type audiencelab_desired.create_api_key_response as (
  id uuid,
  name text,
  key text,
  key_prefix text,
  account_id uuid,
  scopes jsonb,
  expires_at timestamptz,
  created_at timestamptz
);
select audiencelab_private.apply_type('create_api_key_response');
comment on type public.create_api_key_response is 'A new API key. The key itself appears only here.';

create type audiencelab_desired.authenticate_api_key_response as (
  valid boolean,
  code text,
  api_key_id uuid,
  account_id uuid,
  name text,
  scopes jsonb,
  expires_at timestamptz,
  created_by uuid,
  metadata jsonb,
  ip_restricted boolean
);
select audiencelab_private.apply_type('authenticate_api_key_response');
comment on type public.authenticate_api_key_response is
  'The result of authenticate_api_key: whether an API key is valid, why not, and what is known of the key.';

create type audiencelab_desired.verify_api_key_response as (
  valid boolean,
  api_key_id uuid,
  account_id uuid,
  error text
);
select audiencelab_private.apply_type('verify_api_key_response');
comment on type public.verify_api_key_response is
  'The result of verify_api_key: the id and account of a valid API key, or an error.';

create or replace function api_keys_private.require_scopes(p_scopes jsonb)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  c_fields constant text[] := array['entity_type', 'entity_id', 'action'];
  v_scope jsonb;
  v_index bigint;
  v_name text;
begin
  if jsonb_typeof(p_scopes) is distinct from 'array' then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('scopes must be an array, not %s', coalesce(jsonb_typeof(p_scopes), 'null'));
  end if;

  for v_scope, v_index in
    select element.value, element.ordinality - 1
    from jsonb_array_elements(p_scopes) with ordinality as element (value, ordinality)
  loop
    if jsonb_typeof(v_scope) <> 'object' then
      raise exception using
        errcode = 'invalid_parameter_value',
        message = format('scopes[%s] must be an object, not %s', v_index, jsonb_typeof(v_scope)),
        hint = 'A scope is {"entity_type": "segment", "entity_id": "*", "action": "read"}.';
    end if;

    foreach v_name in array c_fields loop
      if jsonb_typeof(v_scope -> v_name) is distinct from 'string' or btrim(v_scope ->> v_name) = '' then
        raise exception using
          errcode = 'invalid_parameter_value',
          message = format('scopes[%s].%s must be a non-empty string', v_index, v_name),
          hint = 'Use "*" to match any value.';
      end if;
    end loop;

    for v_name in
      select key from jsonb_object_keys(v_scope) as key where key <> all (c_fields)
    loop
      raise exception using
        errcode = 'invalid_parameter_value',
        message = format('scopes[%s] has an unknown field %s', v_index, to_jsonb(v_name)),
        hint = 'A scope has exactly entity_type, entity_id and action.';
    end loop;
  end loop;
end;
$$;
comment on function api_keys_private.require_scopes(jsonb) is
  'Raises 22023 unless p_scopes is an array of objects with exactly entity_type, entity_id and action, none of them blank.';
select audiencelab_private.revoke_privileges('api_keys_private', '{require_scopes}');

create or replace function api_keys_private.base62(p_digit integer)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select substr('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789', p_digit + 1, 1);
$$;
comment on function api_keys_private.base62(integer) is
  'Returns the character for a digit from 0 to 61: A-Z, a-z, 0-9.';
select audiencelab_private.revoke_privileges('api_keys_private', '{base62}');

create or replace function api_keys_private.random_base62(p_length integer)
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_text text := '';
  v_bytes bytea;
  v_byte integer;
begin
  while length(v_text) < p_length loop
    v_bytes := extensions.gen_random_bytes(64);
    for v_position in 0..63 loop
      v_byte := get_byte(v_bytes, v_position);
      -- 248 is 4 * 62. Larger bytes would make the first eight characters more likely than the others.
      if v_byte < 248 then
        v_text := v_text || api_keys_private.base62(v_byte % 62);
      end if;
    end loop;
  end loop;
  return left(v_text, p_length);
end;
$$;
comment on function api_keys_private.random_base62(integer) is
  'Returns p_length random characters from A-Z, a-z and 0-9, uniformly distributed.';
select audiencelab_private.revoke_privileges('api_keys_private', '{random_base62}');

create or replace function api_keys_private.crc32(p_bytes bytea)
returns bigint
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_crc bigint := x'ffffffff'::bigint;
begin
  for v_position in 0..length(p_bytes) - 1 loop
    v_crc := v_crc # get_byte(p_bytes, v_position);
    for v_bit in 1..8 loop
      v_crc := (v_crc >> 1) # ((v_crc & 1) * x'edb88320'::bigint);
    end loop;
  end loop;
  return v_crc # x'ffffffff'::bigint;
end;
$$;
comment on function api_keys_private.crc32(bytea) is 'Returns the CRC-32 of the bytes, as in zip and PNG.';
select audiencelab_private.revoke_privileges('api_keys_private', '{crc32}');

create or replace function api_keys_private.generate_api_key()
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_key text := 'sk_' || api_keys_private.random_base62(40);
  v_checksum bigint := api_keys_private.crc32(convert_to(v_key, 'UTF8'));
begin
  -- The checksum, most significant digit first, lets clients detect mistyped keys without a request.
  for v_exponent in reverse 5..0 loop
    v_key := v_key || api_keys_private.base62((v_checksum / (62 ^ v_exponent)::bigint % 62)::integer);
  end loop;
  return v_key;
end;
$$;
comment on function api_keys_private.generate_api_key() is
  'Returns a new API key: sk_, 40 random characters, and the CRC-32 of both in 6 characters.';
select audiencelab_private.revoke_privileges('api_keys_private', '{generate_api_key}');

-- CREATE OR REPLACE cannot change the result type or the names of parameters, and an overload would make calls with named
-- arguments ambiguous.
select audiencelab_private.prepare_functions(
  'create_api_key(p_account_id uuid, p_name text, p_scopes jsonb,
     p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone)
   returns public.create_api_key_response',
  'issue_api_key(p_account_id uuid, p_created_by uuid, p_name text, p_scopes jsonb,
     p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone)
   returns public.create_api_key_response',
  'list_api_keys(p_account_id uuid)
   returns TABLE(id uuid, name text, key_prefix text, scopes jsonb, expires_at timestamp with time zone,
     created_at timestamp with time zone, last_used_at timestamp with time zone, is_active boolean, created_by uuid)',
  'revoke_api_key(p_api_key_id uuid) returns boolean',
  'revoke_api_keys_of(p_user_id uuid, p_account_id uuid DEFAULT NULL::uuid) returns integer',
  'authenticate_api_key(p_api_key text, p_ip inet DEFAULT NULL::inet) returns public.authenticate_api_key_response',
  'verify_api_key(p_api_key text) returns public.verify_api_key_response',
  'has_scope(p_entity_type text, p_entity_id text, p_action text) returns boolean',
  'get_api_key_account_id() returns uuid'
);

create or replace function api_keys_private.require_manager(p_account_id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  c_role constant varchar := (select settings.manage_keys_role from api_keys_private.settings);
begin
  perform audiencelab_private.require_member(p_account_id);
  if c_role is not null and not audiencelab_private.is_member(p_account_id, c_role) then
    raise exception using
      errcode = 'insufficient_privilege',
      message = format('only members with the account role %s may manage the API keys of the account', c_role);
  end if;
end;
$$;
comment on function api_keys_private.require_manager(uuid) is
  'Raises 42501 unless the caller is a member of the account, with the account role settings.manage_keys_role if it is set.';
select audiencelab_private.revoke_privileges('api_keys_private', '{require_manager}');

create or replace function api_keys_private.may_read(p_account_id uuid)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select audiencelab_private.is_service() or audiencelab_private.is_member(p_account_id);
$$;
comment on function api_keys_private.may_read(uuid) is
  'Returns whether the caller is a member of the account or service_role. Never returns null.';
select audiencelab_private.revoke_privileges('api_keys_private', '{may_read}');

create or replace function api_keys_private.require_name(p_name text)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_name is null or btrim(p_name) = '' then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the name of an API key must not be blank';
  end if;
end;
$$;
comment on function api_keys_private.require_name(text) is 'Raises 22023 if the name of an API key is null or blank.';
select audiencelab_private.revoke_privileges('api_keys_private', '{require_name}');

create or replace function api_keys_private.require_expiry(p_expires_at timestamptz)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_expires_at <= now() or not isfinite(p_expires_at) then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('the expiry of an API key must be a finite time in the future, not %s', p_expires_at);
  end if;
end;
$$;
comment on function api_keys_private.require_expiry(timestamptz) is
  'Raises 22023 unless the expiry of an API key is null or a finite time in the future.';
select audiencelab_private.revoke_privileges('api_keys_private', '{require_expiry}');

create or replace function api_keys_private.require_room(p_account_id uuid)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  c_max_live_keys constant integer := 1000;
begin
  -- Serializes concurrent calls for the account, so that each call counts the keys of the others.
  perform pg_advisory_xact_lock(hashtextextended('audiencelab keys ' || p_account_id, 0));
  -- Disabled keys are counted, because they can be enabled.
  if (
    select count(*)
    from api_keys_private.api_keys as api_key
    where api_key.account_id = p_account_id
      and api_key.is_active
      and (api_key.expires_at is null or api_key.expires_at > now())
  ) >= c_max_live_keys then
    raise exception using
      errcode = 'PT409',
      message = format('the account has %s live API keys, which is the maximum', c_max_live_keys),
      hint = 'Revoke an API key that is no longer used.';
  end if;
end;
$$;
comment on function api_keys_private.require_room(uuid) is
  'Raises PT409 if the account has the maximum number of API keys that are neither revoked nor expired. Locks the account for'
  ' other calls until the transaction ends.';
select audiencelab_private.revoke_privileges('api_keys_private', '{require_room}');

create or replace function api_keys_private.store_api_key(
  p_account_id uuid,
  p_created_by uuid,
  p_name text,
  p_scopes jsonb,
  p_expires_at timestamptz,
  p_metadata jsonb default '{}',
  p_allowed_ips cidr[] default null
)
returns public.create_api_key_response
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  c_key constant text := api_keys_private.generate_api_key();
  v_row api_keys_private.api_keys;
begin
  insert into api_keys_private.api_keys (
    account_id, name, key_prefix, key_hash, scopes, expires_at, created_by, metadata, allowed_ips
  )
  values (
    p_account_id,
    p_name,
    left(c_key, 7),
    encode(sha256(convert_to(c_key, 'UTF8')), 'hex'),
    p_scopes,
    p_expires_at,
    p_created_by,
    p_metadata,
    p_allowed_ips
  )
  returning * into v_row;

  return row(
    v_row.id,
    v_row.name,
    c_key,
    v_row.key_prefix,
    v_row.account_id,
    v_row.scopes,
    v_row.expires_at,
    v_row.created_at
  )::public.create_api_key_response;
end;
$$;
comment on function api_keys_private.store_api_key(uuid, uuid, text, jsonb, timestamptz, jsonb, cidr[]) is
  'Generates an API key, stores its hash with these columns, and returns the key. Checks only the limits of the columns.';
select audiencelab_private.revoke_privileges('api_keys_private', '{store_api_key}');

create or replace function api_keys_private.add_api_key(
  p_account_id uuid,
  p_created_by uuid,
  p_name text,
  p_scopes jsonb,
  p_expires_at timestamptz
)
returns public.create_api_key_response
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  perform api_keys_private.require_name(p_name);
  perform api_keys_private.require_scopes(p_scopes);
  perform api_keys_private.require_expiry(p_expires_at);
  perform api_keys_private.require_room(p_account_id);
  return api_keys_private.store_api_key(p_account_id, p_created_by, p_name, p_scopes, p_expires_at);
end;
$$;
comment on function api_keys_private.add_api_key(uuid, uuid, text, jsonb, timestamptz) is
  'Adds an API key to an account, and returns it. Raises 22023 for an invalid argument and PT409 if the account has the'
  ' maximum number of keys.';
select audiencelab_private.revoke_privileges('api_keys_private', '{add_api_key}');

create or replace function public.create_api_key(
  p_account_id uuid,
  p_name text,
  p_scopes jsonb,
  p_expires_at timestamptz default null
)
returns public.create_api_key_response
language plpgsql
volatile
-- Definer: callers have no access to the table. The function checks membership itself.
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform api_keys_private.require_manager(p_account_id);
  return api_keys_private.add_api_key(p_account_id, audiencelab_private.caller_id(), p_name, p_scopes, p_expires_at);
end;
$$;
comment on function public.create_api_key(uuid, text, jsonb, timestamptz) is
$$Creates an API key for an account. The result contains the key itself, which is not stored and cannot be read again.

Callers: authenticated, as a member of the account who may manage its API keys.

- p_account_id: the account that the key acts for.
- p_name: not blank, at most 255 characters.
- p_scopes: an array of at most 100 objects {"entity_type", "entity_id", "action"}. Each value is a string that is not blank
  and has at most 255 characters; "*" matches any value.
- p_expires_at: a time in the future, before the year 10000. Null, the default, means that the key does not expire.

Errors: 42501 if the account does not exist or the caller may not manage its API keys; 22023 for an invalid argument; 23514
for a value that exceeds a limit; PT409 (HTTP 409) if the account has 1,000 API keys that are neither revoked nor expired.$$;
select audiencelab_private.revoke_privileges('public', '{create_api_key}');
grant execute on function public.create_api_key(uuid, text, jsonb, timestamptz) to authenticated;

create or replace function public.issue_api_key(
  p_account_id uuid,
  p_created_by uuid,
  p_name text,
  p_scopes jsonb,
  p_expires_at timestamptz default null
)
returns public.create_api_key_response
language plpgsql
volatile
-- Definer: the owner has the privileges on the table and on the functions above. Only service_role may call it.
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (
    select from public.accounts_memberships as membership
    where membership.account_id = p_account_id and membership.user_id = p_created_by
  ) then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the account does not exist, or the creator of the API key is not a member of it';
  end if;
  return api_keys_private.add_api_key(p_account_id, p_created_by, p_name, p_scopes, p_expires_at);
end;
$$;
comment on function public.issue_api_key(uuid, uuid, text, jsonb, timestamptz) is
$$Creates an API key on behalf of a member of an account, as create_api_key does. The setting manage_keys_role does not apply.

Callers: service_role.

- p_account_id: the account that the key acts for.
- p_created_by: the user who becomes the creator of the key, a member of the account.
- p_name, p_scopes, p_expires_at: as in create_api_key.

Errors: 22023 for an invalid argument, such as a creator who is not a member of the account; 23514 for a value that exceeds a
limit; PT409 (HTTP 409) if the account has 1,000 API keys that are neither revoked nor expired.$$;
select audiencelab_private.revoke_privileges('public', '{issue_api_key}');
grant execute on function public.issue_api_key(uuid, uuid, text, jsonb, timestamptz) to service_role;

create or replace function public.list_api_keys(p_account_id uuid)
returns table (
  id uuid,
  name text,
  key_prefix text,
  scopes jsonb,
  expires_at timestamptz,
  created_at timestamptz,
  last_used_at timestamptz,
  is_active boolean,
  created_by uuid
)
language plpgsql
stable
-- Definer: callers have no access to the table. The function checks membership itself, except for service_role.
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if not audiencelab_private.is_service() then
    perform audiencelab_private.require_member(p_account_id);
  end if;
  return query
    select
      api_key.id,
      api_key.name,
      api_key.key_prefix::text,
      api_key.scopes,
      api_key.expires_at,
      api_key.created_at,
      api_key.last_used_at,
      api_key.is_active,
      api_key.created_by
    from api_keys_private.api_keys as api_key
    where api_key.account_id = p_account_id
    order by api_key.created_at desc, api_key.id desc;
end;
$$;
comment on function public.list_api_keys(uuid) is
$$Returns all API keys of an account, newest first. The result contains neither the keys themselves nor their hashes.

Callers: service_role; authenticated, as a member of the account.

Errors: 42501 if a user calls it and the account does not exist or the user is not a member of it.$$;
select audiencelab_private.revoke_privileges('public', '{list_api_keys}');
grant execute on function public.list_api_keys(uuid) to authenticated, service_role;

create or replace function public.revoke_api_key(p_api_key_id uuid)
returns boolean
language plpgsql
volatile
-- Definer: callers have no access to the table. The function checks membership itself, except for service_role.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  c_account_id constant uuid := (
    select api_key.account_id from api_keys_private.api_keys as api_key where api_key.id = p_api_key_id
  );
begin
  if c_account_id is null or not api_keys_private.may_read(c_account_id) then
    raise exception using
      errcode = 'insufficient_privilege',
      message = 'the API key does not exist, or you are not a member of its account';
  end if;
  if not audiencelab_private.is_service() then
    perform api_keys_private.require_manager(c_account_id);
  end if;
  update api_keys_private.api_keys as api_key set is_active = false where api_key.id = p_api_key_id;
  return true;
end;
$$;
comment on function public.revoke_api_key(uuid) is
$$Revokes an API key permanently and returns true. A repeated call has no effect.

Callers: service_role; authenticated, as a member of the account of the key who may manage its API keys.

Errors: 42501 if the API key does not exist or the caller may not manage it.$$;
select audiencelab_private.revoke_privileges('public', '{revoke_api_key}');
grant execute on function public.revoke_api_key(uuid) to authenticated, service_role;

create or replace function public.revoke_api_keys_of(p_user_id uuid, p_account_id uuid default null)
returns integer
language plpgsql
volatile
-- Definer: callers have no access to the table. The function checks membership itself, except for service_role.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_live integer;
begin
  if p_user_id is null then
    raise exception using errcode = 'invalid_parameter_value', message = 'the user id must not be null';
  end if;
  if not audiencelab_private.is_service() then
    if p_account_id is null then
      raise exception using
        errcode = 'insufficient_privilege',
        message = 'only service_role may revoke API keys in all accounts',
        hint = 'Pass the id of an account as p_account_id.';
    end if;
    perform api_keys_private.require_manager(p_account_id);
  end if;

  -- Expired and disabled keys are also revoked, because they could become live again, but not counted.
  with revoked as (
    update api_keys_private.api_keys as api_key
    set is_active = false
    where api_key.created_by = p_user_id
      and api_key.is_active
      and (p_account_id is null or api_key.account_id = p_account_id)
    returning api_key.id
  )
  -- The whole statement reads one snapshot, in which the revoked keys are still live.
  select count(*)::integer into v_live
  from revoked
  join api_keys_private.live_api_keys as live on live.id = revoked.id;
  return v_live;
end;
$$;
comment on function public.revoke_api_keys_of(uuid, uuid) is
$$Revokes all API keys that a user created, in one account or in all accounts. Returns the number of keys that were live.

Callers: service_role; authenticated, as a member of the account who may manage its API keys.

- p_user_id: the user who created the keys.
- p_account_id: the account whose keys are revoked. Null, the default, means all accounts and requires service_role.

Errors: 22023 if p_user_id is null; 42501 if the account does not exist or the caller may not manage its API keys.$$;
select audiencelab_private.revoke_privileges('public', '{revoke_api_keys_of}');
grant execute on function public.revoke_api_keys_of(uuid, uuid) to authenticated, service_role;

-- A comparison with a bcrypt hash takes 0.2 s of CPU, and an invalid key costs one if it has the prefix of a key that is
-- hashed with bcrypt. The failed comparisons of each prefix are therefore counted, in periods of 30 seconds. After six of
-- them, a key is compared only in one slot of two seconds, which its hash determines, and only one key is compared in a
-- slot. Keys sent at random times mostly miss their slots. The owner of a valid key receives the time until its slot as
-- Retry-After.
create or replace function api_keys_private.admit_comparison(p_key_prefix text, p_key_hash text)
returns bigint
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  c_slot_seconds constant integer := 2;
  c_period_slots constant integer := 15;
  c_unlimited_comparisons constant integer := 6;
  -- In slots since 1970.
  c_now constant numeric := extract(epoch from clock_timestamp()) / c_slot_seconds;
  c_current_slot constant bigint := floor(c_now)::bigint;
  -- Relative to the start of a period: 0 to 14.
  c_key_slot constant bigint :=
    mod(mod(hashtextextended(p_key_hash, 0), c_period_slots) + c_period_slots, c_period_slots);
  -- Relative to the current slot: 0 to 14.
  c_distance constant bigint := mod(c_key_slot + c_period_slots - mod(c_current_slot, c_period_slots), c_period_slots);
  v_comparisons integer;
  v_used_slot bigint;
  v_seconds integer;
begin
  select failed.comparisons, failed.slot
  into v_comparisons, v_used_slot
  from api_keys_private.failed_comparisons as failed
  where failed.key_prefix = p_key_prefix and failed.period = c_current_slot / c_period_slots;
  if not found or v_comparisons < c_unlimited_comparisons then
    return null;
  end if;
  if c_distance = 0 and v_used_slot is distinct from c_current_slot then
    return c_current_slot;
  end if;

  v_seconds := ceil(
    (c_current_slot + coalesce(nullif(c_distance, 0), c_period_slots) - c_now) * c_slot_seconds
  )::integer;
  -- SQLSTATE PGRST, because PTnnn cannot set response headers.
  raise exception using
    errcode = 'PGRST',
    message = json_build_object(
      'code', 'PT429',
      'message', 'too many invalid API keys with this prefix: the API key was not verified',
      'hint', format('Retry after %s seconds.', v_seconds)
    ),
    detail = json_build_object('status', 429, 'headers', json_build_object('Retry-After', v_seconds::text));
end;
$$;
comment on function api_keys_private.admit_comparison(text, text) is
  'Admits a key to comparisons with bcrypt hashes: returns null, or the slot that the key uses if the prefix has reached the'
  ' limit. Otherwise raises PGRST, which is HTTP 429 with Retry-After in seconds.';
select audiencelab_private.revoke_privileges('api_keys_private', '{admit_comparison}');

create or replace function api_keys_private.count_failed_comparisons(
  p_key_prefix text,
  p_comparisons integer,
  p_slot bigint
)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  insert into api_keys_private.failed_comparisons as failed (key_prefix, period, comparisons, slot)
  values (p_key_prefix, floor(extract(epoch from clock_timestamp()) / 30)::bigint, p_comparisons, p_slot)
  on conflict (key_prefix) do update
  set
    comparisons = excluded.comparisons + case failed.period when excluded.period then failed.comparisons else 0 end,
    period = excluded.period,
    slot = coalesce(excluded.slot, failed.slot);
$$;
comment on function api_keys_private.count_failed_comparisons(text, integer, bigint) is
  'Adds failed comparisons with bcrypt hashes to the count of a prefix. p_slot is the result of admit_comparison.';
select audiencelab_private.revoke_privileges('api_keys_private', '{count_failed_comparisons}');

create or replace function api_keys_private.require_live_caller()
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if public.get_api_key_account_id() is null then
    raise exception using
      errcode = 'insufficient_privilege',
      message = 'the API key that the request runs as is revoked, disabled or expired';
  end if;
end;
$$;
comment on function api_keys_private.require_live_caller() is
  'Raises 42501 if the API key that the request runs as is revoked, disabled or expired.';
select audiencelab_private.revoke_privileges('api_keys_private', '{require_live_caller}');

create or replace function api_keys_private.without_mapping(p_address inet)
returns inet
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_address <<= '::ffff:0.0.0.0/96'
    then set_masklen('0.0.0.0'::inet + (p_address - '::ffff:0.0.0.0'::inet), masklen(p_address) - 96)
    else p_address
  end;
$$;
comment on function api_keys_private.without_mapping(inet) is
  'Returns an IPv4-mapped IPv6 address or network, such as ::ffff:192.0.2.1, as IPv4, and any other unchanged.';
select audiencelab_private.revoke_privileges('api_keys_private', '{without_mapping}');

create or replace function api_keys_private.rehash_api_key(p_api_key text, p_hash text)
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_candidate record;
  v_comparisons integer := 0;
  v_slot bigint;
begin
  -- Keys hashed with bcrypt have at most 43 characters after sk_, and newer keys 46. So only a text with the prefix of an
  -- older key costs comparisons with bcrypt, and a valid key costs them once.
  if p_api_key is null or p_api_key !~ '^sk_[A-Za-z0-9]{4,43}$' then
    return null;
  end if;

  for v_candidate in
    select api_key.id, api_key.key_hash
    from api_keys_private.live_api_keys as api_key
    where (api_key.key_prefix = left(p_api_key, 7) and api_key.key_hash like '$2a$%')
      -- A concurrent call may have re-hashed the key since the caller looked it up.
      or api_key.key_hash = p_hash
    order by api_key.key_hash <> p_hash
  loop
    if v_candidate.key_hash = p_hash then
      return v_candidate.id;
    end if;
    if v_comparisons = 0 then
      v_slot := api_keys_private.admit_comparison(left(p_api_key, 7), p_hash);
    end if;
    v_comparisons := v_comparisons + 1;
    if extensions.crypt(p_api_key, v_candidate.key_hash) = v_candidate.key_hash then
      update api_keys_private.api_keys as api_key
      set key_hash = p_hash
      where api_key.id = v_candidate.id and api_key.key_hash <> p_hash;
      return v_candidate.id;
    end if;
  end loop;

  if v_comparisons > 0 then
    perform api_keys_private.count_failed_comparisons(left(p_api_key, 7), v_comparisons, v_slot);
  end if;
  return null;
end;
$$;
comment on function api_keys_private.rehash_api_key(text, text) is
  'Compares a key with the bcrypt hashes of the live keys with its prefix. Re-hashes the key that matches with SHA-256,'
  ' which is p_hash, and returns its id. Returns null if none matches.';
select audiencelab_private.revoke_privileges('api_keys_private', '{rehash_api_key}');

create or replace function public.authenticate_api_key(p_api_key text, p_ip inet default null)
returns public.authenticate_api_key_response
language plpgsql
volatile
-- Definer: the owner has the privileges on the table and on the functions above. Only service_role may call it.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  c_hash constant text := encode(sha256(convert_to(p_api_key, 'UTF8')), 'hex');
  c_malformed constant jsonpath := jsonpath '$[*] ? (!(
    @.type() == "object"
    && @.entity_type.type() == "string" && @.entity_id.type() == "string" && @.action.type() == "string"
  ))';
  v_id uuid;
  v_key api_keys_private.api_keys;
  v_code text;
  v_valid boolean;
  v_scopes jsonb;
begin
  select * into v_key from api_keys_private.api_keys as api_key where api_key.key_hash = c_hash;
  if not found then
    v_id := api_keys_private.rehash_api_key(p_api_key, c_hash);
    select * into v_key from api_keys_private.api_keys as api_key where api_key.id = v_id;
  end if;

  -- A key is live in live_api_keys if none of the first four codes applies.
  v_code := case
    when v_key.id is null then 'not_found'
    when not v_key.is_active then 'revoked'
    when v_key.disabled_at is not null then 'disabled'
    when v_key.expires_at <= now() then 'expired'
    when v_key.allowed_ips is null then 'valid'
    when api_keys_private.without_mapping(p_ip) <<= any (v_key.allowed_ips) then 'valid'
    else 'ip_not_allowed'
  end;
  v_valid := v_code = 'valid';
  if v_valid and jsonb_typeof(v_key.scopes) = 'array' and not v_key.scopes @? c_malformed then
    v_scopes := v_key.scopes;
  elsif v_valid then
    -- Older keys may have malformed scopes. They are read as has_scope does: as strings, or not at all.
    v_scopes := (
      select
        coalesce(
          jsonb_agg(
            jsonb_build_object(
              'entity_type', scope.value ->> 'entity_type',
              'entity_id', scope.value ->> 'entity_id',
              'action', scope.value ->> 'action'
            )
            order by scope.ordinality
          ),
          '[]'
        )
      from jsonb_array_elements(case jsonb_typeof(v_key.scopes) when 'array' then v_key.scopes else '[]' end)
        with ordinality as scope (value, ordinality)
      where scope.value ->> 'entity_type' is not null
        and scope.value ->> 'entity_id' is not null
        and scope.value ->> 'action' is not null
    );
  end if;
  return row(
    v_valid,
    v_code,
    v_key.id,
    v_key.account_id,
    v_key.name,
    v_scopes,
    v_key.expires_at,
    v_key.created_by,
    case when v_valid then v_key.metadata end,
    case when v_key.id is not null then v_key.allowed_ips is not null end
  )::public.authenticate_api_key_response;
end;
$$;
comment on function public.authenticate_api_key(text, inet) is
$$Returns whether a text is an API key that may be used from an address, whose key it is and what it may do, in one call.
A valid key that is hashed with bcrypt is re-hashed with SHA-256.

Callers: service_role.

- p_api_key: the text that a client sent as its key.
- p_ip: the address of the client. Null, the default, is in no network, so that keys with allowed_ips are not valid.

The code in the result is the first of these that applies:
- not_found: no API key has this text. All other fields are null. Keys that are still hashed with bcrypt and are revoked,
  disabled or expired are not found either.
- revoked, disabled, expired: the key cannot be used.
- ip_not_allowed: the key has allowed_ips, and the address is in none of them. An IPv4-mapped IPv6 address counts as IPv4.
- valid: the key can be used. Only then are scopes and metadata not null. Scopes that has_scope ignores are omitted.

Errors: PGRST (HTTP 429 with Retry-After in seconds) after too many invalid keys with the prefix of a key that is hashed with
bcrypt.$$;
select audiencelab_private.revoke_privileges('public', '{authenticate_api_key}');
grant execute on function public.authenticate_api_key(text, inet) to service_role;

create or replace function public.verify_api_key(p_api_key text)
returns public.verify_api_key_response
language plpgsql
volatile
-- Definer: callers have no access to the table. The result reveals nothing about other keys than the one passed.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  c_hash constant text := encode(sha256(convert_to(p_api_key, 'UTF8')), 'hex');
  v_id uuid;
  v_account_id uuid;
begin
  if current_setting('role') = 'api_key' then
    perform api_keys_private.require_live_caller();
  end if;

  select api_key.id, api_key.account_id
  into v_id, v_account_id
  from api_keys_private.live_api_keys as api_key
  where api_key.key_hash = c_hash and api_key.allowed_ips is null;
  if not found then
    v_id := api_keys_private.rehash_api_key(p_api_key, c_hash);
    select api_key.account_id
    into v_account_id
    from api_keys_private.live_api_keys as api_key
    where api_key.id = v_id and api_key.allowed_ips is null;
    if not found then
      return row(false, null::uuid, null::uuid, 'Invalid API key'::text)::public.verify_api_key_response;
    end if;
  end if;

  return row(true, v_id, v_account_id, null::text)::public.verify_api_key_response;
end;
$$;
comment on function public.verify_api_key(text) is
$$Returns whether a text is a live API key, with the id and the account of the key. For unknown, revoked, disabled and expired
keys alike, and for keys with allowed_ips, valid is false and error is 'Invalid API key'. A valid key that is hashed with
bcrypt is re-hashed with SHA-256. authenticate_api_key says why a key is not valid and what a valid key may do.

Callers: service_role; api_key, as a live API key.

Errors: 42501 if the caller is a revoked, disabled or expired API key; PGRST (HTTP 429 with Retry-After in seconds) after too
many invalid keys with the prefix of a key that is hashed with bcrypt.$$;
select audiencelab_private.revoke_privileges('public', '{verify_api_key}');
grant execute on function public.verify_api_key(text) to service_role, api_key;

create or replace function public.has_scope(p_entity_type text, p_entity_id text, p_action text)
returns boolean
language sql
stable
-- Definer: callers have no access to the table. The function reads the key that the request runs as, and no other.
security definer
set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from api_keys_private.live_api_keys as api_key
    cross join lateral jsonb_array_elements(
      case jsonb_typeof(api_key.scopes) when 'array' then api_key.scopes else '[]' end
    ) as scope (value)
    where api_key.id = (select audiencelab_private.caller_id())
      and p_entity_type is not null
      and p_entity_id is not null
      and p_action is not null
      and scope.value ->> 'entity_type' in (p_entity_type, '*')
      and scope.value ->> 'entity_id' in (p_entity_id, '*')
      and scope.value ->> 'action' in (p_action, '*')
  );
$$;
comment on function public.has_scope(text, text, text) is
$$Returns whether the API key that the request runs as has a scope for the action on the entity. Returns false if the key is
revoked, disabled or expired, or if an argument is null.

Callers: api_key.$$;
select audiencelab_private.revoke_privileges('public', '{has_scope}');
grant execute on function public.has_scope(text, text, text) to api_key;

create or replace function public.get_api_key_account_id()
returns uuid
language sql
stable
-- Definer: callers have no access to the table. The function reads the key that the request runs as, and no other.
security definer
set search_path = pg_catalog, pg_temp
as $$
  select api_key.account_id
  from api_keys_private.live_api_keys as api_key
  where api_key.id = (select audiencelab_private.caller_id());
$$;
comment on function public.get_api_key_account_id() is
$$Returns the account of the API key that the request runs as. Returns null if the key is revoked, disabled or expired.

Callers: api_key.$$;
select audiencelab_private.revoke_privileges('public', '{get_api_key_account_id}');
grant execute on function public.get_api_key_account_id() to api_key;

create or replace function api_keys_private.scoped_entity_ids(p_entity_type text, p_actions text[])
returns setof uuid
language sql
stable
-- Definer: callers have no access to the table. The function reads the key that the request runs as, and no other.
security definer
set search_path = pg_catalog, pg_temp
as $$
  select
    -- CASE guarantees that the text is checked before the cast.
    case
      when scope.value ->> 'entity_id' ~ '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$'
      then (scope.value ->> 'entity_id')::uuid
    end
  from api_keys_private.live_api_keys as api_key
  cross join lateral jsonb_array_elements(
    case jsonb_typeof(api_key.scopes) when 'array' then api_key.scopes else '[]' end
  ) as scope (value)
  where api_key.id = (select audiencelab_private.caller_id())
    and scope.value ->> 'entity_type' in (p_entity_type, '*')
    and scope.value ->> 'action' = any (p_actions || '*'::text);
$$;
comment on function api_keys_private.scoped_entity_ids(text, text[]) is
  'Returns the entity ids in the scopes of the API key that the request runs as, for an entity type and any of the actions.'
  ' Wildcards and ids that are not UUIDs are returned as null. Used by policies.';
select audiencelab_private.revoke_privileges('api_keys_private', '{scoped_entity_ids}');
-- Only policies can call it, because api_key has no usage of the schema.
grant execute on function api_keys_private.scoped_entity_ids(text, text[]) to api_key;

create or replace function api_keys_private.has_scope_on_all(p_entity_type text, p_actions text[])
returns boolean
language sql
stable
-- Invoker: the caller may execute has_scope.
security invoker
set search_path = pg_catalog, pg_temp
as $$
  select bool_or(public.has_scope(p_entity_type, '*', action)) from unnest(p_actions) as action;
$$;
comment on function api_keys_private.has_scope_on_all(text, text[]) is
  'Returns whether the API key that the request runs as has a scope for any of the actions on all entities of a type. Used'
  ' by policies.';
select audiencelab_private.revoke_privileges('api_keys_private', '{has_scope_on_all}');
-- Only policies can call it, because api_key has no usage of the schema.
grant execute on function api_keys_private.has_scope_on_all(text, text[]) to api_key;

create or replace function api_keys_private.caller_may_write(p_entity_type text, p_account_id uuid, p_id uuid default null)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    p_account_id = public.get_api_key_account_id()
      and (
        api_keys_private.has_scope_on_all(p_entity_type, '{write}')
        or p_id in (select api_keys_private.scoped_entity_ids(p_entity_type, '{write}'))
      ),
    false
  );
$$;
comment on function api_keys_private.caller_may_write(text, uuid, uuid) is
  'Returns whether the API key that the request runs as belongs to the account and has a scope for writing the entity, or all'
  ' entities of the type if the id is null. Never returns null.';
select audiencelab_private.revoke_privileges('api_keys_private', '{caller_may_write}');

create or replace function api_keys_private.caller_creator_id()
returns uuid
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_creator_id uuid;
begin
  select api_key.created_by
  into v_creator_id
  from api_keys_private.api_keys as api_key
  join api_keys_private.live_api_keys as live on live.id = api_key.id
  where api_key.id = audiencelab_private.caller_id();
  if found and not exists (select from auth.users as creator where creator.id = v_creator_id) then
    raise exception using
      errcode = 'PT409',
      message = 'the API key cannot create rows, because the user who created the API key no longer exists',
      hint = 'Create another API key.';
  end if;
  return v_creator_id;
end;
$$;
comment on function api_keys_private.caller_creator_id() is
  'Returns the user who created the API key that the request runs as, or null if the key is not live. Raises PT409 if the user'
  ' no longer exists.';
select audiencelab_private.revoke_privileges('api_keys_private', '{caller_creator_id}');

drop schema audiencelab_desired cascade;

-- Foreign keys come last, because adding one locks the referenced table until the transaction ends.
select audiencelab_private.apply_foreign_keys('api_keys_private.settings', '{
  "settings_manage_keys_role_fkey":
    "FOREIGN KEY (manage_keys_role) REFERENCES public.roles(name) ON UPDATE CASCADE"
}');
-- NOT VALID, because older databases contain keys of deleted accounts. These rows are kept.
select audiencelab_private.apply_foreign_keys('api_keys_private.api_keys', '{
  "api_keys_account_id_fkey": "FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE NOT VALID"
}');

-- Deactivates the keys of deleted accounts. This follows the foreign key, so that no account is deleted in between.
update api_keys_private.api_keys as api_key
set is_active = false
where api_key.is_active
  and not exists (select from public.accounts as account where account.id = api_key.account_id);

notify pgrst, 'reload schema';


-- 20261122000210_api_key_life_cycle.sql

do $requirements$
begin
  if to_regprocedure('api_keys_private.may_read(uuid)') is null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: apply 20261122000200_api_keys.sql first';
  end if;
end;
$requirements$;
select audiencelab_private.require_ownership(
  'public', '{get_api_key,update_api_key,disable_api_key,enable_api_key,rotate_api_key,list_api_key_events}'
);

-- The type is created in this schema, then applied to that of the database.
create schema audiencelab_desired;

create type audiencelab_desired.api_key_response as (
  id uuid,
  account_id uuid,
  name text,
  key_prefix text,
  scopes jsonb,
  expires_at timestamptz,
  created_at timestamptz,
  created_by uuid,
  last_used_at timestamptz,
  is_active boolean,
  disabled_at timestamptz,
  metadata jsonb,
  allowed_ips cidr[],
  successor_id uuid
);
select audiencelab_private.apply_type('api_key_response');
comment on type public.api_key_response is
  'An API key, without the key itself and its hash. is_active is false after it was revoked, disabled_at is null unless it is'
  ' disabled, and successor_id is the key that replaces it, if it was rotated.';

drop schema audiencelab_desired cascade;

create or replace function api_keys_private.to_response(p_key api_keys_private.api_keys)
returns public.api_key_response
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select row(
    p_key.id,
    p_key.account_id,
    p_key.name,
    p_key.key_prefix,
    p_key.scopes,
    p_key.expires_at,
    p_key.created_at,
    p_key.created_by,
    p_key.last_used_at,
    p_key.is_active,
    p_key.disabled_at,
    p_key.metadata,
    p_key.allowed_ips,
    p_key.successor_id
  )::public.api_key_response;
$$;
comment on function api_keys_private.to_response(api_keys_private.api_keys) is
  'Returns a row of api_keys without the hash of the key.';
select audiencelab_private.revoke_privileges('api_keys_private', '{to_response}');

create or replace function api_keys_private.find_api_key(p_api_key_id uuid)
returns api_keys_private.api_keys
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_key api_keys_private.api_keys;
begin
  select * into v_key from api_keys_private.api_keys as api_key where api_key.id = p_api_key_id;
  if not found or not api_keys_private.may_read(v_key.account_id) then
    raise exception using
      errcode = 'PT404',
      message = 'the API key does not exist, or you are not a member of its account';
  end if;
  return v_key;
end;
$$;
comment on function api_keys_private.find_api_key(uuid) is
  'Returns an API key. Raises PT404 if it does not exist or the caller is neither a member of its account nor service_role.';
select audiencelab_private.revoke_privileges('api_keys_private', '{find_api_key}');

create or replace function api_keys_private.lock_api_key(p_api_key_id uuid)
returns api_keys_private.api_keys
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_key api_keys_private.api_keys := api_keys_private.find_api_key(p_api_key_id);
begin
  if not audiencelab_private.is_service() then
    perform api_keys_private.require_manager(v_key.account_id);
  end if;

  -- Only a caller who may change the key locks it. Meanwhile the key may have been changed, revoked or deleted.
  select * into v_key from api_keys_private.api_keys as api_key where api_key.id = p_api_key_id for no key update;
  if not found or not v_key.is_active then
    raise exception using
      errcode = 'PT409',
      message = 'the API key is revoked, which is permanent',
      hint = 'Create a new API key.';
  end if;
  return v_key;
end;
$$;
comment on function api_keys_private.lock_api_key(uuid) is
  'Returns an API key that the caller may change, and locks it until the transaction ends. Raises PT404 as find_api_key does,'
  ' 42501 if the caller may not manage the key, and PT409 if the key is revoked.';
select audiencelab_private.revoke_privileges('api_keys_private', '{lock_api_key}');

create or replace function api_keys_private.max_overlap()
returns interval
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select interval '30 days';
$$;
comment on function api_keys_private.max_overlap() is
  'Returns the longest time for which a key that was rotated may remain valid.';
select audiencelab_private.revoke_privileges('api_keys_private', '{max_overlap}');

create or replace function api_keys_private.require_json_type(p_changes jsonb, p_field text, variadic p_types text[])
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  c_type constant text := jsonb_typeof(p_changes -> p_field);
begin
  if c_type <> all (p_types) then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('%s must be of type %s, not %s', p_field, array_to_string(p_types, ' or '), c_type);
  end if;
end;
$$;
comment on function api_keys_private.require_json_type(jsonb, text, text[]) is
  'Raises 22023 if an object has a field that is of none of these JSON types.';
select audiencelab_private.revoke_privileges('api_keys_private', '{require_json_type}');

create or replace function api_keys_private.parse_time(p_field text, p_time text)
returns timestamptz
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  return p_time::timestamptz;
exception
  when data_exception then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format(
        '%s must be a time such as 2030-01-31T00:00:00Z, not %s', p_field, left(to_jsonb(p_time)::text, 100)
      );
end;
$$;
comment on function api_keys_private.parse_time(text, text) is
  'Returns the time that a field contains as text, or raises 22023.';
select audiencelab_private.revoke_privileges('api_keys_private', '{parse_time}');

create or replace function api_keys_private.parse_network(p_network text)
returns cidr
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select api_keys_private.without_mapping(
    case
      -- PostgreSQL also accepts 10 for 10.0.0.0/8, and 010.0.0.1 for 10.0.0.1, which other programs read as 8.0.0.1.
      when (p_network like '%:%' or p_network ~ '^[0-9]+(\.[0-9]+){3}(/[0-9]+)?$')
        and p_network !~ '(^|[:.])0[0-9]+\.|\.0[0-9]+(/|$)'
      then p_network::cidr
    end
  )::cidr;
$$;
comment on function api_keys_private.parse_network(text) is
  'Returns a network, or null if an IPv4 address is not written as four decimal numbers. Raises 22P02 if the text is not a'
  ' network. An IPv4-mapped IPv6 network becomes an IPv4 network.';
select audiencelab_private.revoke_privileges('api_keys_private', '{parse_network}');

create or replace function api_keys_private.parse_networks(p_networks jsonb)
returns cidr[]
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_networks cidr[];
  v_network cidr;
  v_element jsonb;
  v_index bigint;
begin
  for v_element, v_index in
    select element.value, element.ordinality - 1
    from jsonb_array_elements(p_networks) with ordinality as element (value, ordinality)
    -- One more than the column may have. The others are not needed to exceed its limit.
    limit 51
  loop
    v_network := null;
    begin
      if jsonb_typeof(v_element) = 'string' then
        v_network := api_keys_private.parse_network(v_element #>> '{}');
      end if;
    exception
      -- The message below is the same for every text that is not a network.
      when data_exception then
        null;
    end;
    if v_network is null then
      raise exception using
        errcode = 'invalid_parameter_value',
        message = format('allowed_ips[%s] must be a network, not %s', v_index, left(v_element::text, 100)),
        hint = 'A network is an address, such as 192.0.2.1, or a prefix without further bits, such as 192.0.2.0/24.';
    end if;
    v_networks := v_networks || v_network;
  end loop;
  -- An empty array, unlike null, exceeds the limit of the column.
  return coalesce(v_networks, '{}');
end;
$$;
comment on function api_keys_private.parse_networks(jsonb) is
  'Returns the first 51 elements of an array of texts as networks. Raises 22023 if one of them is not a network.';
select audiencelab_private.revoke_privileges('api_keys_private', '{parse_networks}');

-- CREATE OR REPLACE cannot change the result type or the names of parameters, and an overload would make calls with named
-- arguments ambiguous.
select audiencelab_private.prepare_functions(
  'get_api_key(p_api_key_id uuid) returns public.api_key_response',
  'update_api_key(p_api_key_id uuid, p_changes jsonb) returns public.api_key_response',
  'disable_api_key(p_api_key_id uuid) returns public.api_key_response',
  'enable_api_key(p_api_key_id uuid) returns public.api_key_response',
  'rotate_api_key(p_api_key_id uuid, p_overlap interval DEFAULT ''1 day''::interval) returns public.create_api_key_response',
  'list_api_key_events(p_account_id uuid, p_api_key_id uuid DEFAULT NULL::uuid, p_limit integer DEFAULT 100,
     p_before timestamp with time zone DEFAULT NULL::timestamp with time zone, p_before_id uuid DEFAULT NULL::uuid)
   returns TABLE(id uuid, api_key_id uuid, event text, actor_type text, actor_id uuid, changes jsonb,
     created_at timestamp with time zone)'
);

create or replace function public.get_api_key(p_api_key_id uuid)
returns public.api_key_response
language plpgsql
stable
-- Definer: callers have no access to the table. The function checks membership itself, except for service_role.
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return api_keys_private.to_response(api_keys_private.find_api_key(p_api_key_id));
end;
$$;
comment on function public.get_api_key(uuid) is
$$Returns an API key, revoked and expired ones too. The result contains neither the key itself nor its hash.

Callers: service_role; authenticated, as a member of the account of the key.

Errors: PT404 (HTTP 404) if the API key does not exist or the caller is not a member of its account.$$;
select audiencelab_private.revoke_privileges('public', '{get_api_key}');
grant execute on function public.get_api_key(uuid) to authenticated, service_role;

create or replace function public.update_api_key(p_api_key_id uuid, p_changes jsonb)
returns public.api_key_response
language plpgsql
volatile
-- Definer: callers have no access to the table. The function checks membership itself, except for service_role.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  c_fields constant text[] := array['name', 'scopes', 'expires_at', 'metadata', 'allowed_ips'];
  v_key api_keys_private.api_keys := api_keys_private.lock_api_key(p_api_key_id);
  c_was_expired constant boolean := v_key.expires_at <= now();
  c_rotated_at constant timestamptz := (
    select successor.created_at from api_keys_private.api_keys as successor where successor.id = v_key.successor_id
  );
  v_field text;
begin
  if jsonb_typeof(p_changes) is distinct from 'object' then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('the changes must be an object, not %s', coalesce(jsonb_typeof(p_changes), 'null'));
  end if;
  for v_field in
    select key from jsonb_object_keys(p_changes) as key where key <> all (c_fields)
  loop
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('the changes have an unknown field %s', left(to_jsonb(v_field)::text, 100)),
      hint = format('The fields that can be changed are %s.', array_to_string(c_fields, ', '));
  end loop;

  if p_changes ? 'name' then
    perform api_keys_private.require_json_type(p_changes, 'name', 'string');
    v_key.name := p_changes ->> 'name';
    perform api_keys_private.require_name(v_key.name);
  end if;
  if p_changes ? 'scopes' then
    v_key.scopes := p_changes -> 'scopes';
    perform api_keys_private.require_scopes(v_key.scopes);
  end if;
  if p_changes ? 'metadata' then
    perform api_keys_private.require_json_type(p_changes, 'metadata', 'object');
    v_key.metadata := p_changes -> 'metadata';
  end if;
  if p_changes ? 'allowed_ips' then
    perform api_keys_private.require_json_type(p_changes, 'allowed_ips', 'array', 'null');
    v_key.allowed_ips := case jsonb_typeof(p_changes -> 'allowed_ips')
      when 'array' then api_keys_private.parse_networks(p_changes -> 'allowed_ips')
    end;
  end if;
  if p_changes ? 'expires_at' then
    perform api_keys_private.require_json_type(p_changes, 'expires_at', 'string', 'null');
    v_key.expires_at := api_keys_private.parse_time('expires_at', p_changes ->> 'expires_at');
    perform api_keys_private.require_expiry(v_key.expires_at);
    -- The limit of keys per account does not apply to rotations, so a key that was rotated must expire.
    if v_key.expires_at is distinct from least(v_key.expires_at, c_rotated_at + api_keys_private.max_overlap()) then
      raise exception using
        errcode = 'invalid_parameter_value',
        message = format(
          'the API key was rotated at %s, and must expire within %s days of it',
          c_rotated_at, extract(day from api_keys_private.max_overlap())
        );
    end if;
    if c_was_expired then
      -- The key becomes live again.
      perform api_keys_private.require_room(v_key.account_id);
    end if;
  end if;

  update api_keys_private.api_keys as api_key
  set
    name = v_key.name,
    scopes = v_key.scopes,
    expires_at = v_key.expires_at,
    metadata = v_key.metadata,
    allowed_ips = v_key.allowed_ips
  where api_key.id = v_key.id;
  return api_keys_private.to_response(v_key);
end;
$$;
comment on function public.update_api_key(uuid, jsonb) is
$$Changes fields of an API key, and returns the key. Fields that are not passed do not change. An expired key whose expiry is
moved to the future becomes valid again.

Callers: service_role; authenticated, as a member of the account of the key who may manage its API keys.

- p_changes: an object with any of these fields:
  - name, scopes: as in create_api_key. The scopes replace the previous ones.
  - expires_at: a time in the future, before the year 10000, or null: the key does not expire. A key that was rotated must
    expire within 30 days of the rotation.
  - metadata: an object of at most 4,096 bytes, which replaces the previous one.
  - allowed_ips: an array of 1 to 50 networks, such as "192.0.2.0/24" or "2001:db8::1", or null for all. A key with networks
    is valid only in authenticate_api_key, and only from an address in one of them.

Errors: PT404 (HTTP 404) if the API key does not exist or the caller is not a member of its account; 42501 if the caller may
not manage the key; 22023 for an unknown field or an invalid value; 23514 for a value that exceeds a limit; PT409 (HTTP 409)
if the key is revoked, or if it is expired and the account has 1,000 API keys that are neither revoked nor expired.$$;
select audiencelab_private.revoke_privileges('public', '{update_api_key}');
grant execute on function public.update_api_key(uuid, jsonb) to authenticated, service_role;

create or replace function public.disable_api_key(p_api_key_id uuid)
returns public.api_key_response
language plpgsql
volatile
-- Definer: callers have no access to the table. The function checks membership itself, except for service_role.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_key api_keys_private.api_keys := api_keys_private.lock_api_key(p_api_key_id);
begin
  if v_key.disabled_at is null then
    v_key.disabled_at := now();
    update api_keys_private.api_keys as api_key set disabled_at = v_key.disabled_at where api_key.id = v_key.id;
  end if;
  return api_keys_private.to_response(v_key);
end;
$$;
comment on function public.disable_api_key(uuid) is
$$Disables an API key until enable_api_key enables it, and returns the key. A repeated call has no effect.

Callers: service_role; authenticated, as a member of the account of the key who may manage its API keys.

Errors: PT404 (HTTP 404) if the API key does not exist or the caller is not a member of its account; 42501 if the caller may
not manage the key; PT409 (HTTP 409) if the key is revoked.$$;
select audiencelab_private.revoke_privileges('public', '{disable_api_key}');
grant execute on function public.disable_api_key(uuid) to authenticated, service_role;

create or replace function public.enable_api_key(p_api_key_id uuid)
returns public.api_key_response
language plpgsql
volatile
-- Definer: callers have no access to the table. The function checks membership itself, except for service_role.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_key api_keys_private.api_keys := api_keys_private.lock_api_key(p_api_key_id);
begin
  if v_key.disabled_at is not null then
    v_key.disabled_at := null;
    update api_keys_private.api_keys as api_key set disabled_at = null where api_key.id = v_key.id;
  end if;
  return api_keys_private.to_response(v_key);
end;
$$;
comment on function public.enable_api_key(uuid) is
$$Enables an API key that disable_api_key disabled, and returns the key. A repeated call has no effect.

Callers: service_role; authenticated, as a member of the account of the key who may manage its API keys.

Errors: PT404 (HTTP 404) if the API key does not exist or the caller is not a member of its account; 42501 if the caller may
not manage the key; PT409 (HTTP 409) if the key is revoked.$$;
select audiencelab_private.revoke_privileges('public', '{enable_api_key}');
grant execute on function public.enable_api_key(uuid) to authenticated, service_role;

create or replace function public.rotate_api_key(p_api_key_id uuid, p_overlap interval default '1 day')
returns public.create_api_key_response
language plpgsql
volatile
-- Definer: callers have no access to the table. The function checks membership itself, except for service_role.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  -- Within the limit of expires_at, which the keys of older databases may exceed.
  c_latest constant timestamptz := timestamptz '9999-12-31 00:00:00+00';
  -- Waits for a concurrent rotation of the key, which has set successor_id when it ends.
  v_key api_keys_private.api_keys := api_keys_private.lock_api_key(p_api_key_id);
  v_successor public.create_api_key_response;
begin
  if p_overlap is null or not p_overlap between interval '0' and api_keys_private.max_overlap() then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format(
        'the overlap must be between 0 and %s days, not %s',
        extract(day from api_keys_private.max_overlap()), coalesce(p_overlap::text, 'null')
      );
  end if;
  if exists (select from api_keys_private.api_keys as successor where successor.id = v_key.successor_id) then
    raise exception using
      errcode = 'PT409',
      message = format('the API key was already rotated: its successor is %s', v_key.successor_id),
      hint = 'If the text of the successor was lost, rotate the successor.';
  end if;
  if v_key.disabled_at is not null then
    raise exception using
      errcode = 'PT409', message = 'the API key is disabled', hint = 'Enable the API key before you rotate it.';
  end if;
  if v_key.expires_at <= now() then
    raise exception using
      errcode = 'PT409',
      message = format('the API key expired at %s', v_key.expires_at),
      hint = 'Move its expiry to the future before you rotate it, or create a new API key.';
  end if;

  v_successor := api_keys_private.store_api_key(
    v_key.account_id,
    case when audiencelab_private.is_service() then v_key.created_by else audiencelab_private.caller_id() end,
    v_key.name,
    v_key.scopes,
    -- The same lifetime, in units that do not depend on the time zone of the session.
    case when isfinite(v_key.expires_at) then
      least(
        (now() at time zone 'UTC' + (least(v_key.expires_at, c_latest) - v_key.created_at)) at time zone 'UTC',
        c_latest
      )
    end,
    v_key.metadata,
    v_key.allowed_ips
  );
  update api_keys_private.api_keys as api_key
  set
    successor_id = v_successor.id,
    expires_at = least(v_key.expires_at, now() + make_interval(secs => extract(epoch from p_overlap)::double precision))
  where api_key.id = v_key.id;
  return v_successor;
end;
$$;
comment on function public.rotate_api_key(uuid, interval) is
$$Replaces an API key: creates a successor and returns it, with the key itself, which is not stored and cannot be read again.
The successor has the same name, scopes, metadata, allowed_ips and lifetime: a key that was to expire 90 days after its
creation is followed by one that expires in 90 days, and a key that does not expire by one that does not expire. Its creator is
the caller, or for service_role the creator of the rotated key. The limit of 1,000 API keys per account does not apply.

Callers: service_role; authenticated, as a member of the account of the key who may manage its API keys.

- p_overlap: how long the rotated key remains valid, unless it expires earlier. From 0 to 30 days, and one day by default.

Errors: PT404 (HTTP 404) if the API key does not exist or the caller is not a member of its account; 42501 if the caller may
not manage the key; 22023 if p_overlap is out of range; 23514 if a value of the key exceeds a limit that was introduced after
it; PT409 (HTTP 409) if the key is revoked, disabled or expired, or was rotated before. The message then has the id of the
successor. If the text of the successor was lost, the successor can be rotated.$$;
select audiencelab_private.revoke_privileges('public', '{rotate_api_key}');
grant execute on function public.rotate_api_key(uuid, interval) to authenticated, service_role;

create or replace function public.list_api_key_events(
  p_account_id uuid,
  p_api_key_id uuid default null,
  p_limit integer default 100,
  p_before timestamptz default null,
  p_before_id uuid default null
)
returns table (
  id uuid,
  api_key_id uuid,
  event text,
  actor_type text,
  actor_id uuid,
  changes jsonb,
  created_at timestamptz
)
language plpgsql
stable
-- Definer: callers have no access to the tables. The function checks membership itself, except for service_role.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  c_max_limit constant integer := 1000;
  -- Without p_before, the bounds are the greatest values, so that there is one query with one plan.
  c_before constant timestamptz := coalesce(p_before, 'infinity');
  c_before_id constant uuid := case when p_before is null then 'ffffffff-ffff-ffff-ffff-ffffffffffff' else p_before_id end;
begin
  if not audiencelab_private.is_service() then
    perform audiencelab_private.require_member(p_account_id);
  end if;
  if p_limit is null or p_limit not between 1 and c_max_limit then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('the limit must be between 1 and %s', c_max_limit);
  end if;

  if p_api_key_id is null then
    return query
      select
        entry.id, entry.api_key_id, entry.event, entry.actor_type, entry.actor_id, entry.changes, entry.created_at
      from api_keys_private.api_key_events as entry
      where entry.account_id = p_account_id and (entry.created_at, entry.id) < (c_before, c_before_id)
      order by entry.created_at desc, entry.id desc
      limit p_limit;
    return;
  end if;

  -- A deleted key still has events, and a key from before the audit trail has none.
  if not exists (
    select from api_keys_private.api_keys as api_key
    where api_key.id = p_api_key_id and api_key.account_id = p_account_id
  ) and not exists (
    select from api_keys_private.api_key_events as entry
    where entry.api_key_id = p_api_key_id and entry.account_id = p_account_id
  ) then
    raise exception using
      errcode = 'PT404',
      message = 'the API key does not exist, or does not belong to the account';
  end if;
  return query
    select
      entry.id, entry.api_key_id, entry.event, entry.actor_type, entry.actor_id, entry.changes, entry.created_at
    from api_keys_private.api_key_events as entry
    where entry.api_key_id = p_api_key_id
      and entry.account_id = p_account_id
      and (entry.created_at, entry.id) < (c_before, c_before_id)
    order by entry.created_at desc, entry.id desc
    limit p_limit;
end;
$$;
comment on function public.list_api_key_events(uuid, uuid, integer, timestamptz, uuid) is
$$Returns the audit trail of the API keys of an account, or of one of them, newest first. An event is create, update, disable,
enable, rotate or revoke. The field changes has the old and the new value of each changed column, and never a key or a hash.
actor_type is user, api_key or service, and actor_id the id of the user or API key.

Callers: service_role; authenticated, as a member of the account.

- p_api_key_id: an API key of the account, which may be deleted. Null, the default, means all of them.
- p_limit: the maximum number of rows, from 1 to 1,000.
- p_before, p_before_id: the created_at and id of the last row of the previous page. Null, the default, means the first page.
  With a created_at alone, only earlier events are returned.

Errors: 42501 if a user calls it and the account does not exist or the user is not a member of it; PT404 (HTTP 404) if the API
key does not belong to the account; 22023 if p_limit is out of range.$$;
select audiencelab_private.revoke_privileges('public', '{list_api_key_events}');
grant execute on function public.list_api_key_events(uuid, uuid, integer, timestamptz, uuid) to authenticated, service_role;

notify pgrst, 'reload schema';


-- 20261122000250_api_key_usage.sql

do $requirements$
begin
  if to_regclass('api_keys_private.live_api_keys') is null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: apply 20261122000200_api_keys.sql first';
  end if;
end;
$requirements$;
select audiencelab_private.require_ownership(
  'api_keys_private', '{api_key_logs,api_key_log_positions,api_key_usage_hours,api_key_usage_progress}'
);
select audiencelab_private.require_ownership(
  'public', '{log_api_key_usage,log_api_key_usage_batch,api_key_log,api_key_usage,purge_api_key_logs}'
);

-- Log rows are counted in the order of their positions. They are taken by the default of a column, so that rows of all
-- writers have them.
create sequence if not exists api_keys_private.api_key_log_positions;
select audiencelab_private.revoke_privileges('api_keys_private', '{api_key_log_positions}');
grant usage on sequence api_keys_private.api_key_log_positions to service_role;

-- Older rows have position 0. PostgreSQL adds a column with a constant default without writing the rows. supabase/prepare.sql
-- may have added it.
do $position$
declare
  c_table constant regclass := to_regclass('api_keys_private.api_key_logs');
begin
  if c_table is null then
    return;
  end if;
  if not exists (select from audiencelab_private.table_columns(c_table) where name = 'position') then
    alter table api_keys_private.api_key_logs add column position bigint not null default 0;
  end if;
  if exists (select from audiencelab_private.table_columns(c_table) where name = 'position' and expression = '0') then
    alter table api_keys_private.api_key_logs alter column position
      set default case when pg_current_xact_id() is not null then nextval('api_keys_private.api_key_log_positions') end;
  end if;
end;
$position$;

create or replace function api_keys_private.time_ordered_id()
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  -- 48 bits of milliseconds, then random bits. The last two bits change the version from 4 (0100) to 7 (0111).
  return encode(
    set_bit(
      set_bit(
        overlay(
          uuid_send(gen_random_uuid())
          placing substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1
        ),
        52, 1
      ),
      53, 1
    ),
    'hex'
  )::uuid;
end;
$$;
comment on function api_keys_private.time_ordered_id() is
  'Returns a UUID of version 7 (RFC 9562). New rows are added at the end of the index. Random ids would spread them over all'
  ' its pages.';
select audiencelab_private.revoke_privileges('api_keys_private', '{time_ordered_id}');

-- The tables are created in this schema, then applied to those of the database.
create schema audiencelab_desired;

create table audiencelab_desired.api_key_logs (
  id uuid not null default gen_random_uuid(),
  api_key_id uuid,
  endpoint text not null,
  method text not null,
  status_code integer,
  ip_address text,
  user_agent text,
  timestamp timestamptz not null default now(),
  -- CASE evaluates the condition first, so a transaction has an id before it takes a position. roll_up_usage relies on it.
  position bigint not null default
    case when pg_current_xact_id() is not null then nextval('api_keys_private.api_key_log_positions') end,
  constraint api_key_logs_pkey primary key (id)
);
-- A check constraint that is NOT VALID, instead of NOT NULL: older rows without a key are kept, new rows require one.
alter table audiencelab_desired.api_key_logs
  add constraint api_key_logs_api_key_id_check check (api_key_id is not null) not valid;
-- Not a trigger as for other limits, because it would take a tenth of the time of logging. Log rows are not updated.
alter table audiencelab_desired.api_key_logs
  add constraint api_key_logs_timestamp_check
  check (timestamp >= '0001-01-01 00:00:00+00' and timestamp < '10000-01-01 00:00:00+00') not valid;
create index api_key_logs_api_key_id_timestamp_idx on audiencelab_desired.api_key_logs (api_key_id, timestamp desc);
-- The oldest rows are purged first.
create index api_key_logs_timestamp_idx on audiencelab_desired.api_key_logs (timestamp);
-- The latest rows are not rolled up yet.
create index api_key_logs_position_idx on audiencelab_desired.api_key_logs (position);

do $logs$
begin
  if (select relkind from pg_class where oid = to_regclass('api_keys_private.api_key_logs')) = 'p' then
    raise warning 'api_keys_private.api_key_logs is partitioned, so the migration does not alter it';
    perform audiencelab_private.revoke_privileges('api_keys_private', '{api_key_logs}');
  else
    perform audiencelab_private.apply_table('api_keys_private', 'api_key_logs');
  end if;
end;
$logs$;
comment on table api_keys_private.api_key_logs is 'One row for each use of an API key.';
-- No policies: only service_role has access, and it bypasses row level security.
grant select, insert, update, delete on api_keys_private.api_key_logs to service_role;

comment on column api_keys_private.api_key_logs.position is
  'The order in which rows are rolled up; 0 for rows from before the roll-ups. Not the order in which they are committed.';

create table audiencelab_desired.api_key_usage_hours (
  api_key_id uuid not null,
  hour timestamptz not null,
  requests bigint not null,
  errors bigint not null,
  last_used_at timestamptz not null,
  constraint api_key_usage_hours_pkey primary key (api_key_id, hour)
);
select audiencelab_private.apply_table('api_keys_private', 'api_key_usage_hours');
comment on table api_keys_private.api_key_usage_hours is
  'The counts of the log rows that are rolled up, by API key and hour in UTC. They remain when the rows are purged.';
comment on column api_keys_private.api_key_usage_hours.errors is 'The number of requests with a status_code of 400 or more.';
comment on column api_keys_private.api_key_usage_hours.last_used_at is 'The time of the latest request in the hour.';
-- No policies: only service_role has access, and it bypasses row level security.
grant select on api_keys_private.api_key_usage_hours to service_role;

create table audiencelab_desired.api_key_usage_progress (
  id boolean not null default true,
  rolled_up_to bigint not null default -1,
  next_position bigint not null default 0,
  next_xact_id xid8 not null default '0',
  constraint api_key_usage_progress_pkey primary key (id),
  constraint api_key_usage_progress_id_check check (id)
);
select audiencelab_private.apply_table('api_keys_private', 'api_key_usage_progress');
comment on table api_keys_private.api_key_usage_progress is 'How far the log is rolled up, in one row.';
comment on column api_keys_private.api_key_usage_progress.rolled_up_to is
  'The last position that is rolled up. Rows with greater positions are counted when the usage is read.';
comment on column api_keys_private.api_key_usage_progress.next_position is
  'The position to roll up to when all transactions with ids below next_xact_id have ended.';
insert into api_keys_private.api_key_usage_progress default values on conflict do nothing;
grant select on api_keys_private.api_key_usage_progress to service_role;

create type audiencelab_desired.api_key_usage_log_response as (
  success boolean,
  log_id uuid,
  timestamp timestamptz,
  error text,
  error_code text
);
select audiencelab_private.apply_type('api_key_usage_log_response');
comment on type public.api_key_usage_log_response is
  'The result of log_api_key_usage: the id and time of the log row, or the message and SQLSTATE of the error.';

-- CREATE OR REPLACE cannot change the result type or the names of parameters, and an overload would make calls with named
-- arguments ambiguous.
select audiencelab_private.prepare_functions(
  'log_api_key_usage(p_api_key_id uuid, p_endpoint text, p_method text, p_status_code integer, p_ip_address text,
     p_user_agent text)
   returns public.api_key_usage_log_response',
  'log_api_key_usage_batch(p_events jsonb)
   returns TABLE(event_index integer, success boolean, log_id uuid, "timestamp" timestamp with time zone, error text,
     error_code text)',
  'api_key_log(p_account_id uuid, p_api_key_id uuid DEFAULT NULL::uuid, p_limit integer DEFAULT 100,
     p_before timestamp with time zone DEFAULT NULL::timestamp with time zone, p_before_id uuid DEFAULT NULL::uuid)
   returns TABLE(id uuid, api_key_id uuid, endpoint text, method text, status_code integer, ip_address text,
     user_agent text, "timestamp" timestamp with time zone)',
  'api_key_usage(p_account_id uuid, p_from timestamp with time zone, p_to timestamp with time zone,
     p_bucket text DEFAULT ''day''::text, p_api_key_id uuid DEFAULT NULL::uuid)
   returns TABLE(api_key_id uuid, bucket timestamp with time zone, requests bigint, errors bigint,
     last_used_at timestamp with time zone)',
  'purge_api_key_logs(p_before timestamp with time zone, p_limit integer DEFAULT 10000) returns integer'
);

create or replace function public.log_api_key_usage(
  p_api_key_id uuid,
  p_endpoint text,
  p_method text,
  p_status_code integer,
  p_ip_address text,
  p_user_agent text
)
returns public.api_key_usage_log_response
language plpgsql
volatile
-- Definer: the owner has the privileges on the table and on the functions below. Only service_role may call it.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid;
  v_timestamp timestamptz;
begin
  insert into api_keys_private.api_key_logs as log (id, api_key_id, endpoint, method, status_code, ip_address, user_agent)
  values (
    api_keys_private.time_ordered_id(),
    p_api_key_id,
    -- Values from clients are truncated, because an error would lose the log row.
    left(p_endpoint, 2000),
    left(p_method, 255),
    p_status_code,
    left(p_ip_address, 255),
    left(p_user_agent, 1000)
  )
  returning log.id, log.timestamp into v_id, v_timestamp;

  -- At most once a minute, and without waiting for a concurrent update, so that uses of the same key do not queue.
  update api_keys_private.api_keys as api_key
  set last_used_at = now()
  where api_key.id = (
    select due.id
    from api_keys_private.api_keys as due
    where due.id = p_api_key_id
      and (due.last_used_at is null or due.last_used_at < now() - interval '1 minute')
    for no key update skip locked
  );

  return row(true, v_id, v_timestamp, null::text, null::text)::public.api_key_usage_log_response;
exception
  when others then
    return row(false, null::uuid, null::timestamptz, sqlerrm, sqlstate)::public.api_key_usage_log_response;
end;
$$;
comment on function public.log_api_key_usage(uuid, text, text, integer, text, text) is
$$Writes one log row for a use of an API key, and updates last_used_at of the key at most once a minute. It does not raise an
error: success is false, and error and error_code are the message and the SQLSTATE.

Callers: service_role.

- p_endpoint, p_method: required; truncated to 2,000 and 255 characters.
- p_status_code: the HTTP status, or null.
- p_ip_address, p_user_agent: null, or truncated to 255 and 1,000 characters.$$;
select audiencelab_private.revoke_privileges('public', '{log_api_key_usage}');
grant execute on function public.log_api_key_usage(uuid, text, text, integer, text, text) to service_role;

create or replace function api_keys_private.log_usage_events(p_events jsonb)
returns table (event_index bigint, log_id uuid, logged_at timestamptz)
-- Not language sql, whose statements PostgreSQL plans in each call.
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    with event as (
      select
        element.ordinality - 1 as index,
        (element.value ->> 'log_id')::uuid as given_id,
        coalesce((element.value ->> 'log_id')::uuid, api_keys_private.time_ordered_id()) as id,
        (element.value ->> 'api_key_id')::uuid as api_key_id,
        left(element.value ->> 'endpoint', 2000) as endpoint,
        left(element.value ->> 'method', 255) as method,
        (element.value ->> 'status_code')::integer as status_code,
        left(element.value ->> 'ip_address', 255) as ip_address,
        left(element.value ->> 'user_agent', 1000) as user_agent,
        coalesce((element.value ->> 'timestamp')::timestamptz, now()) as logged_at
      from jsonb_array_elements(p_events) with ordinality as element (value, ordinality)
    ),
    logged as (
      insert into api_keys_private.api_key_logs (
        id, api_key_id, endpoint, method, status_code, ip_address, user_agent, timestamp
      )
      select
        event.id, event.api_key_id, event.endpoint, event.method, event.status_code, event.ip_address, event.user_agent,
        event.logged_at
      from event
      -- Without a target, so that it also holds for the primary key of a partitioned log.
      on conflict do nothing
      returning id, api_key_id
    ),
    used as (
      update api_keys_private.api_keys as api_key
      set last_used_at = now()
      where api_key.id in (
        select due.id
        from api_keys_private.api_keys as due
        where due.id in (select logged.api_key_id from logged)
          and (due.last_used_at is null or due.last_used_at < now() - interval '1 minute')
        for no key update skip locked
      )
    )
    select
      event.index,
      event.id,
      -- Not a join, which could read the whole log.
      coalesce(
        (select repeated.timestamp from api_keys_private.api_key_logs as repeated where repeated.id = event.given_id),
        event.logged_at
      )
    from event
    order by event.index;
end;
$$;
comment on function api_keys_private.log_usage_events(jsonb) is
  'Writes one log row for each event, except for events whose log_id is already logged, or none if one of them fails.'
  ' event_index counts from 0.';
select audiencelab_private.revoke_privileges('api_keys_private', '{log_usage_events}');

create or replace function public.log_api_key_usage_batch(p_events jsonb)
returns table (
  event_index integer,
  success boolean,
  log_id uuid,
  "timestamp" timestamptz,
  error text,
  error_code text
)
language plpgsql
volatile
-- Definer: the owner has the privileges on the table and on the functions below. Only service_role may call it.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  c_max_events constant integer := 1000;
begin
  if jsonb_typeof(p_events) is distinct from 'array' or jsonb_array_length(p_events) > c_max_events then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('events must be an array of at most %s objects', c_max_events);
  end if;

  -- Usually all events are valid, and one statement inserts them. If it fails, each event is inserted separately.
  begin
    return query
      select logged.event_index::integer, true, logged.log_id, logged.logged_at, null::text, null::text
      from api_keys_private.log_usage_events(p_events) as logged;
    return;
  exception
    when others then
      null;
  end;

  for v_index in 0..jsonb_array_length(p_events) - 1 loop
    event_index := v_index;
    begin
      select true, logged.log_id, logged.logged_at, null::text, null::text
      into success, log_id, "timestamp", error, error_code
      from api_keys_private.log_usage_events(jsonb_build_array(p_events -> v_index)) as logged;
    exception
      when others then
        success := false;
        log_id := null;
        "timestamp" := null;
        error := sqlerrm;
        error_code := sqlstate;
    end;
    return next;
  end loop;
end;
$$;
comment on function public.log_api_key_usage_batch(jsonb) is
$$Writes a log row for each of up to 1,000 uses of API keys. Returns one row for each event, in their order: the id and time of
the log row, or the message and the SQLSTATE of the error. A failed event does not affect the others.

If each event has a log_id, the call can be repeated after an error or a lost response: an event whose log_id is already
logged is not written or counted again, and its success is true. A log_id is recognized until its log row is purged.

Callers: service_role.

- p_events: an array of objects with api_key_id, endpoint and method, and optionally log_id, status_code, ip_address,
  user_agent and timestamp. log_id is the id of the log row, a UUID; timestamp defaults to now(). Texts are truncated as by
  log_api_key_usage.

Errors: 22023 if p_events is not an array or has more than 1,000 elements.$$;
select audiencelab_private.revoke_privileges('public', '{log_api_key_usage_batch}');
grant execute on function public.log_api_key_usage_batch(jsonb) to service_role;

create or replace function api_keys_private.require_reader(p_account_id uuid, p_api_key_id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if not audiencelab_private.is_service() then
    perform audiencelab_private.require_member(p_account_id);
  end if;
  if p_api_key_id is not null and not exists (
    select
    from api_keys_private.api_keys as api_key
    where api_key.id = p_api_key_id and api_key.account_id = p_account_id
  ) then
    raise exception using
      errcode = 'PT404',
      message = 'the API key does not exist, or it belongs to another account';
  end if;
end;
$$;
comment on function api_keys_private.require_reader(uuid, uuid) is
  'Raises 42501 unless the caller is service_role or a member of the account, and PT404 if the API key, unless it is null,'
  ' does not belong to the account.';
select audiencelab_private.revoke_privileges('api_keys_private', '{require_reader}');

create or replace function public.api_key_log(
  p_account_id uuid,
  p_api_key_id uuid default null,
  p_limit integer default 100,
  p_before timestamptz default null,
  p_before_id uuid default null
)
returns table (
  id uuid,
  api_key_id uuid,
  endpoint text,
  method text,
  status_code integer,
  ip_address text,
  user_agent text,
  "timestamp" timestamptz
)
language plpgsql
stable
-- Definer: callers have no access to the tables. The function checks membership itself, except for service_role.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  c_max_limit constant integer := 1000;
  -- Without p_before, the bounds are the greatest values, so that there is one query with one plan.
  c_before constant timestamptz := coalesce(p_before, 'infinity');
  c_before_id constant uuid := case when p_before is null then 'ffffffff-ffff-ffff-ffff-ffffffffffff' else p_before_id end;
begin
  perform api_keys_private.require_reader(p_account_id, p_api_key_id);
  if p_limit is null or p_limit not between 1 and c_max_limit then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('the limit must be between 1 and %s', c_max_limit);
  end if;

  return query
    select
      log.id, log.api_key_id, log.endpoint, log.method, log.status_code, log.ip_address, log.user_agent, log.timestamp
    from api_keys_private.api_keys as api_key
    -- For each key, so that each is read from the index, newest first, and no further than needed.
    cross join lateral (
      select newest.*
      from api_keys_private.api_key_logs as newest
      where newest.api_key_id = api_key.id
        and (newest.timestamp, newest.id) < (c_before, c_before_id)
        -- Implied by the above, which does not exclude partitions.
        and newest.timestamp <= c_before
      order by newest.timestamp desc, newest.id desc
      limit p_limit
    ) as log
    where api_key.account_id = p_account_id and (p_api_key_id is null or api_key.id = p_api_key_id)
    order by log.timestamp desc, log.id desc
    limit p_limit;
end;
$$;
comment on function public.api_key_log(uuid, uuid, integer, timestamptz, uuid) is
$$Returns the logged requests of the API keys of an account, or of one of them, newest first.

Callers: service_role; authenticated, as a member of the account.

- p_api_key_id: an API key of the account. Null, the default, means all of them, including those that are not live.
- p_limit: the maximum number of rows, from 1 to 1,000.
- p_before, p_before_id: the timestamp and id of the last row of the previous page. Null, the default, means the first page.
  With a timestamp alone, only earlier requests are returned.

Errors: 42501 if the account does not exist or the caller is not a member of it; PT404 (HTTP 404) if the API key does not
belong to the account; 22023 if p_limit is out of range.$$;
select audiencelab_private.revoke_privileges('public', '{api_key_log}');
grant execute on function public.api_key_log(uuid, uuid, integer, timestamptz, uuid) to authenticated, service_role;

-- A time is no watermark for the roll-up: a row can be committed after rows with later times are counted. Neither is a
-- position, for the same reason. But the default of position assigns the transaction's id first. So when the roll-up notes
-- the last position that was taken, and then the next transaction id, all rows up to that position belong to transactions
-- with lower ids. They are counted when these transactions have ended: at once if none of them is running, otherwise by a
-- later call. Until then, they are counted when the usage is read. Transaction ids differ between database servers, and
-- positions do not, so that the counts are still right after a dump is restored on another server.
create or replace function api_keys_private.roll_up_usage()
returns bigint
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  -- If the caller's transaction has an id already, it is no upper bound of the ids of the others.
  c_is_new constant boolean := pg_current_xact_id_if_assigned() is null;
  c_last_position constant bigint := (
    select case when is_called then last_value else 0 end from api_keys_private.api_key_log_positions
  );
  v_progress api_keys_private.api_key_usage_progress;
  v_xact_id xid8;
  v_oldest_running xid8;
  v_roll_up_to bigint;
begin
  -- Only one session rolls up at a time. Others need not wait for it.
  select * into v_progress from api_keys_private.api_key_usage_progress for update skip locked;
  if not found then
    return (select progress.rolled_up_to from api_keys_private.api_key_usage_progress as progress);
  end if;

  v_xact_id := pg_current_xact_id();
  v_oldest_running := pg_snapshot_xmin(pg_current_snapshot());
  v_roll_up_to := greatest(
    v_progress.rolled_up_to,
    case when v_progress.next_xact_id <= v_oldest_running then v_progress.next_position end,
    case when c_is_new and v_xact_id <= v_oldest_running then c_last_position end
  );
  -- The noted position is replaced only when it is reached, so that new transactions cannot defer it for ever. An id that is
  -- greater than the caller's is from another server.
  if c_is_new and (v_progress.next_xact_id <= v_oldest_running or v_progress.next_xact_id > v_xact_id) then
    v_progress.next_position := c_last_position;
    v_progress.next_xact_id := v_xact_id;
  end if;

  insert into api_keys_private.api_key_usage_hours as usage (api_key_id, hour, requests, errors, last_used_at)
  select
    log.api_key_id,
    date_trunc('hour', log.timestamp, 'UTC'),
    count(*),
    count(*) filter (where log.status_code >= 400),
    max(log.timestamp)
  from api_keys_private.api_key_logs as log
  where log.position > v_progress.rolled_up_to and log.position <= v_roll_up_to and log.api_key_id is not null
  group by 1, 2
  on conflict (api_key_id, hour) do update
  set
    requests = usage.requests + excluded.requests,
    errors = usage.errors + excluded.errors,
    last_used_at = greatest(usage.last_used_at, excluded.last_used_at);

  update api_keys_private.api_key_usage_progress as progress
  set
    rolled_up_to = v_roll_up_to,
    next_position = v_progress.next_position,
    next_xact_id = v_progress.next_xact_id
  where progress.id;
  return v_roll_up_to;
end;
$$;
comment on function api_keys_private.roll_up_usage() is
  'Adds log rows to the counts of api_key_usage_hours, and returns the last position that is counted. It counts the rows of'
  ' transactions that began before the oldest running one, and each row once. It can be called at any time, by many sessions'
  ' at once.';
select audiencelab_private.revoke_privileges('api_keys_private', '{roll_up_usage}');

create or replace function public.api_key_usage(
  p_account_id uuid,
  p_from timestamptz,
  p_to timestamptz,
  p_bucket text default 'day',
  p_api_key_id uuid default null
)
returns table (
  api_key_id uuid,
  bucket timestamptz,
  requests bigint,
  errors bigint,
  last_used_at timestamptz
)
language plpgsql
stable
-- Definer: callers have no access to the tables. The function checks membership itself, except for service_role.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_from timestamptz;
  v_to timestamptz;
  v_api_key_ids uuid[];
  v_rolled_up_to bigint;
begin
  perform api_keys_private.require_reader(p_account_id, p_api_key_id);
  if (p_from >= '0001-01-01 00:00:00+00' and p_from < p_to and p_to <= '10000-01-01 00:00:00+00') is not true then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('the range must end after it begins, in the years 1 to 9999: it is from %s to %s', p_from, p_to);
  end if;
  if p_bucket is null or p_bucket not in ('hour', 'day', 'month') then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the bucket must be hour, day or month';
  end if;

  v_from := date_trunc('hour', p_from, 'UTC');
  v_to := date_trunc('hour', p_to + interval '1 hour' - interval '1 microsecond', 'UTC');
  -- All statements of a stable function read one snapshot, so that each row is counted once, even if it is rolled up meanwhile.
  select array_agg(api_key.id)
  into v_api_key_ids
  from api_keys_private.api_keys as api_key
  where api_key.account_id = p_account_id and (p_api_key_id is null or api_key.id = p_api_key_id);
  select progress.rolled_up_to into v_rolled_up_to from api_keys_private.api_key_usage_progress as progress;

  -- Dynamic, so that it is planned for these values: a cached plan does not know how few rows are not rolled up.
  return query execute $query$
    with counted as (
      select usage.api_key_id, usage.hour as time, usage.requests, usage.errors, usage.last_used_at
      from api_keys_private.api_key_usage_hours as usage
      where usage.api_key_id = any ($1) and usage.hour >= $2 and usage.hour < $3
      union all
      select log.api_key_id, log.timestamp, 1, coalesce(log.status_code >= 400, false)::integer, log.timestamp
      from api_keys_private.api_key_logs as log
      where log.position > $4 and log.api_key_id = any ($1) and log.timestamp >= $2 and log.timestamp < $3
    )
    select
      counted.api_key_id,
      date_trunc($5, counted.time, 'UTC'),
      sum(counted.requests)::bigint,
      sum(counted.errors)::bigint,
      max(counted.last_used_at)
    from counted
    group by 1, 2
    order by 2, 1
  $query$
  using v_api_key_ids, v_from, v_to, v_rolled_up_to, p_bucket;
end;
$$;
comment on function public.api_key_usage(uuid, timestamptz, timestamptz, text, uuid) is
$$Returns the number of requests of the API keys of an account, by key and bucket of time, ordered by bucket and key: how many
were logged, how many of them have a status_code of 400 or more, and the time of the latest. Buckets without requests are
omitted. All committed log rows are counted, and those that were purged with purge_api_key_logs.

Callers: service_role; authenticated, as a member of the account.

- p_from, p_to: the range of the logged times, extended to full hours. Buckets at its ends count only the hours in the range.
- p_bucket: hour, day or month, in UTC.
- p_api_key_id: an API key of the account. Null, the default, means all of them, including those that are not live.

Errors: 42501 if the account does not exist or the caller is not a member of it; PT404 (HTTP 404) if the API key does not
belong to the account; 22023 for an invalid argument.$$;
select audiencelab_private.revoke_privileges('public', '{api_key_usage}');
grant execute on function public.api_key_usage(uuid, timestamptz, timestamptz, text, uuid) to authenticated, service_role;

create or replace function public.purge_api_key_logs(p_before timestamptz, p_limit integer default 10000)
returns integer
language plpgsql
volatile
-- Definer: the owner may execute roll_up_usage. Only service_role may call it.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  c_max_limit constant integer := 1000000;
  c_chunk constant integer := 10000;
  v_rolled_up_to bigint;
  v_began_at timestamptz;
  v_ids uuid[];
  v_first timestamptz;
  v_last timestamptz := timestamptz '-infinity';
  v_chunk integer;
  v_deleted integer := 0;
begin
  if p_before is null then
    raise exception using errcode = 'invalid_parameter_value', message = 'the time must not be null';
  end if;
  if p_limit is null or p_limit not between 1 and c_max_limit then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('the limit must be between 1 and %s', c_max_limit);
  end if;

  v_rolled_up_to := api_keys_private.roll_up_usage();
  loop
    v_began_at := clock_timestamp();
    -- Concurrent calls delete different rows.
    select array_agg(oldest.id), min(oldest.timestamp), max(oldest.timestamp)
    into v_ids, v_first, v_last
    from (
      select log.id, log.timestamp
      from api_keys_private.api_key_logs as log
      -- The index still contains the rows that were deleted before v_last.
      where log.timestamp < p_before and log.timestamp >= v_last and log.position <= v_rolled_up_to
      order by log.timestamp
      limit least(c_chunk, p_limit - v_deleted)
      for update skip locked
    ) as oldest;
    exit when v_ids is null;
    -- The times exclude other partitions, if the log is partitioned.
    delete from api_keys_private.api_key_logs as log
    where log.id = any (v_ids) and log.timestamp between v_first and v_last;
    get diagnostics v_chunk = row_count;
    v_deleted := v_deleted + v_chunk;
    exit when v_chunk < c_chunk;
    -- Pauses for as long as the deletion took, as VACUUM does, so that requests that are logged meanwhile are not much slower.
    perform pg_sleep_for(clock_timestamp() - v_began_at);
    exit when v_deleted = p_limit;
  end loop;
  return v_deleted;
end;
$$;
comment on function public.purge_api_key_logs(timestamptz, integer) is
$$Deletes log rows from before a time, the oldest first, and returns how many. Their requests remain counted in api_key_usage.
Rows that cannot be counted yet, because a transaction from before them is still running, are left for a later call. Requests
that are logged meanwhile do not wait.

Callers: service_role.

- p_before: the rows from before this time are deleted.
- p_limit: the maximum number of rows, from 1 to 1,000,000. If as many were deleted, repeat the call.

Errors: 22023 if p_before is null or p_limit is out of range.$$;
select audiencelab_private.revoke_privileges('public', '{purge_api_key_logs}');
grant execute on function public.purge_api_key_logs(timestamptz, integer) to service_role;

create or replace function api_keys_private.keep_api_key_logs(p_period interval)
returns bigint
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_period is null or p_period < interval '1 hour' then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('log rows must be kept for at least 1 hour, not for %s', coalesce(p_period::text, 'null'));
  end if;
  if not exists (select from pg_extension where extname = 'pg_cron') then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'the purge cannot be scheduled, because the extension pg_cron is not installed in this database',
      hint = 'Run "create extension pg_cron", or call purge_api_key_logs regularly.';
  end if;
  return cron.schedule(
    'keep_api_key_logs',
    '*/5 * * * *',
    format('select public.purge_api_key_logs(now() - interval %L, 1000000)', p_period)
  );
end;
$$;
comment on function api_keys_private.keep_api_key_logs(interval) is
$$Schedules the purge of log rows that are older than a period, every five minutes, and returns the id of the job of pg_cron.
Each run also rolls up the usage. A repeated call replaces the period. To keep all rows again, run: select
cron.unschedule('keep_api_key_logs').

Callers: postgres, in SQL.

- p_period: at least 1 hour.

Errors: 22023 if p_period is null or too short; 55000 if pg_cron is not installed.$$;
select audiencelab_private.revoke_privileges('api_keys_private', '{keep_api_key_logs}');

drop schema audiencelab_desired cascade;

-- Foreign keys come last, because adding one locks the referenced table until the transaction ends.
select audiencelab_private.apply_foreign_keys('api_keys_private.api_key_logs', '{
  "api_key_logs_api_key_id_fkey":
    "FOREIGN KEY (api_key_id) REFERENCES api_keys_private.api_keys(id) ON DELETE CASCADE"
}');
select audiencelab_private.apply_foreign_keys('api_keys_private.api_key_usage_hours', '{
  "api_key_usage_hours_api_key_id_fkey":
    "FOREIGN KEY (api_key_id) REFERENCES api_keys_private.api_keys(id) ON DELETE CASCADE"
}');

notify pgrst, 'reload schema';


-- 20261122000300_enrichment_jobs.sql

do $requirements$
begin
  if to_regprocedure('api_keys_private.caller_may_write(text, uuid, uuid)') is null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: apply 20261122000200_api_keys.sql first';
  end if;
end;
$requirements$;
select audiencelab_private.require_ownership('enrichment_private', '{unit_progress,partial_sums,worker_progress}');
select audiencelab_private.require_ownership(
  'public',
  '{enrichment_tracking,report_enrichment_progress,reset_enrichment_progress,retry_enrichment_job,
    fail_stale_enrichment_jobs}'
);

create schema if not exists enrichment_private;
comment on schema enrichment_private is 'The progress of the units of enrichment jobs. Not exposed by the REST API.';
select audiencelab_private.revoke_privileges('enrichment_private');
grant usage on schema enrichment_private to service_role;

create or replace function enrichment_private.keep_counters()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  -- Functions that run as the owner of the table may decrease the counters.
  if current_user <> 'service_role'
    and not pg_has_role((select relowner from pg_class where oid = tg_relid), 'usage')
  then
    raise exception using
      errcode = 'insufficient_privilege',
      message = 'only service_role may decrease processed_records or failed_records';
  end if;
  return new;
end;
$$;
comment on function enrichment_private.keep_counters() is
  'Trigger function, before an update that decreases a counter: raises 42501, except for service_role and the table owner.';
select audiencelab_private.revoke_privileges('enrichment_private', '{keep_counters}');

-- A report locks its unit, and not the job: reports on one job do not wait for each other. They share an advisory lock on
-- the job until they are committed. What must see all reports takes the lock exclusively, after it has locked the job.
-- No session that holds the advisory lock waits for the lock on the job, so the two cannot deadlock. This also holds for
-- SKIP LOCKED, which can wait after all if the row has a newer version. So it, too, comes before the advisory lock.
create or replace function enrichment_private.lock_reports(p_job_id uuid)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  perform enrichment_private.require_read_committed();
  perform pg_advisory_xact_lock(uuid_hash_extended(p_job_id, 0));
end;
$$;
comment on function enrichment_private.lock_reports(uuid) is
  'Waits for the reports on a job that are not committed yet, and holds off others until the transaction ends. The next'
  ' statement reads all of them.';

create or replace function enrichment_private.require_read_committed()
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  -- At a higher level, all statements read the snapshot of the first one, and miss what is committed before the lock is taken.
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    raise exception using
      errcode = 'invalid_transaction_state',
      message = format(
        'the progress of enrichment jobs is counted at isolation level read committed, not %s',
        current_setting('transaction_isolation')
      );
  end if;
end;
$$;
comment on function enrichment_private.require_read_committed() is
  'Raises 25000 at an isolation level at which a statement does not read what was committed before it.';

create or replace function enrichment_private.count_units(p_job_id uuid)
returns table (processed_records integer, failed_records integer)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_processed bigint;
  v_failed bigint;
begin
  select coalesce(sum(progress.processed_records), 0), coalesce(sum(progress.failed_records), 0)
  into v_processed, v_failed
  from enrichment_private.unit_progress as progress
  where progress.job_id = p_job_id;

  delete from enrichment_private.partial_sums as part where part.job_id = p_job_id;
  if v_processed > 0 or v_failed > 0 then
    insert into enrichment_private.partial_sums (job_id, session_pid, processed_records, failed_records)
    values (p_job_id, 0, v_processed, v_failed);
  end if;
  -- Limited to the range of the columns, so that a wrong report does not make others fail.
  return query select least(v_processed, 2147483647)::integer, least(v_failed, 2147483647)::integer;
end;
$$;
comment on function enrichment_private.count_units(uuid) is
  'Returns the sums of the totals of all units of a job, each limited to 2147483647, and replaces its partial sums by one'
  ' row. Requires lock_reports.';

create or replace function enrichment_private.add_up_records()
returns trigger
language plpgsql
volatile
-- Definer: callers have no access to the totals of units. It changes the updated row, and the partial sums of its job.
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform enrichment_private.lock_reports(new.id);
  select
    greatest(new.processed_records, counted.processed_records),
    greatest(new.failed_records, counted.failed_records)
  into new.processed_records, new.failed_records
  from enrichment_private.count_units(new.id) as counted;
  return new;
end;
$$;
comment on function enrichment_private.add_up_records() is
  'Trigger function, before an update that completes or fails a job: sets its counters to the sums over all units, unless'
  ' they are greater. Waits for the reports that are not committed yet; later ones raise PT409.';

create or replace function enrichment_private.delete_partial_sums()
returns trigger
language plpgsql
volatile
-- Definer: service_role deletes jobs, and cannot write partial sums.
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  delete from enrichment_private.partial_sums as part where tg_op = 'TRUNCATE' or part.job_id = old.id;
  return null;
end;
$$;
comment on function enrichment_private.delete_partial_sums() is
  'Trigger function, after a job is deleted: deletes its partial sums, or all of them after TRUNCATE.';
select audiencelab_private.revoke_privileges(
  'enrichment_private',
  '{lock_reports,require_read_committed,count_units,add_up_records,delete_partial_sums}'
);

-- The tables are created in this schema, then applied to those of the database.
create schema audiencelab_desired;

create table audiencelab_desired.enrichment_tracking (
  id uuid not null default gen_random_uuid(),
  account_id uuid not null,
  audience_id uuid not null,
  enrichment_type text not null,
  status text not null default 'pending',
  total_records integer not null default 0,
  processed_records integer not null default 0,
  failed_records integer not null default 0,
  enrichment_fields text[] not null default '{}',
  metadata jsonb not null default '{}',
  started_at timestamptz,
  completed_at timestamptz,
  created_by uuid not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint enrichment_tracking_pkey primary key (id),
  constraint enrichment_tracking_enrichment_type_check
    check (enrichment_type in ('email', 'phone', 'company', 'social', 'custom')),
  constraint enrichment_tracking_status_check check (status in ('pending', 'processing', 'completed', 'failed'))
);
-- Lists are read newest first within an account; id makes the order total.
create index enrichment_tracking_account_id_created_at_id_idx
  on audiencelab_desired.enrichment_tracking (account_id, created_at desc, id desc);
create index enrichment_tracking_account_id_status_created_at_idx
  on audiencelab_desired.enrichment_tracking (account_id, status, created_at desc);
create index enrichment_tracking_audience_id_created_at_idx
  on audiencelab_desired.enrichment_tracking (audience_id, created_at desc);
create index enrichment_tracking_created_by_idx on audiencelab_desired.enrichment_tracking (created_by);
-- BRIN, because the planner could scan a B-tree of all accounts for one page of an account.
create index enrichment_tracking_created_at_idx on audiencelab_desired.enrichment_tracking using brin (created_at);
-- Workers look for unfinished jobs in all accounts.
create index enrichment_tracking_unfinished_idx
  on audiencelab_desired.enrichment_tracking (status, created_at) where status in ('pending', 'processing');

create trigger set_timestamps_enrichment_tracking
  before update on audiencelab_desired.enrichment_tracking
  for each row execute function public.trigger_set_timestamps();
create trigger set_server_columns_enrichment_tracking
  before insert on audiencelab_desired.enrichment_tracking
  for each row execute function audiencelab_private.set_server_columns();
create trigger keep_identity_enrichment_tracking
  before update of id, account_id, created_by on audiencelab_desired.enrichment_tracking
  for each row
  when (new.id <> old.id or new.account_id <> old.account_id or new.created_by <> old.created_by)
  execute function audiencelab_private.keep_identity();
create trigger keep_counters_enrichment_tracking
  before update of processed_records, failed_records on audiencelab_desired.enrichment_tracking
  for each row
  when (new.processed_records < old.processed_records or new.failed_records < old.failed_records)
  execute function enrichment_private.keep_counters();
create trigger add_up_records_enrichment_tracking
  before update on audiencelab_desired.enrichment_tracking
  for each row
  when (new.status <> old.status and new.status in ('completed', 'failed'))
  execute function enrichment_private.add_up_records();
-- Not a foreign key of the partial sums: its check would wait for the lock on the job.
create trigger delete_partial_sums_enrichment_tracking
  after delete on audiencelab_desired.enrichment_tracking
  for each row execute function enrichment_private.delete_partial_sums();
create trigger truncate_partial_sums_enrichment_tracking
  after truncate on audiencelab_desired.enrichment_tracking
  for each statement execute function enrichment_private.delete_partial_sums();

create trigger enrichment_tracking_total_records_limit
  before insert or update of total_records on audiencelab_desired.enrichment_tracking
  for each row when (new.total_records < 0)
  execute function audiencelab_private.enforce_limit('total_records', 'must be 0 or more');
create trigger enrichment_tracking_processed_records_limit
  before insert or update of processed_records on audiencelab_desired.enrichment_tracking
  for each row when (new.processed_records < 0)
  execute function audiencelab_private.enforce_limit('processed_records', 'must be 0 or more');
create trigger enrichment_tracking_failed_records_limit
  before insert or update of failed_records on audiencelab_desired.enrichment_tracking
  for each row when (new.failed_records < 0)
  execute function audiencelab_private.enforce_limit('failed_records', 'must be 0 or more');
create trigger enrichment_tracking_started_at_limit
  before insert or update of started_at on audiencelab_desired.enrichment_tracking
  for each row when (new.started_at < '0001-01-01 00:00:00+00' or new.started_at >= '10000-01-01 00:00:00+00')
  execute function audiencelab_private.enforce_limit('started_at', 'must be in the years 1 to 9999');
create trigger enrichment_tracking_completed_at_limit
  before insert or update of completed_at on audiencelab_desired.enrichment_tracking
  for each row when (new.completed_at < '0001-01-01 00:00:00+00' or new.completed_at >= '10000-01-01 00:00:00+00')
  execute function audiencelab_private.enforce_limit('completed_at', 'must be in the years 1 to 9999');
-- Short values cannot exceed the limits. Checking the length first saves the function call for most rows.
create trigger enrichment_tracking_metadata_limit
  before insert or update of metadata on audiencelab_desired.enrichment_tracking
  for each row
  when (octet_length(new.metadata::text) > 200 and audiencelab_private.exceeds_json_limit(new.metadata))
  execute function audiencelab_private.enforce_limit(
    'metadata', 'must have at most 262,144 bytes as text, 100 levels, and numbers in the range of a double'
  );
create trigger enrichment_tracking_enrichment_fields_limit
  before insert or update of enrichment_fields on audiencelab_desired.enrichment_tracking
  for each row
  when (octet_length(new.enrichment_fields::text) > 255 and audiencelab_private.exceeds_texts_limit(new.enrichment_fields))
  execute function audiencelab_private.enforce_limit(
    'enrichment_fields', 'must have at most 1,000 elements of at most 255 characters'
  );

-- `= any (array(select ...))` evaluates the caller's accounts once per statement, and can use an index on account_id.
-- has_role_on_account(account_id) would run once per row.
create policy enrichment_tracking_select on audiencelab_desired.enrichment_tracking
  for select to authenticated
  using (account_id = any (array(select audiencelab_private.member_account_ids())));
create policy enrichment_tracking_insert on audiencelab_desired.enrichment_tracking
  for insert to authenticated
  with check (account_id = any (array(select audiencelab_private.member_account_ids())));
create policy enrichment_tracking_update on audiencelab_desired.enrichment_tracking
  for update to authenticated
  using (account_id = any (array(select audiencelab_private.member_account_ids())))
  with check (account_id = any (array(select audiencelab_private.member_account_ids())));
-- An API key reads and updates the jobs of its account that its scopes cover: all jobs ("*") or those with the id in a scope.
-- A scope for writing includes reading. Only a scope for writing all jobs covers new ones.
create policy enrichment_tracking_select_api_key on audiencelab_desired.enrichment_tracking
  for select to api_key
  using (
    account_id = (select public.get_api_key_account_id())
    and (
      (select api_keys_private.has_scope_on_all('enrichment', '{read,write}'))
      or id = any (array(select api_keys_private.scoped_entity_ids('enrichment', '{read,write}')))
    )
  );
create policy enrichment_tracking_insert_api_key on audiencelab_desired.enrichment_tracking
  for insert to api_key
  with check (
    account_id = (select public.get_api_key_account_id())
    and (select api_keys_private.has_scope_on_all('enrichment', '{write}'))
  );
create policy enrichment_tracking_update_api_key on audiencelab_desired.enrichment_tracking
  for update to api_key
  using (
    account_id = (select public.get_api_key_account_id())
    and (
      (select api_keys_private.has_scope_on_all('enrichment', '{write}'))
      or id = any (array(select api_keys_private.scoped_entity_ids('enrichment', '{write}')))
    )
  )
  with check (
    account_id = (select public.get_api_key_account_id())
    and (
      (select api_keys_private.has_scope_on_all('enrichment', '{write}'))
      or id = any (array(select api_keys_private.scoped_entity_ids('enrichment', '{write}')))
    )
  );

select audiencelab_private.apply_table('public', 'enrichment_tracking');
comment on table public.enrichment_tracking is 'Enrichment jobs, by account. A job adds data to the records of an audience.';
comment on column public.enrichment_tracking.enrichment_fields is 'The names of the fields that the job adds.';
grant select, insert, update on public.enrichment_tracking to authenticated;
grant select, insert, update, delete on public.enrichment_tracking to service_role;
grant select, insert on public.enrichment_tracking to api_key;
-- Not the columns that identify the job, such as account_id and audience_id.
grant update (
  status, total_records, processed_records, failed_records, enrichment_fields, metadata, started_at, completed_at
) on public.enrichment_tracking to api_key;
select audiencelab_private.publish('public.enrichment_tracking');

-- Earlier versions of this migration named the table and its columns after workers.
do $renaming$
begin
  if to_regclass('enrichment_private.worker_progress') is null then
    return;
  elsif to_regclass('enrichment_private.unit_progress') is null then
    alter table enrichment_private.worker_progress rename to unit_progress;
    alter table enrichment_private.unit_progress rename column worker to unit;
    alter table enrichment_private.unit_progress rename constraint worker_progress_pkey to unit_progress_pkey;
    alter table enrichment_private.unit_progress rename constraint worker_progress_job_id_fkey to unit_progress_job_id_fkey;
  end if;
end;
$renaming$;

create table audiencelab_desired.unit_progress (
  job_id uuid not null,
  unit text not null,
  processed_records integer not null,
  failed_records integer not null,
  updated_at timestamptz not null default now(),
  added_processed integer not null default 0,
  added_failed integer not null default 0,
  constraint unit_progress_pkey primary key (job_id, unit)
);
select audiencelab_private.apply_table('enrichment_private', 'unit_progress');
comment on table enrichment_private.unit_progress is
  'The running totals of each unit of work of a job. The counters of the job are their sums.';
comment on column enrichment_private.unit_progress.added_processed is
  'The difference that the last change made to processed_records.';
comment on column enrichment_private.unit_progress.added_failed is
  'The difference that the last change made to failed_records.';
-- No policies: only service_role has access, and it bypasses row level security. Totals that were written directly would not
-- be in the partial sums.
grant select on enrichment_private.unit_progress to service_role;

create table audiencelab_desired.partial_sums (
  job_id uuid not null,
  session_pid integer not null,
  processed_records bigint not null,
  failed_records bigint not null,
  constraint partial_sums_pkey primary key (job_id, session_pid)
);
select audiencelab_private.apply_table('enrichment_private', 'partial_sums');
comment on table enrichment_private.partial_sums is
  'The sums of the totals of all units of a job, in a few rows. Each session adds to a row of its own, so that reports do not'
  ' wait for each other.';
comment on column enrichment_private.partial_sums.session_pid is
  'The process of the session that adds to the row, or 0 for the sum of rows that were combined.';
grant select on enrichment_private.partial_sums to service_role;

create or replace function enrichment_private.may_write(p_job public.enrichment_tracking)
returns boolean
-- Not language sql, whose statements PostgreSQL plans in each call.
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  -- In a definer function, current_user is the owner, but the setting "role" is still the role of the request.
  return case current_setting('role')
    when 'service_role' then true
    when 'authenticated' then audiencelab_private.is_member((p_job).account_id)
    when 'api_key' then api_keys_private.caller_may_write('enrichment', (p_job).account_id, (p_job).id)
    else false
  end;
end;
$$;
comment on function enrichment_private.may_write(public.enrichment_tracking) is
  'Returns whether the caller may report progress of the job: service_role, the members of its account, and API keys with a'
  ' scope for writing it.';
select audiencelab_private.revoke_privileges('enrichment_private', '{may_write}');

select audiencelab_private.prepare_functions(
  'report_enrichment_progress(p_job_id uuid, p_unit text, p_processed integer, p_failed integer)
   returns public.enrichment_tracking',
  'reset_enrichment_progress(p_job_id uuid, p_unit text DEFAULT NULL::text) returns public.enrichment_tracking',
  'retry_enrichment_job(p_job_id uuid, p_reset boolean DEFAULT false) returns public.enrichment_tracking',
  'fail_stale_enrichment_jobs(p_older_than interval) returns integer'
);
-- A function of earlier versions, which no other function calls.
-- squawk-ignore ban-drop-function
drop function if exists enrichment_private.count_records(uuid);

create or replace function enrichment_private.combine_partial_sums(p_job_id uuid)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  with combined as (
    delete from enrichment_private.partial_sums as part
    where part.job_id = p_job_id
      and part.session_pid in (
        -- A session that is reporting keeps its row.
        select free.session_pid
        from enrichment_private.partial_sums as free
        where free.job_id = p_job_id and free.session_pid <> 0
        for update skip locked
      )
    returning part.processed_records, part.failed_records
  )
  insert into enrichment_private.partial_sums as part (job_id, session_pid, processed_records, failed_records)
  select p_job_id, 0, sum(combined.processed_records), sum(combined.failed_records)
  from combined
  having count(*) > 0
  on conflict (job_id, session_pid) do update
  set
    processed_records = part.processed_records + excluded.processed_records,
    failed_records = part.failed_records + excluded.failed_records;
$$;
comment on function enrichment_private.combine_partial_sums(uuid) is
  'Combines the partial sums of a job in one row, so that sessions of the past do not slow down its reports. Requires the'
  ' lock on the job.';
select audiencelab_private.revoke_privileges('enrichment_private', '{combine_partial_sums}');

create or replace function public.report_enrichment_progress(
  p_job_id uuid,
  p_unit text,
  p_processed integer,
  p_failed integer
)
returns public.enrichment_tracking
language plpgsql
volatile
-- Definer: callers have no access to unit_progress. The function checks write access to the job itself.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  -- Each update of the job is sent to all that watch it.
  c_interval constant interval := interval '200 milliseconds';
  -- Adding up more of them would slow down the reports.
  c_few_partial_sums constant integer := 2;
  -- Most are of sessions that have ended.
  c_max_partial_sums constant integer := 64;
  v_job public.enrichment_tracking;
  v_found record;
  v_updates boolean := false;
  v_added_processed integer;
  v_added_failed integer;
  v_processed integer;
  v_failed integer;
  v_parts bigint;
begin
  if p_unit is null or btrim(p_unit) = '' or length(p_unit) > 255 then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the name of the unit must not be blank and must have at most 255 characters';
  end if;
  if p_processed is null or p_processed < 0 or p_failed is null or p_failed < 0 then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the numbers of processed and failed records must be 0 or more';
  end if;
  -- Calls are avoided here: one that sets its search_path takes as long as a look-up.
  if current_setting('transaction_isolation') <> 'read committed' then
    perform enrichment_private.require_read_committed();
  end if;

  select
    job,
    exists (
      select from enrichment_private.unit_progress as progress
      where progress.job_id = job.id and progress.unit = p_unit
    ) as has_unit,
    exists (
      select from enrichment_private.partial_sums as part
      where part.job_id = job.id
      offset c_few_partial_sums
    ) as has_many_sums
  into v_found
  from public.enrichment_tracking as job
  where job.id = p_job_id;
  v_job := v_found.job;
  -- Locks only after the check, so that callers without access neither wait nor block others.
  if current_setting('role') <> 'service_role' and enrichment_private.may_write(v_job) is not true then
    raise exception using
      errcode = 'PT404',
      message = 'the enrichment job does not exist, or you may not update it';
  end if;

  -- Every lock on the job precedes the advisory lock: see lock_reports.
  if v_job.status = 'pending' then
    perform from public.enrichment_tracking as job where job.id = p_job_id for no key update;
    v_updates := true;
  -- A time in the future is from before the clock was set back.
  elsif v_job.updated_at not between clock_timestamp() - c_interval and clock_timestamp() then
    perform from public.enrichment_tracking as job
    where job.id = p_job_id and job.updated_at not between clock_timestamp() - c_interval and clock_timestamp()
    -- Reports do not queue for the lock: the session that has it is updating the job.
    for no key update skip locked;
    v_updates := found;
  end if;
  if not v_updates and not v_found.has_unit then
    -- As the check of the foreign key will.
    perform from public.enrichment_tracking as job where job.id = p_job_id for key share;
  end if;
  perform pg_advisory_xact_lock_shared(uuid_hash_extended(p_job_id, 0));

  select * into v_job from public.enrichment_tracking as job where job.id = p_job_id;
  if not found then
    raise exception using
      errcode = 'PT404',
      message = 'the enrichment job does not exist, or you may not update it';
  end if;
  if v_job.status in ('completed', 'failed') then
    raise exception using
      errcode = 'PT409',
      message = format('the enrichment job is already %s: its progress can no longer change', v_job.status);
  end if;

  -- Another first report may have updated the job while this one waited.
  v_updates := v_updates and (
    v_job.status = 'pending' or v_job.updated_at not between clock_timestamp() - c_interval and clock_timestamp()
  );

  -- Totals only increase, so repeated and late reports change nothing.
  insert into enrichment_private.unit_progress as progress (
    job_id, unit, processed_records, failed_records, added_processed, added_failed
  )
  values (p_job_id, p_unit, p_processed, p_failed, p_processed, p_failed)
  on conflict (job_id, unit) do update
  set
    processed_records = greatest(progress.processed_records, excluded.processed_records),
    failed_records = greatest(progress.failed_records, excluded.failed_records),
    added_processed = greatest(excluded.processed_records - progress.processed_records, 0),
    added_failed = greatest(excluded.failed_records - progress.failed_records, 0),
    updated_at = now()
  where progress.processed_records < excluded.processed_records
    or progress.failed_records < excluded.failed_records
  returning progress.added_processed, progress.added_failed into v_added_processed, v_added_failed;
  if v_added_processed > 0 or v_added_failed > 0 then
    insert into enrichment_private.partial_sums as part (job_id, session_pid, processed_records, failed_records)
    values (p_job_id, pg_backend_pid(), v_added_processed, v_added_failed)
    on conflict (job_id, session_pid) do update
    set
      processed_records = part.processed_records + excluded.processed_records,
      failed_records = part.failed_records + excluded.failed_records;
  end if;

  -- The sums are limited to the range of the columns, so that a wrong report does not make those of other units fail.
  if not v_updates then
    v_processed := p_processed;
    v_failed := p_failed;
    -- With many partial sums, the other units are included at the next update of the job.
    if not v_found.has_many_sums then
      select
        least(coalesce(sum(part.processed_records), 0), 2147483647)::integer,
        least(coalesce(sum(part.failed_records), 0), 2147483647)::integer
      into v_processed, v_failed
      from enrichment_private.partial_sums as part
      where part.job_id = p_job_id;
    end if;
    v_job.processed_records := greatest(v_job.processed_records, v_processed);
    v_job.failed_records := greatest(v_job.failed_records, v_failed);
    return v_job;
  end if;

  select
    least(coalesce(sum(part.processed_records), 0), 2147483647)::integer,
    least(coalesce(sum(part.failed_records), 0), 2147483647)::integer,
    count(*)
  into v_processed, v_failed, v_parts
  from enrichment_private.partial_sums as part
  where part.job_id = p_job_id;
  if v_parts > c_max_partial_sums then
    perform enrichment_private.combine_partial_sums(p_job_id);
  end if;
  update public.enrichment_tracking as job
  set
    status = 'processing',
    started_at = coalesce(job.started_at, now()),
    processed_records = greatest(job.processed_records, v_processed),
    failed_records = greatest(job.failed_records, v_failed)
  where job.id = p_job_id
  returning * into v_job;
  return v_job;
end;
$$;
comment on function public.report_enrichment_progress(uuid, text, integer, integer) is
$$Stores the running totals of a unit of work and returns the job. The counters of the job become the sums over all its units.
The first report sets the status to processing and, if it is null, started_at to now(). Totals never decrease, so a repeated
or late report changes no counter: a unit that is processed again after a crash, under the same name, counts once.

The counters, and updated_at, change with the first report after 200 milliseconds. A report within 200 milliseconds of such a
change is not in the counters until the next report. They are exact once the job is completed or failed. The counters of the
returned job are at least the totals of this report.

Callers: service_role; authenticated, as a member of the account of the job; api_key, with a scope for writing the job.

- p_unit: a name that identifies the unit of work within the job; not blank, at most 255 characters.
- p_processed: the number of records of the unit that are processed; 0 or more.
- p_failed: how many of them failed; 0 or more.

Errors: 22023 for an invalid argument; PT404 (HTTP 404) if the job does not exist or the caller may not update it; PT409
(HTTP 409) if the job is completed or failed; 25000 at an isolation level above read committed.$$;
select audiencelab_private.revoke_privileges('public', '{report_enrichment_progress}');
grant execute on function public.report_enrichment_progress(uuid, text, integer, integer)
  to authenticated, service_role, api_key;

create or replace function public.reset_enrichment_progress(p_job_id uuid, p_unit text default null)
returns public.enrichment_tracking
language plpgsql
volatile
-- Definer: callers cannot write unit_progress. Only service_role may call this function.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_job public.enrichment_tracking;
begin
  perform from public.enrichment_tracking as job where job.id = p_job_id for no key update;
  if not found then
    raise exception using errcode = 'PT404', message = 'the enrichment job does not exist';
  end if;
  perform enrichment_private.lock_reports(p_job_id);
  delete from enrichment_private.unit_progress as progress
  where progress.job_id = p_job_id and (p_unit is null or progress.unit = p_unit);
  update public.enrichment_tracking as job
  set (processed_records, failed_records) = (
    select counted.processed_records, counted.failed_records
    from enrichment_private.count_units(p_job_id) as counted
  )
  where job.id = p_job_id
  returning * into v_job;
  return v_job;
end;
$$;
comment on function public.reset_enrichment_progress(uuid, text) is
$$Deletes the totals of a unit of a job, recalculates the counters of the job and returns it.

Callers: service_role.

- p_unit: the name of the unit. Null, the default, means all units of the job.

Errors: PT404 (HTTP 404) if the job does not exist; 25000 at an isolation level above read committed.$$;
select audiencelab_private.revoke_privileges('public', '{reset_enrichment_progress}');
grant execute on function public.reset_enrichment_progress(uuid, text) to service_role;

create or replace function public.retry_enrichment_job(p_job_id uuid, p_reset boolean default false)
returns public.enrichment_tracking
language plpgsql
volatile
-- Definer: callers cannot write unit_progress. The function checks write access to the job itself.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_job public.enrichment_tracking;
  v_may_write boolean;
begin
  select * into v_job from public.enrichment_tracking as job where job.id = p_job_id;
  v_may_write := enrichment_private.may_write(v_job);
  if v_may_write then
    -- Locks only after the check, so that callers without access neither wait nor block others.
    select * into v_job from public.enrichment_tracking as job where job.id = p_job_id for no key update;
    v_may_write := found;
  end if;
  if v_may_write is not true then
    raise exception using
      errcode = 'PT404',
      message = 'the enrichment job does not exist, or you may not update it';
  end if;
  if v_job.status <> 'failed' then
    raise exception using
      errcode = 'PT409',
      message = format('the enrichment job is %s: only a failed job can be retried', v_job.status);
  end if;

  if p_reset then
    perform enrichment_private.lock_reports(p_job_id);
    delete from enrichment_private.unit_progress as progress where progress.job_id = p_job_id;
    perform enrichment_private.count_units(p_job_id);
    v_job.processed_records := 0;
    v_job.failed_records := 0;
    v_job.started_at := null;
  end if;
  update public.enrichment_tracking as job
  set
    status = 'pending',
    processed_records = v_job.processed_records,
    failed_records = v_job.failed_records,
    started_at = v_job.started_at,
    completed_at = null,
    metadata = case when jsonb_typeof(job.metadata) = 'object' then job.metadata - 'error' else job.metadata end
  where job.id = p_job_id
  returning * into v_job;
  return v_job;
end;
$$;
comment on function public.retry_enrichment_job(uuid, boolean) is
$$Sets a failed job to pending again and returns it. completed_at becomes null, and the key error is removed from metadata.

Callers: service_role; authenticated, as a member of the account of the job; api_key, with a scope for writing the job.

- p_reset: whether the job starts from the beginning: the totals of its units are deleted, its counters become 0 and
  started_at becomes null. By default all of these are kept, so that finished units need not be processed again.

Errors: PT404 (HTTP 404) if the job does not exist or the caller may not update it; PT409 (HTTP 409) if the job is not
failed; with p_reset, 25000 at an isolation level above read committed.$$;
select audiencelab_private.revoke_privileges('public', '{retry_enrichment_job}');
grant execute on function public.retry_enrichment_job(uuid, boolean) to authenticated, service_role, api_key;

create or replace function public.fail_stale_enrichment_jobs(p_older_than interval)
returns integer
language plpgsql
volatile
-- Definer: the owner may execute the functions of the triggers. Only service_role may call this function.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  -- Each job takes an entry of PostgreSQL's table of locks.
  c_max_jobs constant integer := 1000;
  v_job_id uuid;
  v_count integer := 0;
begin
  -- Shorter than a minute, it would fail jobs whose worker sends a report every 30 seconds and was delayed once.
  if (p_older_than between interval '1 minute' and interval '365 days') is not true then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the time without a report must be between 1 minute and 365 days';
  end if;

  for v_job_id in
    select job.id
    from public.enrichment_tracking as job
    where job.status = 'processing' and job.updated_at < now() - p_older_than
    order by job.updated_at
    limit c_max_jobs
  loop
    -- Without waiting: a lock on the job is a sign of life, and so is a report that is not committed yet.
    perform from public.enrichment_tracking as job
    where job.id = v_job_id and job.status = 'processing' and job.updated_at < now() - p_older_than
    for no key update skip locked;
    continue when not found or not pg_try_advisory_xact_lock(uuid_hash_extended(v_job_id, 0));
    begin
      update public.enrichment_tracking as job
      set
        status = 'failed',
        completed_at = now(),
        metadata = case when jsonb_typeof(job.metadata) = 'object' then job.metadata else '{}' end
          || jsonb_build_object('error', format('no report for %s', p_older_than))
      where job.id = v_job_id;
    exception
      -- There is no room for the reason in the metadata. One account must not stop the function for all.
      when check_violation then
        update public.enrichment_tracking as job
        set status = 'failed', completed_at = now()
        where job.id = v_job_id;
    end;
    v_count := v_count + 1;
  end loop;
  return v_count;
end;
$$;
comment on function public.fail_stale_enrichment_jobs(interval) is
$$Sets processing jobs to failed that were not updated for so long, at most 1,000 of them, those that are silent longest first.
Returns their number. The key error of their metadata is the reason, if the metadata has room for it. Jobs that are being
reported on or updated are skipped.

Callers: service_role.

- p_older_than: the time without a report, between 1 minute and 365 days.

Errors: 22023 if p_older_than is out of range; 25000 at an isolation level above read committed.$$;
select audiencelab_private.revoke_privileges('public', '{fail_stale_enrichment_jobs}');
grant execute on function public.fail_stale_enrichment_jobs(interval) to service_role;

drop schema audiencelab_desired cascade;

-- Deletes the progress of jobs that no longer exist, for example because the table of jobs was dropped.
delete from enrichment_private.unit_progress as progress
where not exists (select from public.enrichment_tracking as job where job.id = progress.job_id);
delete from enrichment_private.partial_sums as part
where not exists (select from public.enrichment_tracking as job where job.id = part.job_id);

-- If an earlier version of this migration was applied after this one, there are two tables.
do $merging$
begin
  if to_regclass('enrichment_private.worker_progress') is null then
    return;
  end if;
  insert into enrichment_private.unit_progress as progress (job_id, unit, processed_records, failed_records, updated_at)
  select earlier.job_id, earlier.worker, earlier.processed_records, earlier.failed_records, earlier.updated_at
  from enrichment_private.worker_progress as earlier
  where exists (select from public.enrichment_tracking as job where job.id = earlier.job_id)
  on conflict (job_id, unit) do update
  set
    processed_records = greatest(progress.processed_records, excluded.processed_records),
    failed_records = greatest(progress.failed_records, excluded.failed_records);
  delete from enrichment_private.partial_sums;
  drop table enrichment_private.worker_progress;
end;
$merging$;

-- Totals from before the partial sums.
insert into enrichment_private.partial_sums (job_id, session_pid, processed_records, failed_records)
select progress.job_id, 0, sum(progress.processed_records), sum(progress.failed_records)
from enrichment_private.unit_progress as progress
where not exists (select from enrichment_private.partial_sums as part where part.job_id = progress.job_id)
group by progress.job_id
having sum(progress.processed_records) > 0 or sum(progress.failed_records) > 0
on conflict do nothing;

-- Foreign keys come last, because adding one locks the referenced table until the transaction ends.
select audiencelab_private.apply_foreign_keys('enrichment_private.unit_progress', '{
  "unit_progress_job_id_fkey":
    "FOREIGN KEY (job_id) REFERENCES public.enrichment_tracking(id) ON DELETE CASCADE"
}');
select audiencelab_private.apply_foreign_keys('public.enrichment_tracking', '{
  "enrichment_tracking_account_id_fkey": "FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE",
  "enrichment_tracking_created_by_fkey": "FOREIGN KEY (created_by) REFERENCES auth.users(id) ON DELETE CASCADE"
}');

notify pgrst, 'reload schema';


-- 20261122000400_segments.sql

do $requirements$
begin
  if to_regprocedure('api_keys_private.caller_may_write(text, uuid, uuid)') is null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: apply 20261122000200_api_keys.sql first';
  end if;
end;
$requirements$;
select audiencelab_private.require_ownership(
  'public', '{segments,create_studio_segment,delete_studio_segment,restore_studio_segment}'
);

-- The table is created in this schema, then applied to that of the database.
create schema audiencelab_desired;

create table audiencelab_desired.segments (
  id uuid not null default gen_random_uuid(),
  account_id uuid not null,
  name text not null,
  description text,
  source_type text not null,
  source_id text not null,
  filters jsonb not null default '[]',
  enrichment_fields text[] not null default '{}',
  custom_columns jsonb not null default '[]',
  tags text[] not null default '{}',
  created_by uuid not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted boolean not null default false,
  constraint segments_pkey primary key (id),
  constraint segments_source_type_check check (source_type in ('audience', 'webhook_upload', 'csv_upload'))
);
-- Lists are read newest first within an account; id makes the order total. The policy reads the included columns, so that
-- counting uses index-only scans.
create index segments_account_id_created_at_id_idx
  on audiencelab_desired.segments (account_id, created_at desc, id desc) include (deleted, updated_at);
create index segments_account_id_source_type_created_at_idx
  on audiencelab_desired.segments (account_id, source_type, created_at desc);
create index segments_created_by_idx on audiencelab_desired.segments (created_by);
-- BRIN, because the planner could scan a B-tree of all accounts for one page of an account.
create index segments_created_at_idx on audiencelab_desired.segments using brin (created_at);
-- For purging deleted segments, which are few.
create index segments_deleted_idx on audiencelab_desired.segments (updated_at) where deleted;

create trigger set_timestamps_segments
  before update on audiencelab_desired.segments
  for each row execute function public.trigger_set_timestamps();
create trigger set_server_columns_segments
  before insert on audiencelab_desired.segments
  for each row execute function audiencelab_private.set_server_columns();
create trigger keep_identity_segments
  before update of id, account_id, created_by on audiencelab_desired.segments
  for each row
  when (new.id <> old.id or new.account_id <> old.account_id or new.created_by <> old.created_by)
  execute function audiencelab_private.keep_identity();

create trigger segments_name_limit
  before insert or update of name on audiencelab_desired.segments
  for each row when (length(new.name) > 255)
  execute function audiencelab_private.enforce_limit('name', 'must have at most 255 characters');
create trigger segments_description_limit
  before insert or update of description on audiencelab_desired.segments
  for each row when (length(new.description) > 10000)
  execute function audiencelab_private.enforce_limit('description', 'must have at most 10,000 characters');
create trigger segments_source_id_limit
  before insert or update of source_id on audiencelab_desired.segments
  for each row when (length(new.source_id) > 1000)
  execute function audiencelab_private.enforce_limit('source_id', 'must have at most 1,000 characters');
-- Short values cannot exceed the limits. Checking the length first saves the function call for most rows.
create trigger segments_filters_limit
  before insert or update of filters on audiencelab_desired.segments
  for each row
  when (octet_length(new.filters::text) > 200 and audiencelab_private.exceeds_json_limit(new.filters))
  execute function audiencelab_private.enforce_limit(
    'filters', 'must have at most 262,144 bytes as text, 100 levels, and numbers in the range of a double'
  );
create trigger segments_custom_columns_limit
  before insert or update of custom_columns on audiencelab_desired.segments
  for each row
  when (octet_length(new.custom_columns::text) > 200 and audiencelab_private.exceeds_json_limit(new.custom_columns))
  execute function audiencelab_private.enforce_limit(
    'custom_columns', 'must have at most 262,144 bytes as text, 100 levels, and numbers in the range of a double'
  );
create trigger segments_tags_limit
  before insert or update of tags on audiencelab_desired.segments
  for each row
  when (octet_length(new.tags::text) > 255 and audiencelab_private.exceeds_texts_limit(new.tags))
  execute function audiencelab_private.enforce_limit('tags', 'must have at most 1,000 elements of at most 255 characters');
create trigger segments_enrichment_fields_limit
  before insert or update of enrichment_fields on audiencelab_desired.segments
  for each row
  when (octet_length(new.enrichment_fields::text) > 255 and audiencelab_private.exceeds_texts_limit(new.enrichment_fields))
  execute function audiencelab_private.enforce_limit(
    'enrichment_fields', 'must have at most 1,000 elements of at most 255 characters'
  );

-- PostgreSQL also applies this policy to the new row of an UPDATE with a WHERE clause, and a soft delete marks that row as
-- deleted. The policy therefore admits rows that the current transaction changed: the trigger sets their updated_at to
-- now(), and a transaction that only reads has no transaction id.
create policy segments_select on audiencelab_desired.segments
  for select to authenticated
  using (
    account_id = any (array(select audiencelab_private.member_account_ids()))
    and (not deleted or (updated_at = now() and pg_current_xact_id_if_assigned() is not null))
  );
create policy segments_insert on audiencelab_desired.segments
  for insert to authenticated
  with check (account_id = any (array(select audiencelab_private.member_account_ids())));
-- PostgreSQL does not apply segments_select to an UPDATE or DELETE without a WHERE clause, so these policies also exclude
-- deleted rows.
create policy segments_update on audiencelab_desired.segments
  for update to authenticated
  using (account_id = any (array(select audiencelab_private.member_account_ids())) and not deleted)
  with check (account_id = any (array(select audiencelab_private.member_account_ids())));
create policy segments_delete on audiencelab_desired.segments
  for delete to authenticated
  using (account_id = any (array(select audiencelab_private.member_account_ids())) and not deleted);
-- An API key reads and updates the segments of its account that its scopes cover: all segments ("*") or those with the id in
-- a scope. A scope for writing includes reading, because an UPDATE with a WHERE clause reads. Only a scope for writing all
-- segments covers new ones. Deleted segments as above.
create policy segments_select_api_key on audiencelab_desired.segments
  for select to api_key
  using (
    account_id = (select public.get_api_key_account_id())
    and (not deleted or (updated_at = now() and pg_current_xact_id_if_assigned() is not null))
    and (
      (select api_keys_private.has_scope_on_all('segment', '{read,write}'))
      or id = any (array(select api_keys_private.scoped_entity_ids('segment', '{read,write}')))
    )
  );
create policy segments_insert_api_key on audiencelab_desired.segments
  for insert to api_key
  with check (
    account_id = (select public.get_api_key_account_id())
    and (select api_keys_private.has_scope_on_all('segment', '{write}'))
  );
create policy segments_update_api_key on audiencelab_desired.segments
  for update to api_key
  using (
    account_id = (select public.get_api_key_account_id())
    and not deleted
    and (
      (select api_keys_private.has_scope_on_all('segment', '{write}'))
      or id = any (array(select api_keys_private.scoped_entity_ids('segment', '{write}')))
    )
  )
  with check (
    account_id = (select public.get_api_key_account_id())
    and (
      (select api_keys_private.has_scope_on_all('segment', '{write}'))
      or id = any (array(select api_keys_private.scoped_entity_ids('segment', '{write}')))
    )
  );

select audiencelab_private.apply_table('public', 'segments');
comment on table public.segments is 'Saved audience segments, by account. Deleted segments are hidden until they are purged.';
comment on column public.segments.source_id is 'The id of the audience or upload. source_type states which of them it is.';
comment on column public.segments.filters is
  'Array of objects such as {"field": "country", "operator": "=", "value": "US"}.';
comment on column public.segments.custom_columns is
  'Array of objects such as {"field": "score", "headerName": "Score", "type": "number"}.';
comment on column public.segments.deleted is 'Whether the segment is deleted. Members do not see deleted segments.';
grant select, insert, update, delete on public.segments to authenticated;
grant select, insert, update, delete on public.segments to service_role;
grant select, insert on public.segments to api_key;
-- Not the columns that identify the segment, such as account_id and created_by.
grant update (
  name, description, source_type, source_id, filters, enrichment_fields, custom_columns, tags, deleted
) on public.segments to api_key;
select audiencelab_private.publish('public.segments');

select audiencelab_private.prepare_functions(
  'create_studio_segment(p_account_id uuid, p_name text, p_source_type text, p_source_id text,
     p_description text DEFAULT NULL::text, p_filters jsonb DEFAULT ''[]''::jsonb,
     p_enrichment_fields text[] DEFAULT ''{}''::text[], p_custom_columns jsonb DEFAULT ''[]''::jsonb,
     p_tags text[] DEFAULT ''{}''::text[])
   returns uuid',
  'delete_studio_segment(p_segment_id uuid) returns void',
  'restore_studio_segment(p_segment_id uuid) returns public.segments'
);

create or replace function audiencelab_private.require_segment_writer(p_account_id uuid, p_segment_id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  -- In a definer function, current_user is the owner, but the setting "role" is still the role of the request.
  if current_setting('role') = 'api_key' then
    if not api_keys_private.caller_may_write('segment', p_account_id, p_segment_id) then
      raise exception using
        errcode = 'PT404',
        message = 'the segment does not exist, or the API key has no scope for writing it';
    end if;
  elsif not audiencelab_private.is_member(p_account_id) then
    raise exception using
      errcode = 'PT404',
      message = 'the segment does not exist, or you are not a member of its account';
  end if;
end;
$$;
comment on function audiencelab_private.require_segment_writer(uuid, uuid) is
  'Raises PT404 unless the caller may write the segment of the account: as a member, or as an API key with a scope for it.';
select audiencelab_private.revoke_privileges('audiencelab_private', '{require_segment_writer}');

create or replace function public.create_studio_segment(
  p_account_id uuid,
  p_name text,
  p_source_type text,
  p_source_id text,
  p_description text default null,
  p_filters jsonb default '[]',
  p_enrichment_fields text[] default '{}',
  p_custom_columns jsonb default '[]',
  p_tags text[] default '{}'
)
returns uuid
language plpgsql
volatile
-- Definer: callers have no access to schema audiencelab_private. The function checks membership and scopes itself.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid;
begin
  -- In a definer function, current_user is the owner, but the setting "role" is still the role of the request.
  if current_setting('role') <> 'api_key' then
    perform audiencelab_private.require_member(p_account_id);
  elsif not api_keys_private.caller_may_write('segment', p_account_id) then
    raise exception using
      errcode = 'insufficient_privilege',
      message = 'the account is not that of the API key, or the API key has no scope for writing all segments';
  end if;
  if p_name is null or btrim(p_name) = '' then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the name of a segment must not be blank';
  end if;
  if p_source_id is null or btrim(p_source_id) = '' then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the source id of a segment must not be blank';
  end if;
  if p_source_type is null or p_source_type not in ('audience', 'webhook_upload', 'csv_upload') then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the source type of a segment must be audience, webhook_upload or csv_upload';
  end if;
  if jsonb_typeof(p_filters) <> 'array' or p_filters @? 'strict $[*] ? (@.type() != "object")' then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'filters must be an array of objects',
      hint = 'A filter is {"field": "country", "operator": "=", "value": "US"}.';
  end if;
  if jsonb_typeof(p_custom_columns) <> 'array' or p_custom_columns @? 'strict $[*] ? (@.type() != "object")' then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'custom columns must be an array of objects',
      hint = 'A custom column is {"field": "score", "headerName": "Score", "type": "number"}.';
  end if;

  insert into public.segments (
    account_id, name, source_type, source_id, description, filters, enrichment_fields, custom_columns, tags, created_by
  )
  values (
    p_account_id,
    p_name,
    p_source_type,
    p_source_id,
    p_description,
    coalesce(p_filters, '[]'),
    coalesce(p_enrichment_fields, '{}'),
    coalesce(p_custom_columns, '[]'),
    coalesce(p_tags, '{}'),
    audiencelab_private.caller_id()
  )
  returning id into v_id;
  return v_id;
end;
$$;
comment on function public.create_studio_segment(uuid, text, text, text, text, jsonb, text[], jsonb, text[]) is
$$Creates a segment in an account and returns its id. The caller becomes its created_by, or if the caller is an API key, the
user who created the key.

Callers: authenticated, as a member of the account; api_key, with a scope for writing all segments.

- p_name: not blank, at most 255 characters.
- p_source_type: audience, webhook_upload or csv_upload.
- p_source_id: the id of the audience or upload; not blank, at most 1,000 characters.
- p_description: at most 10,000 characters.
- p_filters, p_custom_columns: arrays of objects, at most 262,144 bytes as text and 100 levels each.
- p_enrichment_fields, p_tags: at most 1,000 elements of at most 255 characters.

Errors: 42501 if the account does not exist or the caller may not create segments in it; 22023 for an invalid argument; 23514
for a value that exceeds a limit; PT409 (HTTP 409) if the user who created the API key no longer exists.$$;
select audiencelab_private.revoke_privileges('public', '{create_studio_segment}');
grant execute on function public.create_studio_segment(uuid, text, text, text, text, jsonb, text[], jsonb, text[])
  to authenticated, api_key;

create or replace function public.delete_studio_segment(p_segment_id uuid)
returns void
language plpgsql
volatile
-- Definer: row level security hides deleted segments. The function checks membership and scopes itself.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_account_id uuid;
begin
  select segment.account_id into v_account_id from public.segments as segment where segment.id = p_segment_id;
  perform audiencelab_private.require_segment_writer(v_account_id, p_segment_id);
  update public.segments as segment set deleted = true where segment.id = p_segment_id and not segment.deleted;
end;
$$;
comment on function public.delete_studio_segment(uuid) is
$$Deletes a segment softly: the segment is hidden until it is restored or purged. A repeated call has no effect.

Callers: authenticated, as a member of the account of the segment; api_key, with a scope for writing it.

Errors: PT404 (HTTP 404) if the segment does not exist or the caller may not write it.$$;
select audiencelab_private.revoke_privileges('public', '{delete_studio_segment}');
grant execute on function public.delete_studio_segment(uuid) to authenticated, api_key;

create or replace function public.restore_studio_segment(p_segment_id uuid)
returns public.segments
language plpgsql
volatile
-- Definer: row level security hides deleted segments. The function checks membership and scopes itself.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_segment public.segments;
begin
  select * into v_segment from public.segments as segment where segment.id = p_segment_id;
  perform audiencelab_private.require_segment_writer(v_segment.account_id, p_segment_id);
  if v_segment.deleted then
    update public.segments as segment set deleted = false where segment.id = p_segment_id
    returning * into v_segment;
  end if;
  return v_segment;
end;
$$;
comment on function public.restore_studio_segment(uuid) is
$$Restores a deleted segment and returns it. A segment that is not deleted is returned unchanged.

Callers: authenticated, as a member of the account of the segment; api_key, with a scope for writing it.

Errors: PT404 (HTTP 404) if the segment does not exist or the caller may not write it.$$;
select audiencelab_private.revoke_privileges('public', '{restore_studio_segment}');
grant execute on function public.restore_studio_segment(uuid) to authenticated, api_key;

drop schema audiencelab_desired cascade;

-- Foreign keys come last, because adding one locks the referenced table until the transaction ends.
select audiencelab_private.apply_foreign_keys('public.segments', '{
  "segments_account_id_fkey": "FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE",
  "segments_created_by_fkey": "FOREIGN KEY (created_by) REFERENCES auth.users(id) ON DELETE CASCADE"
}');

notify pgrst, 'reload schema';


-- 20261122000500_direct_access.sql

do $requirements$
begin
  if to_regclass('api_keys_private.live_api_keys') is null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: apply 20261122000200_api_keys.sql first';
  end if;
end;
$requirements$;
select audiencelab_private.require_ownership(
  'api_keys_direct', '{find_api_key,pre_request,configured_function,enable,disable}'
);

-- A schema of its own, because every request fails if the pre-request function is missing. If the schema api_keys_private is
-- dropped, this one remains, and requests without the header succeed.
create schema if not exists api_keys_direct;
comment on schema api_keys_direct is
  'Direct access with API keys through PostgREST''s pre-request function. Not exposed by the REST API.';
select audiencelab_private.revoke_privileges('api_keys_direct', '{}');
-- To every role, because a role without these privileges cannot make any request while direct access is enabled.
grant usage on schema api_keys_direct to public;

create or replace function api_keys_direct.find_api_key(p_api_key text)
returns uuid
language plpgsql
stable
-- Definer: callers have no access to the table. The result reveals nothing about other keys than the one passed.
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select api_key.id
    from api_keys_private.live_api_keys as api_key
    where api_key.key_hash = encode(sha256(convert_to(p_api_key, 'UTF8')), 'hex')
      -- The address of the client is not known here.
      and api_key.allowed_ips is null
  );
end;
$$;
comment on function api_keys_direct.find_api_key(text) is
  'Returns the id of the live API key with this text. Returns null if there is none, and for keys with allowed_ips. Does not'
  ' find keys that are still hashed with bcrypt, because requests that only read cannot re-hash them.';
select audiencelab_private.revoke_privileges('api_keys_direct', '{find_api_key}');
-- pre_request calls it for requests without a token, which run as anon.
grant execute on function api_keys_direct.find_api_key(text) to anon;

create or replace function api_keys_direct.pre_request()
returns void
language plpgsql
volatile
-- Invoker: a definer function cannot set the role.
security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_api_key text;
  v_id uuid;
begin
  -- Most requests end here. The search is faster than reading the JSON, and never raises an error.
  if coalesce(strpos(current_setting('request.headers', true), '"x-api-key"'), 0) = 0 then
    return;
  end if;
  v_api_key := current_setting('request.headers', true)::json ->> 'x-api-key';
  if v_api_key is null then
    return;
  end if;

  -- PostgREST sends the messages as HTTP reason phrases, so they must not contain line breaks.
  if current_setting('role') <> 'anon' then
    raise exception using
      errcode = 'PT400',
      message = 'the request has both an API key and a token',
      hint = 'Send either the header x-api-key with the publishable key of the project, or a token.';
  end if;
  v_id := api_keys_direct.find_api_key(v_api_key);
  if v_id is null then
    raise exception using errcode = 'PT401', message = 'Invalid API key';
  end if;

  perform set_config('request.jwt.claims', json_build_object('role', 'api_key', 'sub', v_id)::text, true);
  -- PostgREST applies the settings of a role only if the token names it.
  perform set_config('statement_timeout', '8s', true);
  perform set_config('role', 'api_key', true);
end;
$$;
comment on function api_keys_direct.pre_request() is
$$Pre-request function of PostgREST: a request with the header x-api-key runs as role api_key with the id of the key as sub of
its claims, and with a statement timeout of 8 s. Without the header it does nothing.

Callers: PostgREST, in the transaction of each request, as the role of the request.

Errors: PT401 (HTTP 401) 'Invalid API key' if no live API key has this text, or if the key has allowed_ips; PT400 (HTTP 400) if
the role of the request is not anon.

The result type must stay void: open connections of PostgREST would fail with 0A000.$$;
select audiencelab_private.revoke_privileges('api_keys_direct', '{pre_request}');
grant execute on function api_keys_direct.pre_request() to public;

create or replace function api_keys_direct.configured_function()
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (
      select substr(setting, strpos(setting, '=') + 1)
      from pg_db_role_setting
      cross join lateral unnest(setconfig) as setting
      where setrole = to_regrole('authenticator')
        and setdatabase in (0, (select oid from pg_database where datname = current_database()))
        and setting like 'pgrst.db\_pre\_request=%'
      -- The setting for the database has precedence over that for all databases, which has the oid 0.
      order by setdatabase desc
      limit 1
    ),
    ''
  );
$$;
comment on function api_keys_direct.configured_function() is
  'Returns the pre-request function that PostgREST reads from the settings of role authenticator. Returns an empty text if none'
  ' is set, or if only PostgREST''s configuration file names one.';
select audiencelab_private.revoke_privileges('api_keys_direct', '{configured_function}');

create or replace function api_keys_direct.enable()
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  c_ours constant text := 'api_keys_direct.pre_request';
  c_found constant text := api_keys_direct.configured_function();
begin
  if c_found not in ('', c_ours) then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = format('direct access was not enabled, because %s is already the pre-request function', c_found),
      hint = format('Make %s security invoker, and call ours at its end: perform %s();', c_found, c_ours);
  end if;
  begin
    execute format(
      'alter role authenticator in database %I set pgrst.db_pre_request = %L', current_database(), c_ours
    );
  exception
    when insufficient_privilege then
      raise exception using
        errcode = 'insufficient_privilege',
        message = format('direct access was not enabled: %s', sqlerrm),
        hint = format(
          case
            when sqlerrm like '%parameter%'
              then 'As a superuser, run: grant set on parameter pgrst.db_pre_request to %I'
            else 'As a superuser, run: grant authenticator to %I with admin option'
          end,
          current_user
        );
  end;
  notify pgrst, 'reload config';
end;
$$;
comment on function api_keys_direct.enable() is
$$Enables direct access: sets pgrst.db_pre_request of role authenticator in this database to api_keys_direct.pre_request, and
makes PostgREST reload its configuration. A repeated call has no effect. The setting has precedence over db-pre-request in
PostgREST's configuration file, which this function cannot see.

Callers: the owner of the function, such as postgres.

Errors: 55000 if another pre-request function is set; 42501 if the caller may not set the parameter or alter the role.$$;
select audiencelab_private.revoke_privileges('api_keys_direct', '{enable}');

create or replace function api_keys_direct.disable()
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_is_for_all_databases boolean;
begin
  for v_is_for_all_databases in
    select setdatabase = 0
    from pg_db_role_setting
    where setrole = to_regrole('authenticator')
      and setdatabase in (0, (select oid from pg_database where datname = current_database()))
      and 'pgrst.db_pre_request=api_keys_direct.pre_request' = any (setconfig)
  loop
    if v_is_for_all_databases then
      alter role authenticator reset pgrst.db_pre_request;
    else
      execute format('alter role authenticator in database %I reset pgrst.db_pre_request', current_database());
    end if;
  end loop;
  notify pgrst, 'reload config';
end;
$$;
comment on function api_keys_direct.disable() is
$$Disables direct access: resets pgrst.db_pre_request of role authenticator if it is api_keys_direct.pre_request, and makes
PostgREST reload its configuration. Another pre-request function stays set.

Callers: the owner of the function, such as postgres.

Errors: 42501 if the caller may not set the parameter or alter the role.$$;
select audiencelab_private.revoke_privileges('api_keys_direct', '{disable}');

notify pgrst, 'reload schema';

commit;

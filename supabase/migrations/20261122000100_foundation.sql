-- The foundation of the other migrations: role api_key, the accounts of the caller, and helpers that alter an existing
-- database to match the schema.
--
-- One transaction, safe to run again. It builds on V3's base schema (accounts, memberships, auth) and does not change it.

begin;

set local search_path = '';
-- Requests queue behind a statement that waits for a lock, so the wait is short. After a timeout, run the migration again.
set local lock_timeout = '3s';
set local statement_timeout = '10min';
-- Two sessions that run migrations at the same time wait for each other.
select pg_advisory_xact_lock(hashtext('audiencelab migrations'));
set local client_min_messages = warning;

-- Reports everything that is missing at once, before anything is changed. It reads the catalogs instead of calling
-- to_regclass, which raises an error for a schema that the caller may not use.
do $requirements$
declare
  c_pgcrypto constant text := 'run: create extension pgcrypto with schema extensions,'
    ' or if it is elsewhere: alter extension pgcrypto set schema extensions';
  v_missing text;
begin
  with present (thing) as (
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
  -- From PostgreSQL 16 on, a membership is revoked in the name of the role that granted it.
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
  required (thing, remedy, is_met) as (
    select needed.thing, needed.remedy, needed.thing in (select present.thing from present)
    from (
      values
        ('public.accounts', 'apply V3''s base schema first'),
        ('public.accounts_memberships', 'apply V3''s base schema first'),
        ('public.roles', 'apply V3''s base schema first'),
        ('public.has_role_on_account(uuid, character varying)', 'apply V3''s base schema first'),
        ('public.trigger_set_timestamps()', 'apply V3''s base schema first'),
        ('auth.users', 'this has to be a Supabase database'),
        ('auth.uid()', 'this has to be a Supabase database'),
        ('role anon', 'this has to be a Supabase database'),
        ('role authenticated', 'this has to be a Supabase database'),
        ('role service_role', 'this has to be a Supabase database'),
        ('role authenticator', 'this has to be a Supabase database'),
        ('extensions.gen_random_bytes(integer)', c_pgcrypto),
        ('extensions.crypt(text, text)', c_pgcrypto),
        ('publication supabase_realtime', 'run: create publication supabase_realtime')
    ) as needed (thing, remedy)
    union all
    select
      allowed.thing,
      format('run this as a role that has it, such as postgres; you are %s', current_user),
      allowed.is_met
    from (
      values
        (
          'the right to create role api_key',
          exists (select from api_key) or exists (select from caller where rolsuper or rolcreaterole)
        ),
        ('the right to create schemas', has_database_privilege(current_database(), 'create')),
        (
          'the right to create in schema public and to grant its use',
          not exists (
            select from pg_namespace
            where nspname = 'public'
              and not (has_schema_privilege(oid, 'create') and has_schema_privilege(oid, 'usage with grant option'))
          )
        ),
        (
          'the right to use the schemas auth and extensions',
          not exists (
            select from pg_namespace
            where nspname in ('auth', 'extensions') and not has_schema_privilege(oid, 'usage')
          )
        ),
        (
          'the right to reference public.accounts, public.roles and auth.users',
          not exists (
            select from pg_class as class
            join pg_namespace as namespace on namespace.oid = class.relnamespace
            where (namespace.nspname, class.relname) in (('public', 'accounts'), ('public', 'roles'), ('auth', 'users'))
              and not has_table_privilege(class.oid, 'references')
          )
        ),
        (
          'the right to add tables to publication supabase_realtime',
          not exists (
            select from pg_publication
            where pubname = 'supabase_realtime' and not puballtables and not pg_has_role(pubowner, 'usage')
          )
        )
    ) as allowed (thing, is_met)
    union all
    select
      'the right to alter and grant role api_key',
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
    -- A role that can log in or bypass row level security may have been created so on purpose, so it is not altered.
    select
      'a role api_key without ' || attribute.name,
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
      format('a role api_key that is no member of %s', role_name),
      format('as %s, run: revoke %s from api_key', grantor_name, role_name),
      role_name = 'anon' and is_revocable
    from api_key_membership
    union all
    select
      format('a role api_key without the member %I', member.rolname),
      format('as %I, run: revoke api_key from %I', pg_get_userbyid(granted.grantor), member.rolname),
      member.rolname = 'authenticator' or member.rolsuper or member.rolcreaterole
    from api_key
    join pg_auth_members as granted on granted.roleid = api_key.oid
    join pg_roles as member on member.oid = granted.member
    union all
    select
      'the ownership of schema audiencelab_private',
      format('run this as %s', pg_get_userbyid(nspowner)),
      pg_has_role(nspowner, 'usage')
    from pg_namespace
    where nspname = 'audiencelab_private'
  )
  select string_agg(format(E'\n- %s: %s', missing.things, missing.remedy), '' order by missing.remedy)
  into v_missing
  from (
    select string_agg(required.thing, ', ' order by required.thing) as things, required.remedy
    from required
    where not required.is_met
    group by required.remedy
  ) as missing;

  if v_missing is not null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed, because this is missing:' || v_missing;
  end if;
end;
$requirements$;

-- A request whose token was made for an API key runs as this role; the token's sub is the id of the key.
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
    raise warning 'role api_key inherited the privileges of its roles; it is altered to noinherit';
    alter role api_key noinherit;
  end if;

  for v_granted in
    select pg_get_userbyid(roleid) as role, pg_get_userbyid(member) as member, pg_get_userbyid(grantor) as grantor
    from pg_auth_members
    where (roleid = to_regrole('anon') and member = to_regrole('api_key'))
      -- From PostgreSQL 16 on, the creator of a role is a member already, by a grant of the bootstrap superuser.
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
  -- On PostgreSQL 15 the creator of a role is not a member of it. This gives the same state as on later versions.
  if c_version < 160000 and not (select rolsuper from pg_roles where rolname = current_user) then
    execute format('grant api_key to %I', current_user);
  end if;
end;
$role$;
-- V3's base schema grants usage of schema public to named roles only.
grant usage on schema public to api_key;

create schema if not exists audiencelab_private;
comment on schema audiencelab_private is
  'Functions that the policies and migrations of AudienceLab share. Not exposed by the REST API.';

create or replace function audiencelab_private.caller_id()
returns uuid
language plpgsql
stable
-- Definer, because role api_key has no access to schema auth. It returns the caller's own id only.
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return auth.uid();
exception
  -- A sub that is no UUID makes auth.uid() raise, and claims that are no JSON. Realtime loses the changes of all subscribers
  -- when a policy raises for one of them.
  when others then
    return null;
end;
$$;
comment on function audiencelab_private.caller_id() is
  'Returns the sub of the request''s claims, a user or an API key; null if there is none or it is no UUID. Never raises.';

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
  'Returns the accounts that the caller is a member of, for row level security.';

create or replace function audiencelab_private.is_member(p_account_id uuid, p_account_role varchar default null)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  -- has_role_on_account calls auth.uid(), which raises where caller_id() is null.
  if audiencelab_private.caller_id() is null then
    return false;
  end if;
  -- Passes both arguments, so that an overload of the function cannot make the call ambiguous.
  return public.has_role_on_account(p_account_id, p_account_role) is true;
end;
$$;
comment on function audiencelab_private.is_member(uuid, varchar) is
  'Returns whether the caller is a member of the account, with the account role if one is given. Never null.';

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
comment on function audiencelab_private.require_member(uuid) is 'Raises 42501 unless the caller is a member of the account.';

create or replace function audiencelab_private.is_service()
returns boolean
language sql
stable
-- Definer, so that current_user is the owner of our functions and tables.
security definer
set search_path = pg_catalog, pg_temp
as $$
  -- The setting is the request's role, in definer functions too, or none where no role was set.
  select acting.role = 'service_role' or pg_has_role(acting.role, current_user, 'usage')
  from (
    select case current_setting('role') when 'none' then session_user else current_setting('role')::name end
  ) as acting (role);
$$;
comment on function audiencelab_private.is_service() is
  'Returns whether the request runs as service_role, or as the owner of the tables.';

-- The triggers of the tables that clients write.

create or replace function audiencelab_private.set_server_columns()
returns trigger
language plpgsql
-- Definer, because those who insert have no access to schema audiencelab_private. It reads the caller's own id only.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  -- The setting is the request's role, in definer functions too, or none where no role was set.
  c_role constant name := case current_setting('role') when 'none' then session_user else current_setting('role')::name end;
begin
  -- The owner of the table seeds it, and restores rows as they were.
  if not pg_has_role(c_role, current_user, 'usage') then
    new.created_at := now();
    new.updated_at := now();
    if c_role <> 'service_role' then
      new.created_by := audiencelab_private.caller_id();
    end if;
  end if;
  return new;
end;
$$;
comment on function audiencelab_private.set_server_columns() is
  'Before insert: sets created_at, updated_at and, except for service_role, created_by.';

create or replace function audiencelab_private.keep_identity()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  if not pg_has_role((select relowner from pg_class where oid = tg_relid), 'usage') then
    raise exception using
      errcode = 'insufficient_privilege',
      message = format('id, account_id and created_by of %I never change', tg_table_name);
  end if;
  return new;
end;
$$;
comment on function audiencelab_private.keep_identity() is
  'Before update of id, account_id or created_by: raises 42501, except for the owner of the table.';

-- A limit is a trigger whose condition is true for what exceeds it. A check constraint would also refuse every update of an
-- older row that exceeds it, even if it is NOT VALID.
create or replace function audiencelab_private.enforce_limit()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  c_column constant text := tg_argv[0];
begin
  -- The same value may have been written before the limit was there.
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
  'Before insert or update, when a limit is exceeded: raises 23514. Its arguments are the column and the rule.';

create or replace function audiencelab_private.exceeds_json_limit(p_value jsonb)
returns boolean
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
  select octet_length(p_value::text) > 262144
    -- The outermost value is at level 0.
    or p_value @? 'strict $.**{100} ? (@.type() == "object" || @.type() == "array")'
    -- The range of a double, which most readers of JSON have for numbers.
    or p_value @? 'strict $.** ? (@.type() == "number" && (@ > 1.7976931348623157e308 || @ < -1.7976931348623157e308))';
$$;
comment on function audiencelab_private.exceeds_json_limit(jsonb) is
  'Returns whether JSON has more than 262,144 bytes as text, 100 levels, or a number beyond the range of a double.';

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
  'Returns whether an array has more than 1,000 texts, or one of more than 255 characters.';

-- The functions below are for migrations. A migration creates its tables and types in the schema audiencelab_desired, which
-- it drops at its end. The functions compare each table with the one of the same name that the database has, as the server
-- prints their definitions, and alter the differences. Rows are never deleted. Foreign keys are not created in that schema,
-- because creating and dropping them would lock the referenced tables even if nothing differs.

create or replace function audiencelab_private.require_ownership(p_schema text, p_names text[])
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  v_missing text;
begin
  select string_agg(
    format(
      E'\n- the ownership of %s: %s',
      owned.object,
      case
        when owned.is_api_role
          then format('alter its owner from %s to %I', pg_get_userbyid(owned.owner), current_user)
        else format('run this as %s', pg_get_userbyid(owned.owner))
      end
    ),
    '' order by owned.object
  )
  into v_missing
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
    -- The owner of a table is above row level security, so it cannot be a role that requests run as.
    select
      found.object,
      found.owner,
      pg_get_userbyid(found.owner) in ('anon', 'authenticated', 'service_role', 'authenticator', 'api_key')
  ) as owned (object, owner, is_api_role)
  where owned.is_api_role or not pg_has_role(owned.owner, 'usage');

  if v_missing is not null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed, because this is missing:' || v_missing;
  end if;
end;
$$;
comment on function audiencelab_private.require_ownership(text, text[]) is
  'Raises 55000 unless the caller owns the schema and the relations and functions of these names in it.';

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
    with privileged (kind, object, owner, acl) as (
      select 'schema', format('%I', nspname), nspowner, nspacl
      from pg_namespace
      where nspname = p_schema and p_names is null
      union all
      select 'table', class.oid::regclass::text, class.relowner, acl
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
      select 'routine', oid::regprocedure::text, proowner, coalesce(proacl, acldefault('f', proowner))
      from pg_proc
      where pronamespace = to_regnamespace(quote_ident(p_schema)) and (p_names is null or proname = any (p_names))
    )
    select distinct
      privileged.kind,
      privileged.object,
      case entry.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(entry.grantee)) end as grantee
    from privileged
    cross join lateral aclexplode(privileged.acl) as entry
    where entry.grantee <> privileged.owner and pg_has_role(privileged.owner, 'usage')
  loop
    -- Default privileges and earlier scripts grant to these. What they may do is granted again by the migration.
    if v_granted.grantee not in ('public', 'anon', 'authenticated', 'service_role', 'api_key') then
      raise warning 'the privileges of % on % % are revoked', v_granted.grantee, v_granted.kind, v_granted.object;
    end if;
    execute format('revoke all on %s %s from %s cascade', v_granted.kind, v_granted.object, v_granted.grantee);
  end loop;
end;
$$;
comment on function audiencelab_private.revoke_privileges(text, text[]) is
  'Revokes all privileges except the owner''s: on the named relations and functions, or on everything in the schema.';

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
  'Drops the functions in public that have one of these names but another signature, with a warning.';

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
      message = format('nothing was changed, because type public.%I is (%s) and not (%s)', p_name, v_found, v_desired),
      hint = 'Rename or drop it, then run the migration again.';
  end if;
end;
$$;
comment on function audiencelab_private.apply_type(text) is
  'Moves the composite type from audiencelab_desired to public. Raises 55000 if public has another type of that name.';

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
  'Lists the constraints, indexes, triggers, rules and policies of a table, spelled without the name of the table.';

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
  'Lists the columns of a table, with their types, defaults and nullability.';

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
        -- Without a default, no insert of ours would succeed.
        raise warning 'column % of % may be null now', v_column.name, p_table;
        execute format('alter table %s alter column %I drop not null', p_table, v_column.name);
      end if;
      continue;
    elsif v_column.found_definition = v_column.desired_definition then
      continue;
    end if;

    raise warning 'column % of % is altered from % to %',
      v_column.name, p_table, v_column.found_definition, v_column.desired_definition;
    if v_column.has_other_type then
      -- The default goes first, because it need not have a cast to the new type.
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
        raise warning 'column % of % is set to its default in % rows, where it was null', v_column.name, p_table, v_filled;
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
  'Gives a table the columns of another one. Further columns are kept, with a warning.';

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
      hint = format('Run: alter index %s.%I rename to another name', c_schema, v_taken.name);
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
    served as materialized (
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
      where not exists (select from served where served.kind = found.kind and served.found_name = found.name)
      union all
      -- Columns are altered after the drops, because a policy or a check can block altering a column.
      select 2, 'column', null, null, null where 'column' = any (p_kinds)
      union all
      select 3, kind, found_name, definition, name from served where found_name <> name
      union all
      select 4, kind, name, definition, null from served where found_definition <> definition
      union all
      select 5, kind, name, definition, null from served where found_name is null
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
  'Gives a table the parts of these kinds that another one has. Further parts are dropped, with a warning.';

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
      message = format('nothing was changed, because %s is not an ordinary table: rename it first', v_table);
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
  -- Logical replication refuses updates of a table whose replica identity is an index that was dropped.
  if v_found.relreplident in ('i', 'n') then
    raise warning 'the replica identity of % is reset to its primary key', v_table;
    execute format('alter table %s replica identity default', v_table);
  end if;
  perform audiencelab_private.revoke_privileges(p_schema, array[p_name]);
end;
$$;
comment on function audiencelab_private.apply_table(text, text) is
  'Alters a table to match its namesake in audiencelab_desired, but for foreign keys; enables RLS, revokes all privileges.';

create or replace function audiencelab_private.apply_foreign_keys(p_table regclass, p_foreign_keys jsonb)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  select audiencelab_private.apply_parts(p_table, null, '{foreign key}', p_foreign_keys);
$$;
comment on function audiencelab_private.apply_foreign_keys(regclass, jsonb) is
  'Gives a table these foreign keys, by name, each spelled as pg_get_constraintdef does. Others are dropped, with a warning.';

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
comment on function audiencelab_private.publish(regclass) is 'Adds a table to the publication of Supabase Realtime.';

select audiencelab_private.revoke_privileges('audiencelab_private');
-- For policies and triggers only: without usage of the schema nobody can call them by name.
grant execute on function audiencelab_private.member_account_ids() to authenticated;
grant execute on function audiencelab_private.exceeds_json_limit(jsonb) to authenticated, service_role, api_key;
grant execute on function audiencelab_private.exceeds_texts_limit(text[]) to authenticated, service_role, api_key;

commit;

-- All AudienceLab migrations, for the dashboard's SQL editor: paste the whole file and click Run.
--
-- One transaction, safe to run again, before or after `supabase db push`. Built by `make sql` from
-- the files in supabase/migrations: change those.

begin;

set local search_path = '';
-- Requests queue behind a statement that waits for a lock, so the wait is short. After a timeout, run the migration again.
set local lock_timeout = '3s';
set local statement_timeout = '10min';
-- Two sessions that run migrations at the same time wait for each other.
select pg_advisory_xact_lock(hashtext('audiencelab migrations'));
set local client_min_messages = warning;

-- 20261122000100_foundation.sql

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
select audiencelab_private.require_ownership('api_keys_private', '{api_keys,api_key_logs,failed_comparisons,settings,live_api_keys,bcrypt_api_keys}');
select audiencelab_private.require_ownership(
  'public',
  '{create_api_key,list_api_keys,revoke_api_key,revoke_api_keys_of,verify_api_key,log_api_key_usage,
    log_api_key_usage_batch,has_scope,get_api_key_account_id}'
);

create schema if not exists api_keys_private;
comment on schema api_keys_private is 'API keys and their usage logs. Not exposed by the REST API.';
-- An insert into the log locks the log and then, for its foreign key, the keys. Locks in the other order would deadlock.
-- Where the migration was applied before, it needs neither.
do $lock$
begin
  if to_regclass('api_keys_private.api_key_logs') is not null
    and to_regclass('api_keys_private.live_api_keys') is null
  then
    lock table api_keys_private.api_key_logs in access exclusive mode;
  end if;
end;
$lock$;

-- What earlier scripts granted is revoked; everything that anybody may do is granted below.
select audiencelab_private.revoke_privileges('api_keys_private');
grant usage on schema api_keys_private to service_role;

-- The tables are created here, and then applied to those that the database has.
create schema audiencelab_desired;

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
  constraint api_keys_pkey primary key (id)
);
-- Verification is one look-up.
create unique index api_keys_key_hash_key on audiencelab_desired.api_keys (key_hash);
-- Lists are read newest first; id makes the order total.
create index api_keys_account_id_created_at_id_idx
  on audiencelab_desired.api_keys (account_id, created_at desc, id desc);
-- bcrypt hashes cannot be looked up, so that their keys are found by prefix until they have been verified once.
create index api_keys_key_prefix_idx on audiencelab_desired.api_keys (key_prefix) where key_hash like '$2a$%';

create trigger api_keys_name_limit
  before insert or update of name on audiencelab_desired.api_keys
  for each row when (length(new.name) > 255)
  execute function audiencelab_private.enforce_limit('name', 'has at most 255 characters');
create trigger api_keys_scopes_limit
  before insert or update of scopes on audiencelab_desired.api_keys
  for each row
  when (
    case jsonb_typeof(new.scopes) when 'array' then jsonb_array_length(new.scopes) end > 100
    or new.scopes @? '$[*].* ? (@ like_regex "^.{255}." flag "s")'
  )
  execute function audiencelab_private.enforce_limit('scopes', 'has at most 100 scopes with texts of at most 255 characters');
create trigger api_keys_expires_at_limit
  before insert or update of expires_at on audiencelab_desired.api_keys
  for each row when (new.expires_at >= '10000-01-01 00:00:00+00')
  execute function audiencelab_private.enforce_limit('expires_at', 'is before the year 10000');

select audiencelab_private.apply_table('api_keys_private', 'api_keys');
comment on table api_keys_private.api_keys is 'API keys by account. The keys themselves are not stored.';
comment on column api_keys_private.api_keys.key_prefix is 'The first seven characters, by which people recognise a key.';
comment on column api_keys_private.api_keys.key_hash is
  'SHA-256 of the key, in hex; bcrypt for keys from before SHA-256 that have not been verified since.';
comment on column api_keys_private.api_keys.scopes is 'Array of {"entity_type", "entity_id", "action"}; "*" is a wildcard.';
comment on column api_keys_private.api_keys.last_used_at is 'When the key was last used, to the minute.';
-- There is no policy: only service_role reads the table, and row level security does not bind it.
grant select, insert, update, delete on api_keys_private.api_keys to service_role;

create table audiencelab_desired.api_key_logs (
  id uuid not null default gen_random_uuid(),
  api_key_id uuid,
  endpoint text not null,
  method text not null,
  status_code integer,
  ip_address text,
  user_agent text,
  timestamp timestamptz not null default now(),
  constraint api_key_logs_pkey primary key (id)
);
-- Not a NOT NULL of the column: older logs hold rows without a key. They are kept, and new rows need one.
alter table audiencelab_desired.api_key_logs
  add constraint api_key_logs_api_key_id_check check (api_key_id is not null) not valid;
create index api_key_logs_api_key_id_timestamp_idx on audiencelab_desired.api_key_logs (api_key_id, timestamp desc);
-- The log grows in the order of time, so that a block range index is enough to find its old end.
create index api_key_logs_timestamp_idx on audiencelab_desired.api_key_logs using brin (timestamp);

select audiencelab_private.apply_table('api_keys_private', 'api_key_logs');
comment on table api_keys_private.api_key_logs is 'One row for each use of an API key.';
grant select, insert, update, delete on api_keys_private.api_key_logs to service_role;

create table audiencelab_desired.failed_comparisons (
  key_prefix varchar(7) not null,
  period bigint not null,
  comparisons integer not null,
  slot bigint,
  constraint failed_comparisons_pkey primary key (key_prefix)
);
select audiencelab_private.apply_table('api_keys_private', 'failed_comparisons');
comment on table api_keys_private.failed_comparisons is
  'How many comparisons with bcrypt hashes failed lately, by prefix. It bounds the CPU time that invalid keys cost.';
grant select, delete on api_keys_private.failed_comparisons to service_role;

create table audiencelab_desired.settings (
  id boolean not null default true,
  manage_keys_role varchar(50),
  constraint settings_pkey primary key (id),
  constraint settings_id_check check (id)
);
create index settings_manage_keys_role_idx on audiencelab_desired.settings (manage_keys_role);
select audiencelab_private.apply_table('api_keys_private', 'settings');
comment on table api_keys_private.settings is 'The settings of the API keys, in one row.';
comment on column api_keys_private.settings.manage_keys_role is
  'The account role that may create, change and revoke keys, such as owner; null for every member.';
insert into api_keys_private.settings default values on conflict do nothing;
grant select, update on api_keys_private.settings to service_role;

-- The only definition of a live key.
create or replace view api_keys_private.live_api_keys
with (security_invoker = true)
as
select id, account_id, key_prefix, key_hash, scopes
from api_keys_private.api_keys
where is_active and (expires_at is null or expires_at > now());
comment on view api_keys_private.live_api_keys is 'The API keys that are neither revoked nor expired.';
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
  'The live API keys that have not been verified since bcrypt was replaced. When it is empty, no text is compared with bcrypt.';
select audiencelab_private.revoke_privileges('api_keys_private', '{bcrypt_api_keys}');
grant select on api_keys_private.bcrypt_api_keys to service_role;
-- The view reads it as its caller.
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
comment on type public.create_api_key_response is 'A new API key. The key itself is shown here only.';

create type audiencelab_desired.verify_api_key_response as (
  valid boolean,
  api_key_id uuid,
  account_id uuid,
  error text
);
select audiencelab_private.apply_type('verify_api_key_response');
comment on type public.verify_api_key_response is 'Whether a text is a live API key, and whose.';

create type audiencelab_desired.api_key_usage_log_response as (
  success boolean,
  log_id uuid,
  timestamp timestamptz,
  error text,
  error_code text
);
select audiencelab_private.apply_type('api_key_usage_log_response');
comment on type public.api_key_usage_log_response is 'The log row written, or the message and SQLSTATE of the failure.';

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
          hint = 'Use "*" for any.';
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
  'Raises 22023 unless it is an array of well-formed scopes.';
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
      -- 248 is 4 * 62. A byte above it would make the first eight characters more likely than the others.
      if v_byte < 248 then
        v_text := v_text || api_keys_private.base62(v_byte % 62);
      end if;
    end loop;
  end loop;
  return left(v_text, p_length);
end;
$$;
comment on function api_keys_private.random_base62(integer) is
  'Returns that many random characters A-Z, a-z, 0-9, all equally likely.';
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
comment on function api_keys_private.crc32(bytea) is 'Returns the CRC-32 that zip and PNG use.';
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
  -- The checksum lets a client tell a mistyped key from a revoked one without asking, most significant digit first.
  for v_exponent in reverse 5..0 loop
    v_key := v_key || api_keys_private.base62((v_checksum / (62 ^ v_exponent)::bigint % 62)::integer);
  end loop;
  return v_key;
end;
$$;
comment on function api_keys_private.generate_api_key() is
  'Returns a new key: sk_, 40 random characters, 6 characters of CRC-32 of the preceding ones.';
select audiencelab_private.revoke_privileges('api_keys_private', '{generate_api_key}');

-- "create or replace" changes neither a result nor an argument, and an overload would make calls by name ambiguous.
select audiencelab_private.prepare_functions(
  'create_api_key(p_account_id uuid, p_name text, p_scopes jsonb,
     p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone)
   returns public.create_api_key_response',
  'list_api_keys(p_account_id uuid)
   returns TABLE(id uuid, name text, key_prefix text, scopes jsonb, expires_at timestamp with time zone,
     created_at timestamp with time zone, last_used_at timestamp with time zone, is_active boolean, created_by uuid)',
  'revoke_api_key(p_api_key_id uuid) returns boolean',
  'revoke_api_keys_of(p_user_id uuid, p_account_id uuid DEFAULT NULL::uuid) returns integer',
  'verify_api_key(p_api_key text) returns public.verify_api_key_response',
  'log_api_key_usage(p_api_key_id uuid, p_endpoint text, p_method text, p_status_code integer, p_ip_address text,
     p_user_agent text)
   returns public.api_key_usage_log_response',
  'log_api_key_usage_batch(p_events jsonb)
   returns TABLE(event_index integer, success boolean, log_id uuid, "timestamp" timestamp with time zone, error text,
     error_code text)',
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
      message = format('API keys are managed by members with the account role %s, which you do not have', c_role);
  end if;
end;
$$;
comment on function api_keys_private.require_manager(uuid) is
  'Raises 42501 unless the caller is a member of the account, with the role that settings.manage_keys_role names.';
select audiencelab_private.revoke_privileges('api_keys_private', '{require_manager}');

create or replace function public.create_api_key(
  p_account_id uuid,
  p_name text,
  p_scopes jsonb,
  p_expires_at timestamptz default null
)
returns public.create_api_key_response
language plpgsql
volatile
-- Definer, because callers have no access to the table; members only.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  c_most constant integer := 1000;
  v_key text;
  v_row api_keys_private.api_keys;
begin
  perform api_keys_private.require_manager(p_account_id);
  if p_name is null or btrim(p_name) = '' then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the name of an API key must not be blank';
  end if;
  perform api_keys_private.require_scopes(p_scopes);
  if p_expires_at <= now() or not isfinite(p_expires_at) then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('the expiry of an API key must be a moment in the future, and %s is not', p_expires_at);
  end if;

  -- Concurrent calls for the account wait here, so that none of them misses a key of another.
  perform pg_advisory_xact_lock(hashtextextended('audiencelab keys ' || p_account_id, 0));
  if (select count(*) from api_keys_private.live_api_keys as live where live.account_id = p_account_id) >= c_most then
    raise exception using
      errcode = 'PT409',
      message = format('the account has %s live API keys, and more are not allowed', c_most),
      hint = 'Revoke keys that are no longer used.';
  end if;

  v_key := api_keys_private.generate_api_key();
  insert into api_keys_private.api_keys (account_id, name, key_prefix, key_hash, scopes, expires_at, created_by)
  values (
    p_account_id,
    p_name,
    left(v_key, 7),
    encode(sha256(convert_to(v_key, 'UTF8')), 'hex'),
    p_scopes,
    p_expires_at,
    audiencelab_private.caller_id()
  )
  returning * into v_row;

  return row(
    v_row.id,
    v_row.name,
    v_key,
    v_row.key_prefix,
    v_row.account_id,
    v_row.scopes,
    v_row.expires_at,
    v_row.created_at
  )::public.create_api_key_response;
end;
$$;
comment on function public.create_api_key(uuid, text, jsonb, timestamptz) is
  'Creates an API key of an account. Members only.';
select audiencelab_private.revoke_privileges('public', '{create_api_key}');
grant execute on function public.create_api_key(uuid, text, jsonb, timestamptz) to authenticated;

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
-- Definer, because callers have no access to the table; members only.
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform audiencelab_private.require_member(p_account_id);
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
comment on function public.list_api_keys(uuid) is 'Lists the API keys of an account, newest first. Members only.';
select audiencelab_private.revoke_privileges('public', '{list_api_keys}');
grant execute on function public.list_api_keys(uuid) to authenticated;

create or replace function public.revoke_api_key(p_api_key_id uuid)
returns boolean
language plpgsql
volatile
-- Definer, because callers have no access to the table; members only.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  c_account_id constant uuid := (
    select api_key.account_id from api_keys_private.api_keys as api_key where api_key.id = p_api_key_id
  );
begin
  if not audiencelab_private.is_member(c_account_id) then
    raise exception using
      errcode = 'insufficient_privilege',
      message = 'the API key does not exist, or you are not a member of its account';
  end if;
  perform api_keys_private.require_manager(c_account_id);
  update api_keys_private.api_keys as api_key set is_active = false where api_key.id = p_api_key_id;
  return true;
end;
$$;
comment on function public.revoke_api_key(uuid) is 'Revokes an API key permanently. Members of its account only.';
select audiencelab_private.revoke_privileges('public', '{revoke_api_key}');
grant execute on function public.revoke_api_key(uuid) to authenticated;

create or replace function public.revoke_api_keys_of(p_user_id uuid, p_account_id uuid default null)
returns integer
language plpgsql
volatile
-- Definer, because callers have no access to the table; service_role, and members for the account that they name.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_live integer;
begin
  if p_user_id is null then
    raise exception using errcode = 'invalid_parameter_value', message = 'the id of the user must not be null';
  end if;
  if not audiencelab_private.is_service() then
    if p_account_id is null then
      raise exception using
        errcode = 'insufficient_privilege',
        message = 'only the service role may revoke the API keys of all accounts: name your account';
    end if;
    perform api_keys_private.require_manager(p_account_id);
  end if;

  -- Expired keys are revoked as well, in case that their expiry is moved, but not counted.
  with revoked as (
    update api_keys_private.api_keys as api_key
    set is_active = false
    where api_key.created_by = p_user_id
      and api_key.is_active
      and (p_account_id is null or api_key.account_id = p_account_id)
    returning api_key.id
  )
  -- Both parts of the statement read the keys as they were before it.
  select count(*)::integer into v_live
  from revoked
  join api_keys_private.live_api_keys as live on live.id = revoked.id;
  return v_live;
end;
$$;
comment on function public.revoke_api_keys_of(uuid, uuid) is
  'Revokes all API keys that a user created, in one account or in all, and returns how many of them were live.';
select audiencelab_private.revoke_privileges('public', '{revoke_api_keys_of}');
grant execute on function public.revoke_api_keys_of(uuid, uuid) to authenticated, service_role;

-- A text that shares its prefix with an old key costs a comparison with bcrypt, 0.2 s of CPU. So the comparisons of a prefix that
-- fail are counted, in periods of 30 seconds. After six, a text is compared only in its own slot of the period, two seconds
-- long, and one text a slot. Texts that are sent at random miss their slots; the owner of a key is told when to come back.
create or replace function api_keys_private.admit_comparison(p_key_prefix text, p_key_hash text)
returns bigint
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  c_seconds constant integer := 2;
  c_slots constant integer := 15;
  c_free constant integer := 6;
  c_now constant numeric := extract(epoch from clock_timestamp()) / c_seconds;
  c_slot constant bigint := floor(c_now)::bigint;
  c_own constant bigint := mod(mod(hashtextextended(p_key_hash, 0), c_slots) + c_slots, c_slots);
  -- In slots from now: 0 to 14.
  c_distance constant bigint := mod(c_own + c_slots - mod(c_slot, c_slots), c_slots);
  v_comparisons integer;
  v_slot bigint;
  v_seconds integer;
begin
  select failed.comparisons, failed.slot
  into v_comparisons, v_slot
  from api_keys_private.failed_comparisons as failed
  where failed.key_prefix = p_key_prefix and failed.period = c_slot / c_slots;
  if not found or v_comparisons < c_free then
    return null;
  end if;
  if c_distance = 0 and v_slot is distinct from c_slot then
    return c_slot;
  end if;

  v_seconds := ceil((c_slot + coalesce(nullif(c_distance, 0), c_slots) - c_now) * c_seconds)::integer;
  -- PTnnn cannot carry a header.
  raise exception using
    errcode = 'PGRST',
    message = json_build_object(
      'code', 'PT429',
      'message', 'too many invalid API keys with this prefix: whether this one is valid can be told later',
      'hint', format('Retry after %s seconds.', v_seconds)
    ),
    detail = json_build_object('status', 429, 'headers', json_build_object('Retry-After', v_seconds::text));
end;
$$;
comment on function api_keys_private.admit_comparison(text, text) is
  'Admits a text to comparisons with bcrypt: null, or the slot that it uses. Otherwise raises PT429 with Retry-After.';
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
  'Counts comparisons with bcrypt hashes that failed, and the slot that admit_comparison returned.';
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
      message = 'the API key that the request runs as is revoked or expired';
  end if;
end;
$$;
comment on function api_keys_private.require_live_caller() is
  'Raises 42501 unless the API key that the request runs as is live.';
select audiencelab_private.revoke_privileges('api_keys_private', '{require_live_caller}');

create or replace function public.verify_api_key(p_api_key text)
returns public.verify_api_key_response
language plpgsql
volatile
-- Definer, because callers have no access to the table; granted to roles that receive keys from clients.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_hash constant text := encode(sha256(convert_to(p_api_key, 'UTF8')), 'hex');
  v_id uuid;
  v_account_id uuid;
  v_old record;
  v_comparisons integer := 0;
  v_slot bigint;
begin
  if current_setting('role') = 'api_key' then
    perform api_keys_private.require_live_caller();
  end if;

  select api_key.id, api_key.account_id
  into v_id, v_account_id
  from api_keys_private.live_api_keys as api_key
  where api_key.key_hash = v_hash;
  if found then
    return row(true, v_id, v_account_id, null::text)::public.verify_api_key_response;
  end if;

  -- Keys from before SHA-256 have at most 43 characters after sk_, and new ones 46, so the cost of bcrypt is paid only
  -- for a text that shares its prefix with an old key, and by that key's owner only once.
  if p_api_key ~ '^sk_[A-Za-z0-9]{4,43}$' then
    for v_old in
      select api_key.id, api_key.account_id, api_key.key_hash
      from api_keys_private.live_api_keys as api_key
      where (api_key.key_prefix = left(p_api_key, 7) and api_key.key_hash like '$2a$%')
        -- Another call may have re-hashed the key since the first query. This query finds it by either hash.
        or api_key.key_hash = v_hash
    loop
      if v_old.key_hash <> v_hash then
        if v_comparisons = 0 then
          v_slot := api_keys_private.admit_comparison(left(p_api_key, 7), v_hash);
        end if;
        v_comparisons := v_comparisons + 1;
      end if;
      if v_old.key_hash = v_hash or extensions.crypt(p_api_key, v_old.key_hash) = v_old.key_hash then
        update api_keys_private.api_keys as api_key
        set key_hash = v_hash
        where api_key.id = v_old.id and api_key.key_hash <> v_hash;
        return row(true, v_old.id, v_old.account_id, null::text)::public.verify_api_key_response;
      end if;
    end loop;
    if v_comparisons > 0 then
      perform api_keys_private.count_failed_comparisons(left(p_api_key, 7), v_comparisons, v_slot);
    end if;
  end if;

  return row(false, null::uuid, null::uuid, 'Invalid API key'::text)::public.verify_api_key_response;
end;
$$;
comment on function public.verify_api_key(text) is
  'Returns whether a text is a live API key, and whose. Replaces a bcrypt hash when the key is valid.';
select audiencelab_private.revoke_privileges('public', '{verify_api_key}');
grant execute on function public.verify_api_key(text) to service_role, api_key;

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
-- Definer, because callers have no access to the table; granted to service_role only.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid;
  v_timestamp timestamptz;
begin
  insert into api_keys_private.api_key_logs as log (api_key_id, endpoint, method, status_code, ip_address, user_agent)
  values (
    p_api_key_id,
    -- What clients send is cut, because a refusal would lose the record.
    left(p_endpoint, 2000),
    left(p_method, 255),
    p_status_code,
    left(p_ip_address, 255),
    left(p_user_agent, 1000)
  )
  returning log.id, log.timestamp into v_id, v_timestamp;

  -- At most once a minute, and without waiting for a concurrent update, so that calls with the same key do not queue.
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
  'Writes one log row for a use of an API key. A failure is part of the result.';
select audiencelab_private.revoke_privileges('public', '{log_api_key_usage}');
grant execute on function public.log_api_key_usage(uuid, text, text, integer, text, text) to service_role;

create or replace function api_keys_private.log_usage_events(p_events jsonb)
returns table (event_index bigint, log_id uuid, logged_at timestamptz)
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  with event as (
    select
      element.ordinality - 1 as index,
      gen_random_uuid() as id,
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
  ),
  used as (
    update api_keys_private.api_keys as api_key
    set last_used_at = now()
    where api_key.id in (
      select due.id
      from api_keys_private.api_keys as due
      where due.id in (select event.api_key_id from event)
        and (due.last_used_at is null or due.last_used_at < now() - interval '1 minute')
      for no key update skip locked
    )
  )
  select event.index, event.id, event.logged_at from event order by event.index;
$$;
comment on function api_keys_private.log_usage_events(jsonb) is 'Writes one log row for each event; all or none.';
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
-- Definer, because callers have no access to the table; granted to service_role only.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  c_most constant integer := 1000;
begin
  if jsonb_typeof(p_events) is distinct from 'array' or jsonb_array_length(p_events) > c_most then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('events must be an array of at most %s', c_most);
  end if;

  -- Usually all events are valid and one statement inserts them. Otherwise each is inserted separately.
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
  'Writes up to 1,000 log rows, each with its own outcome: a failure does not affect the others.';
select audiencelab_private.revoke_privileges('public', '{log_api_key_usage_batch}');
grant execute on function public.log_api_key_usage_batch(jsonb) to service_role;

create or replace function public.has_scope(p_entity_type text, p_entity_id text, p_action text)
returns boolean
language sql
stable
-- Definer, because callers have no access to the table; it tells only the scopes of the key that the request runs as.
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
  'Returns whether the API key that the request runs as has the scope.';
select audiencelab_private.revoke_privileges('public', '{has_scope}');
grant execute on function public.has_scope(text, text, text) to api_key;

create or replace function public.get_api_key_account_id()
returns uuid
language sql
stable
-- Definer, because callers have no access to the table; it tells only the account of the key that the request runs as.
security definer
set search_path = pg_catalog, pg_temp
as $$
  select api_key.account_id
  from api_keys_private.live_api_keys as api_key
  where api_key.id = (select audiencelab_private.caller_id());
$$;
comment on function public.get_api_key_account_id() is
  'Returns the account of the API key that the request runs as; null if the key is revoked or expired.';
select audiencelab_private.revoke_privileges('public', '{get_api_key_account_id}');
grant execute on function public.get_api_key_account_id() to api_key;

create or replace function api_keys_private.scoped_entity_ids(p_entity_type text, p_actions text[])
returns setof uuid
language sql
stable
-- Definer, because callers have no access to the table; it tells only the scopes of the key that the request runs as.
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
  'Returns the ids that the scopes of the request''s API key name, for an entity type and any of the actions.';
select audiencelab_private.revoke_privileges('api_keys_private', '{scoped_entity_ids}');
-- For policies only: without usage of the schema nobody can call it by name.
grant execute on function api_keys_private.scoped_entity_ids(text, text[]) to api_key;

create or replace function api_keys_private.has_scope_on_all(p_entity_type text, p_actions text[])
returns boolean
language sql
stable
-- Invoker: the caller may execute has_scope itself.
security invoker
set search_path = pg_catalog, pg_temp
as $$
  select bool_or(public.has_scope(p_entity_type, '*', action)) from unnest(p_actions) as action;
$$;
comment on function api_keys_private.has_scope_on_all(text, text[]) is
  'Returns whether the request''s API key may do any of the actions with every entity of a type.';
select audiencelab_private.revoke_privileges('api_keys_private', '{has_scope_on_all}');
-- For policies only: without usage of the schema nobody can call it by name.
grant execute on function api_keys_private.has_scope_on_all(text, text[]) to api_key;

drop schema audiencelab_desired cascade;

-- Foreign keys come last: adding one locks the referenced table until the transaction ends.
select audiencelab_private.apply_foreign_keys('api_keys_private.settings', '{
  "settings_manage_keys_role_fkey":
    "FOREIGN KEY (manage_keys_role) REFERENCES public.roles(name) ON UPDATE CASCADE"
}');
-- The next is NOT VALID in every database, because older ones hold keys of accounts that are gone. Their rows are kept.
select audiencelab_private.apply_foreign_keys('api_keys_private.api_keys', '{
  "api_keys_account_id_fkey": "FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE NOT VALID"
}');
select audiencelab_private.apply_foreign_keys('api_keys_private.api_key_logs', '{
  "api_key_logs_api_key_id_fkey":
    "FOREIGN KEY (api_key_id) REFERENCES api_keys_private.api_keys(id) ON DELETE CASCADE"
}');

-- After the foreign key, which keeps accounts from being deleted meanwhile.
update api_keys_private.api_keys as api_key
set is_active = false
where api_key.is_active
  and not exists (select from public.accounts as account where account.id = api_key.account_id);

notify pgrst, 'reload schema';


-- 20261122000300_enrichment_jobs.sql

do $requirements$
begin
  if to_regprocedure('api_keys_private.scoped_entity_ids(text, text[])') is null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: apply 20261122000200_api_keys.sql first';
  end if;
end;
$requirements$;
select audiencelab_private.require_ownership('enrichment_private', '{worker_progress}');
select audiencelab_private.require_ownership('public', '{enrichment_tracking,report_enrichment_progress,reset_enrichment_progress}');

create schema if not exists enrichment_private;
comment on schema enrichment_private is 'The progress of the workers of enrichment jobs. Not exposed by the REST API.';
select audiencelab_private.revoke_privileges('enrichment_private');
grant usage on schema enrichment_private to service_role;

create or replace function enrichment_private.keep_counters()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  -- Functions that run as the owner of the table may lower them.
  if current_user <> 'service_role'
    and not pg_has_role((select relowner from pg_class where oid = tg_relid), 'usage')
  then
    raise exception using
      errcode = 'insufficient_privilege',
      message = 'only the service role may lower processed_records or failed_records';
  end if;
  return new;
end;
$$;
comment on function enrichment_private.keep_counters() is
  'Before update that lowers a counter: raises 42501, except for service_role and the owner of the table.';
select audiencelab_private.revoke_privileges('enrichment_private', '{keep_counters}');

-- The tables are created here, and then applied to those that the database has.
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
-- BRIN, because a B-tree over all accounts could lead the planner to scan everybody's rows for one account's page.
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

create trigger enrichment_tracking_total_records_limit
  before insert or update of total_records on audiencelab_desired.enrichment_tracking
  for each row when (new.total_records < 0)
  execute function audiencelab_private.enforce_limit('total_records', 'is 0 or more');
create trigger enrichment_tracking_processed_records_limit
  before insert or update of processed_records on audiencelab_desired.enrichment_tracking
  for each row when (new.processed_records < 0)
  execute function audiencelab_private.enforce_limit('processed_records', 'is 0 or more');
create trigger enrichment_tracking_failed_records_limit
  before insert or update of failed_records on audiencelab_desired.enrichment_tracking
  for each row when (new.failed_records < 0)
  execute function audiencelab_private.enforce_limit('failed_records', 'is 0 or more');
create trigger enrichment_tracking_started_at_limit
  before insert or update of started_at on audiencelab_desired.enrichment_tracking
  for each row when (new.started_at < '0001-01-01 00:00:00+00' or new.started_at >= '10000-01-01 00:00:00+00')
  execute function audiencelab_private.enforce_limit('started_at', 'is in the years 1 to 9999');
create trigger enrichment_tracking_completed_at_limit
  before insert or update of completed_at on audiencelab_desired.enrichment_tracking
  for each row when (new.completed_at < '0001-01-01 00:00:00+00' or new.completed_at >= '10000-01-01 00:00:00+00')
  execute function audiencelab_private.enforce_limit('completed_at', 'is in the years 1 to 9999');
-- Shorter JSON cannot exceed the limit, and shorter texts neither; so most rows do not pay for the calls.
create trigger enrichment_tracking_metadata_limit
  before insert or update of metadata on audiencelab_desired.enrichment_tracking
  for each row
  when (octet_length(new.metadata::text) > 200 and audiencelab_private.exceeds_json_limit(new.metadata))
  execute function audiencelab_private.enforce_limit(
    'metadata', 'has at most 262,144 bytes as text, 100 levels, and numbers in the range of a double'
  );
create trigger enrichment_tracking_enrichment_fields_limit
  before insert or update of enrichment_fields on audiencelab_desired.enrichment_tracking
  for each row
  when (octet_length(new.enrichment_fields::text) > 255 and audiencelab_private.exceeds_texts_limit(new.enrichment_fields))
  execute function audiencelab_private.enforce_limit(
    'enrichment_fields', 'has at most 1,000 texts of at most 255 characters'
  );

-- `= any (array(select ...))` evaluates the caller's accounts once a statement, and can use an index on account_id.
-- has_role_on_account(account_id) would run once a row.
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
-- An API key reads the jobs of its account that one of its scopes covers: all of them, or the one that a scope names.
-- A key that may write a job may read it.
create policy enrichment_tracking_select_api_key on audiencelab_desired.enrichment_tracking
  for select to api_key
  using (
    account_id = (select public.get_api_key_account_id())
    and (
      (select api_keys_private.has_scope_on_all('enrichment', '{read,write}'))
      or id = any (array(select api_keys_private.scoped_entity_ids('enrichment', '{read,write}')))
    )
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
comment on table public.enrichment_tracking is 'Jobs that enrich the records of an audience, by account.';
comment on column public.enrichment_tracking.enrichment_fields is 'The fields that the job fills.';
grant select, insert, update on public.enrichment_tracking to authenticated;
grant select, insert, update, delete on public.enrichment_tracking to service_role;
grant select on public.enrichment_tracking to api_key;
-- Neither the account of the job nor its audience.
grant update (
  status, total_records, processed_records, failed_records, enrichment_fields, metadata, started_at, completed_at
) on public.enrichment_tracking to api_key;
select audiencelab_private.publish('public.enrichment_tracking');

create table audiencelab_desired.worker_progress (
  job_id uuid not null,
  worker text not null,
  processed_records integer not null,
  failed_records integer not null,
  updated_at timestamptz not null default now(),
  constraint worker_progress_pkey primary key (job_id, worker)
);
select audiencelab_private.apply_table('enrichment_private', 'worker_progress');
comment on table enrichment_private.worker_progress is
  'The running totals of each worker of a job. The counters of the job are their sums.';
-- There is no policy: only service_role reads the table, and row level security does not bind it.
grant select, insert, update, delete on enrichment_private.worker_progress to service_role;

create or replace function enrichment_private.may_write(p_job public.enrichment_tracking)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  -- Inside a definer function current_user is its owner, but the setting is still the request's role.
  select case current_setting('role')
    when 'service_role' then true
    when 'authenticated' then audiencelab_private.is_member((p_job).account_id)
    when 'api_key' then
      (p_job).account_id = public.get_api_key_account_id()
      and (
        api_keys_private.has_scope_on_all('enrichment', '{write}')
        or (p_job).id in (select api_keys_private.scoped_entity_ids('enrichment', '{write}'))
      )
    else false
  end;
$$;
comment on function enrichment_private.may_write(public.enrichment_tracking) is
  'Returns whether the request may report progress of the job.';
select audiencelab_private.revoke_privileges('enrichment_private', '{may_write}');

select audiencelab_private.prepare_functions(
  'report_enrichment_progress(p_job_id uuid, p_worker text, p_processed integer, p_failed integer)
   returns public.enrichment_tracking',
  'reset_enrichment_progress(p_job_id uuid, p_worker text DEFAULT NULL::text) returns public.enrichment_tracking'
);

create or replace function enrichment_private.count_records(p_job_id uuid)
returns table (processed_records integer, failed_records integer)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  -- A worker that reports nonsense must not stop the reports of the others: the sums end at the range of the columns.
  select
    least(coalesce(sum(progress.processed_records), 0), 2147483647)::integer,
    least(coalesce(sum(progress.failed_records), 0), 2147483647)::integer
  from enrichment_private.worker_progress as progress
  where progress.job_id = p_job_id;
$$;
comment on function enrichment_private.count_records(uuid) is
  'Returns the sums of the totals of all workers of a job, at most 2147483647 each.';
select audiencelab_private.revoke_privileges('enrichment_private', '{count_records}');

create or replace function public.report_enrichment_progress(
  p_job_id uuid,
  p_worker text,
  p_processed integer,
  p_failed integer
)
returns public.enrichment_tracking
language plpgsql
volatile
-- Definer, because the workers' totals are closed to everybody; members, service_role and keys with the scope only.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_job public.enrichment_tracking;
  v_found boolean;
  v_processed integer;
  v_failed integer;
begin
  if p_worker is null or btrim(p_worker) = '' or length(p_worker) > 255 then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the name of a worker must have 1 to 255 characters, not all of them blank';
  end if;
  if p_processed is null or p_processed < 0 or p_failed is null or p_failed < 0 then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'a worker''s totals of processed and failed records must be 0 or more';
  end if;

  select * into v_job from public.enrichment_tracking as job where job.id = p_job_id;
  v_found := enrichment_private.may_write(v_job);
  if v_found then
    -- Locks only after the check, so that callers without access neither wait nor block others. The lock serializes reports
    -- on one job, so that each sum includes all earlier reports.
    select * into v_job from public.enrichment_tracking as job where job.id = p_job_id for no key update;
    v_found := found;
  end if;
  if v_found is not true then
    raise exception using
      errcode = 'PT404',
      message = 'the enrichment job does not exist, or you may not write it';
  end if;
  if v_job.status in ('completed', 'failed') then
    raise exception using
      errcode = 'PT409',
      message = format('the enrichment job is already %s: its progress can no longer change', v_job.status);
  end if;

  -- Totals only increase: repeated or late reports change nothing.
  insert into enrichment_private.worker_progress as progress (job_id, worker, processed_records, failed_records)
  values (p_job_id, p_worker, p_processed, p_failed)
  on conflict (job_id, worker) do update
  set
    processed_records = greatest(progress.processed_records, excluded.processed_records),
    failed_records = greatest(progress.failed_records, excluded.failed_records),
    updated_at = now()
  where progress.processed_records < excluded.processed_records
    or progress.failed_records < excluded.failed_records;

  select counted.processed_records, counted.failed_records
  into v_processed, v_failed
  from enrichment_private.count_records(p_job_id) as counted;

  update public.enrichment_tracking as job
  set
    status = 'processing',
    started_at = coalesce(job.started_at, now()),
    processed_records = v_processed,
    failed_records = v_failed
  where job.id = p_job_id
    and (job.status, job.processed_records, job.failed_records) is distinct from ('processing', v_processed, v_failed)
  returning * into v_job;
  if not found then
    select * into v_job from public.enrichment_tracking as job where job.id = p_job_id;
  end if;
  return v_job;
end;
$$;
comment on function public.report_enrichment_progress(uuid, text, integer, integer) is
  'Stores a worker''s running totals and returns the job. A repeated or late report changes nothing.';
select audiencelab_private.revoke_privileges('public', '{report_enrichment_progress}');
grant execute on function public.report_enrichment_progress(uuid, text, integer, integer)
  to authenticated, service_role, api_key;

create or replace function public.reset_enrichment_progress(p_job_id uuid, p_worker text default null)
returns public.enrichment_tracking
language plpgsql
volatile
-- Definer, because the sums are closed to everybody; granted to service_role only.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_job public.enrichment_tracking;
begin
  -- The lock serializes this with reports on the job.
  select * into v_job from public.enrichment_tracking as job where job.id = p_job_id for no key update;
  if not found then
    raise exception using errcode = 'PT404', message = 'the enrichment job does not exist';
  end if;
  delete from enrichment_private.worker_progress as progress
  where progress.job_id = p_job_id and (p_worker is null or progress.worker = p_worker);
  update public.enrichment_tracking as job
  set (processed_records, failed_records) = (
    select counted.processed_records, counted.failed_records
    from enrichment_private.count_records(p_job_id) as counted
  )
  where job.id = p_job_id
  returning * into v_job;
  return v_job;
end;
$$;
comment on function public.reset_enrichment_progress(uuid, text) is
  'Discards the totals of one worker of a job, or of all, and returns the job with its counters recalculated.';
select audiencelab_private.revoke_privileges('public', '{reset_enrichment_progress}');
grant execute on function public.reset_enrichment_progress(uuid, text) to service_role;

drop schema audiencelab_desired cascade;

-- Progress of jobs that no longer exist, for example after the table of jobs was dropped.
delete from enrichment_private.worker_progress as progress
where not exists (select from public.enrichment_tracking as job where job.id = progress.job_id);

-- Foreign keys come last: adding one locks the referenced table until the transaction ends.
select audiencelab_private.apply_foreign_keys('enrichment_private.worker_progress', '{
  "worker_progress_job_id_fkey":
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
  if to_regprocedure('api_keys_private.scoped_entity_ids(text, text[])') is null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: apply 20261122000200_api_keys.sql first';
  end if;
end;
$requirements$;
select audiencelab_private.require_ownership(
  'public', '{segments,create_studio_segment,delete_studio_segment,restore_studio_segment}'
);

-- The table is created here, and then applied to the one that the database has.
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
-- Lists are read newest first within an account; id makes the order total. The included columns are those that the policy
-- reads, so that counting needs the index only.
create index segments_account_id_created_at_id_idx
  on audiencelab_desired.segments (account_id, created_at desc, id desc) include (deleted, updated_at);
create index segments_account_id_source_type_created_at_idx
  on audiencelab_desired.segments (account_id, source_type, created_at desc);
create index segments_created_by_idx on audiencelab_desired.segments (created_by);
-- BRIN, because a B-tree over all accounts could lead the planner to scan everybody's rows for one account's page.
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
  execute function audiencelab_private.enforce_limit('name', 'has at most 255 characters');
create trigger segments_description_limit
  before insert or update of description on audiencelab_desired.segments
  for each row when (length(new.description) > 10000)
  execute function audiencelab_private.enforce_limit('description', 'has at most 10,000 characters');
create trigger segments_source_id_limit
  before insert or update of source_id on audiencelab_desired.segments
  for each row when (length(new.source_id) > 1000)
  execute function audiencelab_private.enforce_limit('source_id', 'has at most 1,000 characters');
-- Shorter JSON cannot exceed the limit, and shorter texts neither; so most rows do not pay for the calls.
create trigger segments_filters_limit
  before insert or update of filters on audiencelab_desired.segments
  for each row
  when (octet_length(new.filters::text) > 200 and audiencelab_private.exceeds_json_limit(new.filters))
  execute function audiencelab_private.enforce_limit(
    'filters', 'has at most 262,144 bytes as text, 100 levels, and numbers in the range of a double'
  );
create trigger segments_custom_columns_limit
  before insert or update of custom_columns on audiencelab_desired.segments
  for each row
  when (octet_length(new.custom_columns::text) > 200 and audiencelab_private.exceeds_json_limit(new.custom_columns))
  execute function audiencelab_private.enforce_limit(
    'custom_columns', 'has at most 262,144 bytes as text, 100 levels, and numbers in the range of a double'
  );
create trigger segments_tags_limit
  before insert or update of tags on audiencelab_desired.segments
  for each row
  when (octet_length(new.tags::text) > 255 and audiencelab_private.exceeds_texts_limit(new.tags))
  execute function audiencelab_private.enforce_limit('tags', 'has at most 1,000 texts of at most 255 characters');
create trigger segments_enrichment_fields_limit
  before insert or update of enrichment_fields on audiencelab_desired.segments
  for each row
  when (octet_length(new.enrichment_fields::text) > 255 and audiencelab_private.exceeds_texts_limit(new.enrichment_fields))
  execute function audiencelab_private.enforce_limit(
    'enrichment_fields', 'has at most 1,000 texts of at most 255 characters'
  );

-- PostgreSQL applies this policy to the new row of an UPDATE with a WHERE, too, and a soft delete creates a deleted row. So
-- the policy admits a row that the current transaction has changed: the trigger sets updated_at to the transaction's time,
-- and a transaction that only reads has no id.
create policy segments_select on audiencelab_desired.segments
  for select to authenticated
  using (
    account_id = any (array(select audiencelab_private.member_account_ids()))
    and (not deleted or (updated_at = now() and pg_current_xact_id_if_assigned() is not null))
  );
create policy segments_insert on audiencelab_desired.segments
  for insert to authenticated
  with check (account_id = any (array(select audiencelab_private.member_account_ids())));
-- Without a WHERE the policy above does not apply, so that deleted rows are excluded here as well.
create policy segments_update on audiencelab_desired.segments
  for update to authenticated
  using (account_id = any (array(select audiencelab_private.member_account_ids())) and not deleted)
  with check (account_id = any (array(select audiencelab_private.member_account_ids())));
create policy segments_delete on audiencelab_desired.segments
  for delete to authenticated
  using (account_id = any (array(select audiencelab_private.member_account_ids())) and not deleted);
-- An API key reads the segments of its account that one of its scopes covers: all of them, or the one that a scope names.
create policy segments_select_api_key on audiencelab_desired.segments
  for select to api_key
  using (
    account_id = (select public.get_api_key_account_id())
    and not deleted
    and (
      (select api_keys_private.has_scope_on_all('segment', '{read}'))
      or id = any (array(select api_keys_private.scoped_entity_ids('segment', '{read}')))
    )
  );

select audiencelab_private.apply_table('public', 'segments');
comment on table public.segments is 'Saved audience segments, by account. Deleted ones stay, hidden, until they are purged.';
comment on column public.segments.source_id is 'Id of the audience or upload that source_type names.';
comment on column public.segments.filters is
  'Array of objects such as {"field": "country", "operator": "=", "value": "US"}.';
comment on column public.segments.custom_columns is
  'Array of objects such as {"field": "score", "headerName": "Score", "type": "number"}.';
comment on column public.segments.deleted is 'Soft delete: members no longer see the row.';
grant select, insert, update, delete on public.segments to authenticated;
grant select, insert, update, delete on public.segments to service_role;
grant select on public.segments to api_key;
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
-- Definer, because callers have no access to schema audiencelab_private; members only.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid;
begin
  perform audiencelab_private.require_member(p_account_id);
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
  'Creates a segment of an account, in the caller''s name. Members only.';
select audiencelab_private.revoke_privileges('public', '{create_studio_segment}');
grant execute on function public.create_studio_segment(uuid, text, text, text, text, jsonb, text[], jsonb, text[])
  to authenticated;

create or replace function public.delete_studio_segment(p_segment_id uuid)
returns void
language plpgsql
volatile
-- Definer, so that a segment that is deleted already is found; members only.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_account_id uuid;
begin
  select segment.account_id into v_account_id from public.segments as segment where segment.id = p_segment_id;
  if not audiencelab_private.is_member(v_account_id) then
    raise exception using
      errcode = 'PT404',
      message = 'the segment does not exist, or you are not a member of its account';
  end if;
  update public.segments as segment set deleted = true where segment.id = p_segment_id and not segment.deleted;
end;
$$;
comment on function public.delete_studio_segment(uuid) is 'Deletes a segment softly. Members only.';
select audiencelab_private.revoke_privileges('public', '{delete_studio_segment}');
grant execute on function public.delete_studio_segment(uuid) to authenticated;

create or replace function public.restore_studio_segment(p_segment_id uuid)
returns public.segments
language plpgsql
volatile
-- Definer, because row security shows deleted segments to nobody; members only.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_segment public.segments;
begin
  select * into v_segment from public.segments as segment where segment.id = p_segment_id;
  if not audiencelab_private.is_member(v_segment.account_id) then
    raise exception using
      errcode = 'PT404',
      message = 'the segment does not exist, or you are not a member of its account';
  end if;
  if v_segment.deleted then
    update public.segments as segment set deleted = false where segment.id = p_segment_id
    returning * into v_segment;
  end if;
  return v_segment;
end;
$$;
comment on function public.restore_studio_segment(uuid) is 'Restores a deleted segment. Members only.';
select audiencelab_private.revoke_privileges('public', '{restore_studio_segment}');
grant execute on function public.restore_studio_segment(uuid) to authenticated;

drop schema audiencelab_desired cascade;

-- Foreign keys come last: adding one locks the referenced table until the transaction ends.
select audiencelab_private.apply_foreign_keys('public.segments', '{
  "segments_account_id_fkey": "FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE",
  "segments_created_by_fkey": "FOREIGN KEY (created_by) REFERENCES auth.users(id) ON DELETE CASCADE"
}');

notify pgrst, 'reload schema';

commit;

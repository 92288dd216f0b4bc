-- Enrichment jobs, studio segments and API keys, by account and under row level security.
--
-- One transaction, safe to run again. It builds on V3's base schema (accounts, memberships, auth) and changes none of it.
-- Objects that an earlier script left behind are brought to the same shape; rows and live API keys are kept.

begin;

set local search_path = '';
-- While it waits for a lock, the application's requests wait behind it: so not for long. If it gives up, run it again.
set local lock_timeout = '3s';
set local statement_timeout = '10min';
-- "does not exist, skipping" is no news.
set local client_min_messages = warning;

-- Everything that is missing is reported at once, before anything is changed. From the catalogs and not with to_regclass,
-- which fails by itself where a schema may not be used.
do $requirements$
declare
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
  required (thing, remedy, is_met) as (
    select needed.thing, needed.remedy, needed.thing in (select present.thing from present)
    from (
      values
        ('public.accounts', 'apply V3''s base schema first'),
        ('public.accounts_memberships', 'apply V3''s base schema first'),
        ('public.has_role_on_account(uuid, character varying)', 'apply V3''s base schema first'),
        ('public.trigger_set_timestamps()', 'apply V3''s base schema first'),
        ('auth.users', 'this has to be a Supabase database'),
        ('auth.uid()', 'this has to be a Supabase database'),
        ('role anon', 'this has to be a Supabase database'),
        ('role authenticated', 'this has to be a Supabase database'),
        ('role service_role', 'this has to be a Supabase database'),
        ('role authenticator', 'this has to be a Supabase database'),
        ('extensions.gen_random_bytes(integer)', 'run: create extension pgcrypto with schema extensions, or if it is elsewhere: alter extension pgcrypto set schema extensions'),
        ('extensions.crypt(text, text)', 'run: create extension pgcrypto with schema extensions, or if it is elsewhere: alter extension pgcrypto set schema extensions'),
        ('publication supabase_realtime', 'run: create publication supabase_realtime')
    ) as needed (thing, remedy)
    union all
    select allowed.thing, format('run this as a role that has it, such as postgres; you are %s', current_user), allowed.is_met
    from (
      values
        (
          'the right to create role api_key and to grant it',
          exists (
            select from pg_roles as caller
            left join pg_roles as api_key on api_key.rolname = 'api_key'
            where caller.rolname = current_user
              and (
                caller.rolsuper
                or pg_has_role('authenticator', api_key.oid, 'member')
                or pg_has_role(api_key.oid, 'member with admin option')
                or (caller.rolcreaterole and (api_key.oid is null or current_setting('server_version_num')::integer < 160000))
              )
          )
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
          'the right to reference public.accounts and auth.users',
          not exists (
            select from pg_class as class
            join pg_namespace as namespace on namespace.oid = class.relnamespace
            where (namespace.nspname, class.relname) in (('public', 'accounts'), ('auth', 'users'))
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
    select format('the ownership of %s', object.name), format('run this as %s', pg_get_userbyid(object.owner)), false
    from (
      select format('%I.%I', namespace.nspname, class.relname), class.relowner
      from pg_class as class
      join pg_namespace as namespace on namespace.oid = class.relnamespace
      where class.relkind in ('r', 'v')
        and ((namespace.nspname = 'public' and class.relname in ('enrichment_tracking', 'segments'))
             or (namespace.nspname = 'api_keys_private' and class.relname in ('api_keys', 'api_key_logs', 'live_api_keys')))
      union all
      select format('schema %I', nspname), nspowner
      from pg_namespace
      where nspname = 'api_keys_private'
      union all
      select format('function public.%I', function.proname), function.proowner
      from pg_proc as function
      join pg_namespace as namespace on namespace.oid = function.pronamespace
      where namespace.nspname = 'public'
        and function.proname in (
          'create_api_key', 'list_api_keys', 'revoke_api_key', 'verify_api_key', 'log_api_key_usage', 'has_scope',
          'get_api_key_account_id', 'create_studio_segment'
        )
    ) as object (name, owner)
    where not pg_has_role(object.owner, 'usage')
    union all
    -- One that could log in, or that row security does not hold, is not for us to repair in silence.
    select
      'a role api_key that is only a role',
      'as an administrator, run: alter role api_key nologin nobypassrls nosuperuser nocreaterole nocreatedb noreplication,'
      ' and revoke from it every role that it is a member of',
      not exists (
        select from pg_roles as api_key
        where api_key.rolname = 'api_key'
          and (
            api_key.rolcanlogin or api_key.rolbypassrls or api_key.rolsuper or api_key.rolcreaterole
            or api_key.rolcreatedb or api_key.rolreplication
            or exists (select from pg_auth_members where member = api_key.oid)
          )
      )
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

-- The role that a request runs as when its token was made for an API key: sub is the key's id.
do $role$
begin
  if not exists (select from pg_roles where rolname = 'api_key') then
    create role api_key nologin noinherit;
  end if;
  if not pg_has_role('authenticator', 'api_key', 'member') then
    grant api_key to authenticator;
  end if;
end;
$role$;
-- V3's base schema takes schema public away from everybody who is not named.
grant usage on schema public to api_key;

create schema if not exists api_keys_private;

create table if not exists public.enrichment_tracking (
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
  updated_at timestamptz not null default now()
);

create table if not exists public.segments (
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
  deleted boolean not null default false
);

create table if not exists api_keys_private.api_keys (
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
  is_active boolean not null default true
);

create table if not exists api_keys_private.api_key_logs (
  id uuid not null default gen_random_uuid(),
  api_key_id uuid not null,
  endpoint text not null,
  method text not null,
  status_code integer,
  ip_address text,
  user_agent text,
  timestamp timestamptz not null default now()
);

-- Constraints, indexes and triggers, each as the catalogs spell it, so that what an earlier script left can be compared:
-- what is not exactly one of these goes, with a warning that names it, and what is missing is made.
do $shape$
declare
  v_step record;
begin
  create temporary table our_shape (relation regclass, kind text, name text, definition text);
  insert into pg_temp.our_shape (relation, kind, name, definition)
  values
    ('public.enrichment_tracking', 'constraint', 'enrichment_tracking_pkey', 'PRIMARY KEY (id)'),
    ('public.enrichment_tracking', 'constraint', 'enrichment_tracking_account_id_fkey',
      'FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE'),
    ('public.enrichment_tracking', 'constraint', 'enrichment_tracking_created_by_fkey',
      'FOREIGN KEY (created_by) REFERENCES auth.users(id) ON DELETE CASCADE'),
    ('public.enrichment_tracking', 'constraint', 'enrichment_tracking_enrichment_type_check',
      'CHECK ((enrichment_type = ANY (ARRAY[''email''::text, ''phone''::text, ''company''::text, ''social''::text, ''custom''::text])))'),
    ('public.enrichment_tracking', 'constraint', 'enrichment_tracking_status_check',
      'CHECK ((status = ANY (ARRAY[''pending''::text, ''processing''::text, ''completed''::text, ''failed''::text])))'),
    ('public.segments', 'constraint', 'segments_pkey', 'PRIMARY KEY (id)'),
    ('public.segments', 'constraint', 'segments_account_id_fkey',
      'FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE'),
    ('public.segments', 'constraint', 'segments_created_by_fkey',
      'FOREIGN KEY (created_by) REFERENCES auth.users(id) ON DELETE CASCADE'),
    ('public.segments', 'constraint', 'segments_source_type_check',
      'CHECK ((source_type = ANY (ARRAY[''audience''::text, ''webhook_upload''::text, ''csv_upload''::text])))'),
    ('api_keys_private.api_keys', 'constraint', 'api_keys_pkey', 'PRIMARY KEY (id)'),
    -- Older databases hold keys of accounts that are gone. Their rows are kept, so it cannot be validated.
    ('api_keys_private.api_keys', 'constraint', 'api_keys_account_id_fkey',
      'FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE NOT VALID'),
    ('api_keys_private.api_key_logs', 'constraint', 'api_key_logs_pkey', 'PRIMARY KEY (id)'),
    ('api_keys_private.api_key_logs', 'constraint', 'api_key_logs_api_key_id_fkey',
      'FOREIGN KEY (api_key_id) REFERENCES api_keys_private.api_keys(id) ON DELETE CASCADE'),

    -- Newest first within an account, by (created_at, id), is how every list is read; id makes the order total.
    ('public.enrichment_tracking', 'index', 'enrichment_tracking_account_id_created_at_id_idx',
      'USING btree (account_id, created_at DESC, id DESC)'),
    ('public.enrichment_tracking', 'index', 'enrichment_tracking_account_id_status_created_at_idx',
      'USING btree (account_id, status, created_at DESC)'),
    ('public.enrichment_tracking', 'index', 'enrichment_tracking_audience_id_created_at_idx',
      'USING btree (audience_id, created_at DESC)'),
    ('public.enrichment_tracking', 'index', 'enrichment_tracking_created_by_idx', 'USING btree (created_by)'),
    -- Over all accounts creation time has a block range index: a B-tree would tempt the planner to walk everybody's rows
    -- for a member's page.
    ('public.enrichment_tracking', 'index', 'enrichment_tracking_created_at_idx', 'USING brin (created_at)'),
    -- For the workers, who look for jobs to do in all accounts.
    ('public.enrichment_tracking', 'index', 'enrichment_tracking_unfinished_idx',
      'USING btree (status, created_at) WHERE (status = ANY (ARRAY[''pending''::text, ''processing''::text]))'),
    -- With what the policy looks at, so that counting reads the index alone.
    ('public.segments', 'index', 'segments_account_id_created_at_id_idx',
      'USING btree (account_id, created_at DESC, id DESC) INCLUDE (deleted, updated_at)'),
    ('public.segments', 'index', 'segments_account_id_source_type_created_at_idx',
      'USING btree (account_id, source_type, created_at DESC)'),
    ('public.segments', 'index', 'segments_created_by_idx', 'USING btree (created_by)'),
    ('public.segments', 'index', 'segments_created_at_idx', 'USING brin (created_at)'),
    -- Only for cleaning up: deleted rows are few, and nobody else looks for them.
    ('public.segments', 'index', 'segments_deleted_idx', 'USING btree (updated_at) WHERE deleted'),
    ('api_keys_private.api_keys', 'unique index', 'api_keys_key_hash_key', 'USING btree (key_hash)'),
    ('api_keys_private.api_keys', 'index', 'api_keys_account_id_created_at_id_idx',
      'USING btree (account_id, created_at DESC, id DESC)'),
    -- Keys from before SHA-256, until each has been verified once.
    ('api_keys_private.api_keys', 'index', 'api_keys_key_prefix_idx',
      'USING btree (key_prefix) WHERE (key_hash ~~ ''$2a$%''::text)'),
    ('api_keys_private.api_key_logs', 'index', 'api_key_logs_api_key_id_timestamp_idx',
      'USING btree (api_key_id, "timestamp" DESC)'),
    -- The log grows in time's order, so a block range index is enough to cut off its old end.
    ('api_keys_private.api_key_logs', 'index', 'api_key_logs_timestamp_idx', 'USING brin ("timestamp")'),

    ('public.enrichment_tracking', 'trigger', 'set_timestamps_enrichment_tracking',
      'BEFORE UPDATE ON public.enrichment_tracking FOR EACH ROW EXECUTE FUNCTION public.trigger_set_timestamps()'),
    ('public.segments', 'trigger', 'set_timestamps_segments',
      'BEFORE UPDATE ON public.segments FOR EACH ROW EXECUTE FUNCTION public.trigger_set_timestamps()');

  create temporary view found_shape as
  select conrelid::regclass as relation, 'constraint' as kind, conname::text as name, pg_get_constraintdef(oid) as definition
  from pg_constraint
  where contype in ('c', 'f', 'p', 'u', 'x')
  union all
  select
    index.indrelid::regclass,
    case when index.indisunique then 'unique index' else 'index' end,
    class.relname::text,
    case when index.indisvalid then substring(pg_get_indexdef(class.oid) from ' (USING .*)$') else 'invalid' end
  from pg_index as index
  join pg_class as class on class.oid = index.indexrelid
  where not exists (select from pg_constraint as held where held.conindid = index.indexrelid and held.contype in ('p', 'u', 'x'))
  union all
  select
    tgrelid::regclass,
    'trigger',
    tgname::text,
    case when tgenabled = 'O' then substring(pg_get_triggerdef(oid) from ' ((BEFORE|AFTER|INSTEAD OF) .*)$') else 'disabled' end
  from pg_trigger
  where not tgisinternal;

  for v_step in
    select found.*
    from pg_temp.found_shape as found
    where found.relation in (select our_shape.relation from pg_temp.our_shape)
      and not exists (
        select from pg_temp.our_shape as ours
        where (ours.relation, ours.kind, ours.name, ours.definition)
          = (found.relation, found.kind, found.name, found.definition)
      )
    -- Foreign keys and the like before the keys that they rest on.
    order by found.definition like 'PRIMARY KEY%'
  loop
    raise warning '% % on % gives way: %', v_step.kind, v_step.name, v_step.relation, v_step.definition;
    execute case v_step.kind
      when 'constraint' then format('alter table %s drop constraint %I', v_step.relation, v_step.name)
      when 'trigger' then format('drop trigger %I on %s', v_step.name, v_step.relation)
      else format(
        'drop index %I.%I',
        (select nspname from pg_namespace join pg_class on relnamespace = pg_namespace.oid where pg_class.oid = v_step.relation),
        v_step.name
      )
    end;
  end loop;

  for v_step in
    select ours.*
    from pg_temp.our_shape as ours
    where not exists (
      select from pg_temp.found_shape as found
      where (found.relation, found.kind, found.name) = (ours.relation, ours.kind, ours.name)
    )
    -- Keys first: what refers to a table needs its key.
    order by ours.definition not like 'PRIMARY KEY%', ours.kind
  loop
    execute case v_step.kind
      when 'constraint' then format('alter table %s add constraint %I %s', v_step.relation, v_step.name, v_step.definition)
      when 'trigger' then format('create trigger %I %s', v_step.name, v_step.definition)
      else format('create %s %I on %s %s', v_step.kind, v_step.name, v_step.relation, v_step.definition)
    end;
  end loop;
  drop view pg_temp.found_shape;
  drop table pg_temp.our_shape;
end;
$shape$;

-- After the constraint, which keeps accounts from being deleted meanwhile.
update api_keys_private.api_keys as api_key
set is_active = false
where api_key.is_active
  and not exists (select from public.accounts as account where account.id = api_key.account_id);

-- Logical replication refuses updates of a table whose replica identity is an index that has gone.
do $replica_identity$
declare
  v_table regclass;
begin
  for v_table in
    select oid
    from pg_class
    where oid in ('public.enrichment_tracking'::regclass, 'public.segments'::regclass) and relreplident in ('i', 'n')
  loop
    execute format('alter table %s replica identity default', v_table);
  end loop;
end;
$replica_identity$;

-- Whatever policies the tables carry, ours replace them: policies add up, and a forgotten one is a hole. Only those of the
-- next migration stay, so that this one alone can be run again.
do $policies$
declare
  v_policy record;
begin
  for v_policy in
    select polname as name, polrelid::regclass as relation
    from pg_policy
    where polrelid in (
        'public.enrichment_tracking'::regclass,
        'public.segments'::regclass,
        'api_keys_private.api_keys'::regclass,
        'api_keys_private.api_key_logs'::regclass
      )
      and polname not in (
        'segments_select_api_key', 'enrichment_tracking_select_api_key', 'enrichment_tracking_update_api_key'
      )
  loop
    execute format('drop policy %I on %s', v_policy.name, v_policy.relation);
  end loop;
end;
$policies$;

-- The only definition of a key that works.
create or replace view api_keys_private.live_api_keys
with (security_invoker = true)
as
select id, account_id, key_prefix, key_hash, scopes
from api_keys_private.api_keys
where is_active and (expires_at is null or expires_at > now());

create or replace function api_keys_private.member_account_ids()
returns setof uuid
language sql
stable
-- Definer, so that row security on the memberships costs nothing and hides nothing here; it tells only the caller's own.
security definer
set search_path = ''
as $$
  select membership.account_id
  from public.accounts_memberships as membership
  where membership.user_id = (select auth.uid());
$$;

create or replace function api_keys_private.require_member(p_account_id uuid)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if public.has_role_on_account(p_account_id) is not true then
    raise exception using
      errcode = 'insufficient_privilege',
      message = 'the account does not exist, or you are not a member of it';
  end if;
end;
$$;

create or replace function api_keys_private.require_scopes(p_scopes jsonb)
returns void
language plpgsql
immutable
set search_path = ''
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

create or replace function api_keys_private.base62(p_digit integer)
returns text
language sql
immutable
set search_path = ''
as $$
  select substr('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789', p_digit + 1, 1);
$$;

create or replace function api_keys_private.random_base62(p_length integer)
returns text
language plpgsql
volatile
set search_path = ''
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

create or replace function api_keys_private.crc32(p_bytes bytea)
returns bigint
language plpgsql
immutable
set search_path = ''
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

create or replace function api_keys_private.generate_api_key()
returns text
language plpgsql
volatile
set search_path = ''
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

do $types$
begin
  if to_regtype('public.create_api_key_response') is null then
    create type public.create_api_key_response as (
      id uuid,
      name text,
      key text,
      key_prefix text,
      account_id uuid,
      scopes jsonb,
      expires_at timestamptz,
      created_at timestamptz
    );
  end if;
  if to_regtype('public.verify_api_key_response') is null then
    create type public.verify_api_key_response as (
      valid boolean,
      api_key_id uuid,
      account_id uuid,
      error text
    );
  end if;
  if to_regtype('public.api_key_usage_log_response') is null then
    create type public.api_key_usage_log_response as (
      success boolean,
      log_id uuid,
      "timestamp" timestamptz,
      error text,
      error_code text
    );
  end if;
end;
$types$;

-- `create or replace` can change neither a result nor a default, and an overload would make a call by name ambiguous.
do $functions$
declare
  v_function regprocedure;
begin
  for v_function in
    select function.oid
    from pg_proc as function
    join (
      values
        ('create_api_key', 'public.create_api_key_response',
          'p_account_id uuid, p_name text, p_scopes jsonb, p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone'),
        ('list_api_keys',
          'TABLE(id uuid, name text, key_prefix text, scopes jsonb, expires_at timestamp with time zone, created_at timestamp with time zone, last_used_at timestamp with time zone, is_active boolean, created_by uuid)',
          'p_account_id uuid'),
        ('revoke_api_key', 'boolean', 'p_api_key_id uuid'),
        ('verify_api_key', 'public.verify_api_key_response', 'p_api_key text'),
        ('log_api_key_usage', 'public.api_key_usage_log_response',
          'p_api_key_id uuid, p_endpoint text, p_method text, p_status_code integer, p_ip_address text, p_user_agent text'),
        ('has_scope', 'boolean', 'p_entity_type text, p_entity_id text, p_action text'),
        ('get_api_key_account_id', 'uuid', ''),
        ('create_studio_segment', 'uuid',
          'p_account_id uuid, p_name text, p_source_type text, p_source_id text, p_description text DEFAULT NULL::text, p_filters jsonb DEFAULT ''[]''::jsonb, p_enrichment_fields text[] DEFAULT ''{}''::text[], p_custom_columns jsonb DEFAULT ''[]''::jsonb, p_tags text[] DEFAULT ''{}''::text[]')
    ) as ours (name, result, arguments) on ours.name = function.proname
    where function.pronamespace = 'public'::regnamespace
      and (pg_get_function_result(function.oid) <> ours.result
           or pg_get_function_arguments(function.oid) <> ours.arguments)
  loop
    execute format('drop function %s', v_function);
  end loop;
end;
$functions$;

create or replace function public.create_api_key(
  p_account_id uuid,
  p_name text,
  p_scopes jsonb,
  p_expires_at timestamptz default null
)
returns public.create_api_key_response
language plpgsql
volatile
-- Definer, because the keys are closed to everybody; members only.
security definer
set search_path = ''
as $$
declare
  v_key text;
  v_row api_keys_private.api_keys;
begin
  perform api_keys_private.require_member(p_account_id);
  if p_name is null or btrim(p_name) = '' or length(p_name) > 255 then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the name of an API key must have 1 to 255 characters, not all of them blank';
  end if;
  perform api_keys_private.require_scopes(p_scopes);
  if p_expires_at <= now() or not isfinite(p_expires_at) then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('the expiry of an API key must be a moment in the future, and %s is not', p_expires_at);
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
    (select auth.uid())
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
-- Definer, because the keys are closed to everybody; members only.
security definer
set search_path = ''
as $$
begin
  perform api_keys_private.require_member(p_account_id);
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

create or replace function public.revoke_api_key(p_api_key_id uuid)
returns boolean
language plpgsql
volatile
-- Definer, because the keys are closed to everybody; members only.
security definer
set search_path = ''
as $$
begin
  update api_keys_private.api_keys as api_key
  set is_active = false
  where api_key.id = p_api_key_id
    and public.has_role_on_account(api_key.account_id);
  if not found then
    raise exception using
      errcode = 'insufficient_privilege',
      message = 'the API key does not exist, or you are not a member of its account';
  end if;
  return true;
end;
$$;

create or replace function public.verify_api_key(p_api_key text)
returns public.verify_api_key_response
language plpgsql
volatile
-- Definer, because the keys are closed to everybody; granted to those who already hold a key's text.
security definer
set search_path = ''
as $$
declare
  v_hash constant text := encode(sha256(convert_to(p_api_key, 'UTF8')), 'hex');
  v_id uuid;
  v_account_id uuid;
  v_old record;
begin
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
        -- Another call may have re-hashed it since we looked: one statement sees either the old hash or the new one.
        or api_key.key_hash = v_hash
    loop
      if (
        case
          when v_old.key_hash = v_hash then true
          else extensions.crypt(p_api_key, v_old.key_hash) = v_old.key_hash
        end
      ) then
        update api_keys_private.api_keys as api_key
        set key_hash = v_hash
        where api_key.id = v_old.id and api_key.key_hash <> v_hash;
        return row(true, v_old.id, v_old.account_id, null::text)::public.verify_api_key_response;
      end if;
    end loop;
  end if;

  return row(false, null::uuid, null::uuid, 'Invalid API key'::text)::public.verify_api_key_response;
end;
$$;

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
-- Definer, because the logs are closed to everybody; granted to service_role only.
security definer
set search_path = ''
as $$
declare
  v_id uuid;
  v_timestamp timestamptz;
begin
  insert into api_keys_private.api_key_logs as log (api_key_id, endpoint, method, status_code, ip_address, user_agent)
  values (p_api_key_id, p_endpoint, p_method, p_status_code, p_ip_address, p_user_agent)
  returning log.id, log.timestamp into v_id, v_timestamp;

  -- At most once a minute, and never by waiting for somebody who is about to do it: a busy key must be no queue.
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

create or replace function public.has_scope(p_entity_type text, p_entity_id text, p_action text)
returns boolean
language sql
stable
-- Definer, because the keys are closed to everybody; it tells only the scopes of the key that the request runs as.
security definer
set search_path = ''
as $$
  select exists (
    select
    from api_keys_private.live_api_keys as api_key
    cross join lateral jsonb_array_elements(
      case jsonb_typeof(api_key.scopes) when 'array' then api_key.scopes else '[]' end
    ) as scope (value)
    where api_key.id = (select auth.uid())
      and p_entity_type is not null
      and p_entity_id is not null
      and p_action is not null
      and scope.value ->> 'entity_type' in (p_entity_type, '*')
      and scope.value ->> 'entity_id' in (p_entity_id, '*')
      and scope.value ->> 'action' in (p_action, '*')
  );
$$;

create or replace function public.get_api_key_account_id()
returns uuid
language sql
stable
-- Definer, because the keys are closed to everybody; it tells only the account of the key that the request runs as.
security definer
set search_path = ''
as $$
  select api_key.account_id
  from api_keys_private.live_api_keys as api_key
  where api_key.id = (select auth.uid());
$$;

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
-- Invoker: row security on the table holds here too.
security invoker
set search_path = ''
as $$
declare
  v_id uuid;
begin
  if public.has_role_on_account(p_account_id) is not true then
    raise exception using
      errcode = 'insufficient_privilege',
      message = 'the account does not exist, or you are not a member of it';
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
    (select auth.uid())
  )
  returning id into v_id;
  return v_id;
end;
$$;

alter table public.enrichment_tracking enable row level security;
alter table public.segments enable row level security;
alter table api_keys_private.api_keys enable row level security;
alter table api_keys_private.api_key_logs enable row level security;

-- `= any (array(select ...))` asks for the caller's accounts once a statement, and can use an index on account_id.
-- has_role_on_account(account_id) would be asked once a row.
create policy enrichment_tracking_select on public.enrichment_tracking
  for select to authenticated
  using (account_id = any (array(select api_keys_private.member_account_ids())));
create policy enrichment_tracking_insert on public.enrichment_tracking
  for insert to authenticated
  with check (account_id = any (array(select api_keys_private.member_account_ids())));
create policy enrichment_tracking_update on public.enrichment_tracking
  for update to authenticated
  using (account_id = any (array(select api_keys_private.member_account_ids())))
  with check (account_id = any (array(select api_keys_private.member_account_ids())));

-- PostgreSQL holds the new row of an UPDATE with a WHERE against this policy too, and a soft delete makes a deleted one.
-- So a row that this very transaction has changed is admitted: the trigger gave it the transaction's own time, and a
-- transaction that only reads has no id.
create policy segments_select on public.segments
  for select to authenticated
  using (
    account_id = any (array(select api_keys_private.member_account_ids()))
    and (not deleted or (updated_at = now() and pg_current_xact_id_if_assigned() is not null))
  );
create policy segments_insert on public.segments
  for insert to authenticated
  with check (account_id = any (array(select api_keys_private.member_account_ids())));
-- Without a WHERE the policy above is not asked, so that a deleted row has to be left alone here too.
create policy segments_update on public.segments
  for update to authenticated
  using (account_id = any (array(select api_keys_private.member_account_ids())) and not deleted)
  with check (account_id = any (array(select api_keys_private.member_account_ids())));
create policy segments_delete on public.segments
  for delete to authenticated
  using (account_id = any (array(select api_keys_private.member_account_ids())) and not deleted);

-- All that anybody may do is granted below, by name: whatever default privileges or earlier scripts gave is taken back,
-- so that a plain Supabase project and V3's end up the same. What role api_key may do with the public tables is the next
-- migration's to say.
do $privileges$
declare
  v_statement text;
begin
  for v_statement in
    with relations as (
      select oid, relowner, relacl
      from pg_class
      where oid in (
        'public.enrichment_tracking'::regclass,
        'public.segments'::regclass,
        'api_keys_private.api_keys'::regclass,
        'api_keys_private.api_key_logs'::regclass,
        'api_keys_private.live_api_keys'::regclass
      )
    ),
    ours (kind, name, owner, acl) as (
      select 'schema', format('%I', nspname), nspowner, nspacl
      from pg_namespace
      where nspname = 'api_keys_private'
      union all
      select 'table', oid::regclass::text, relowner, relacl
      from relations
      union all
      select 'table', oid::regclass::text, relowner, attacl
      from relations
      join pg_attribute on attrelid = oid
      union all
      select 'function', oid::regprocedure::text, proowner, coalesce(proacl, acldefault('f', proowner))
      from pg_proc
      where (pronamespace = 'public'::regnamespace and proname in (
              'create_api_key', 'list_api_keys', 'revoke_api_key', 'verify_api_key', 'log_api_key_usage', 'has_scope',
              'get_api_key_account_id', 'create_studio_segment'
            ))
         or (pronamespace = 'api_keys_private'::regnamespace and proname in (
              'member_account_ids', 'require_member', 'require_scopes', 'base62', 'random_base62', 'crc32',
              'generate_api_key'
            ))
    )
    select distinct
      format(
        'revoke all on %s %s from %s cascade',
        ours.kind,
        ours.name,
        case entry.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(entry.grantee)) end
      )
    from ours
    cross join lateral aclexplode(ours.acl) as entry
    where entry.grantee <> ours.owner
      and not (
        entry.grantee = 'api_key'::regrole
        and ours.name in ('public.segments', 'public.enrichment_tracking')
      )
  loop
    execute v_statement;
  end loop;
end;
$privileges$;

grant usage on schema api_keys_private to service_role;
grant select, insert, update, delete on api_keys_private.api_keys to service_role;
grant select, insert, update, delete on api_keys_private.api_key_logs to service_role;

grant select, insert, update on public.enrichment_tracking to authenticated;
grant select, insert, update, delete on public.enrichment_tracking to service_role;
grant select, insert, update, delete on public.segments to authenticated;
grant select, insert, update, delete on public.segments to service_role;
-- For the policies only: without usage on its schema nobody can call it by name.
grant execute on function api_keys_private.member_account_ids() to authenticated;

grant execute on function public.create_api_key(uuid, text, jsonb, timestamptz) to authenticated;
grant execute on function public.list_api_keys(uuid) to authenticated;
grant execute on function public.revoke_api_key(uuid) to authenticated;
grant execute on function public.verify_api_key(text) to service_role, api_key;
grant execute on function public.log_api_key_usage(uuid, text, text, integer, text, text) to service_role;
grant execute on function public.has_scope(text, text, text) to api_key;
grant execute on function public.get_api_key_account_id() to api_key;
grant execute on function public.create_studio_segment(
  uuid, text, text, text, text, jsonb, text[], jsonb, text[]
) to authenticated;

do $publication$
declare
  v_table regclass;
begin
  foreach v_table in array array['public.enrichment_tracking', 'public.segments']::regclass[] loop
    -- Covers a publication of all tables or of the whole schema too.
    if not exists (select from pg_get_publication_tables('supabase_realtime') where relid = v_table) then
      execute format('alter publication supabase_realtime add table %s', v_table);
    end if;
  end loop;
end;
$publication$;

comment on schema api_keys_private is 'API keys and what row security needs. Not served by the API, closed to all but service_role.';

comment on table public.enrichment_tracking is 'Jobs that enrich the records of an audience, by account.';
comment on column public.enrichment_tracking.enrichment_fields is 'The fields that the job is to fill.';
comment on table public.segments is 'Saved audience segments, by account. Deleted ones stay, unseen, until they are purged.';
comment on column public.segments.source_id is 'Id of the audience or upload, as source_type says.';
comment on column public.segments.filters is 'Array of objects such as {"field": "country", "operator": "=", "value": "US"}.';
comment on column public.segments.custom_columns is 'Array of objects such as {"field": "score", "headerName": "Score", "type": "number"}.';
comment on column public.segments.deleted is 'Soft delete: members no longer see the row.';
comment on table api_keys_private.api_keys is 'API keys by account. The key itself is not kept.';
comment on column api_keys_private.api_keys.key_prefix is 'The first seven characters, by which people recognise a key.';
comment on column api_keys_private.api_keys.key_hash is 'SHA-256 of the key, in hex; bcrypt for old keys that were not verified since.';
comment on column api_keys_private.api_keys.scopes is 'Array of {"entity_type", "entity_id", "action"}; "*" stands for any.';
comment on column api_keys_private.api_keys.last_used_at is 'When the key was last used, to the minute.';
comment on table api_keys_private.api_key_logs is 'One row for each use of an API key.';
comment on view api_keys_private.live_api_keys is 'The keys that work: neither revoked nor expired.';

comment on function api_keys_private.member_account_ids() is 'The accounts that the caller is a member of, for row security.';
comment on function api_keys_private.require_member(uuid) is 'Raises 42501 unless the caller is a member of the account.';
comment on function api_keys_private.require_scopes(jsonb) is 'Raises 22023 unless it is an array of well-formed scopes.';
comment on function api_keys_private.base62(integer) is 'The character for a digit from 0 to 61: A-Z, a-z, 0-9.';
comment on function api_keys_private.random_base62(integer) is 'So many random characters A-Z, a-z, 0-9, all equally likely.';
comment on function api_keys_private.crc32(bytea) is 'CRC-32 as in zip and PNG.';
comment on function api_keys_private.generate_api_key() is 'A new key: sk_, 40 random characters, 6 of CRC-32 over what precedes.';

comment on type public.create_api_key_response is 'A new API key, the only time that the key itself is shown.';
comment on type public.verify_api_key_response is 'Whether a text is a live API key, and whose.';
comment on type public.api_key_usage_log_response is 'The log row written, or the message and SQLSTATE of the failure.';

comment on function public.create_api_key(uuid, text, jsonb, timestamptz) is 'Creates an API key of an account. Members only.';
comment on function public.list_api_keys(uuid) is 'The API keys of an account, newest first. Members only.';
comment on function public.revoke_api_key(uuid) is 'Switches an API key off, for good. Members only.';
comment on function public.verify_api_key(text) is 'Whether a text is a live API key, and whose. An old hash is replaced when it passes.';
comment on function public.log_api_key_usage(uuid, text, text, integer, text, text) is
  'Writes one log row for a use of an API key. A failure is part of the answer.';
comment on function public.has_scope(text, text, text) is 'Whether the API key that the request runs as may do this.';
comment on function public.get_api_key_account_id() is 'The account of the API key that the request runs as, null when it is not live.';
comment on function public.create_studio_segment(uuid, text, text, text, text, jsonb, text[], jsonb, text[]) is
  'Saves a segment of an account, in the caller''s name. Members only.';

notify pgrst, 'reload schema';

commit;

-- API keys: digests, scopes and audit trail, in a schema that the REST API does not expose.
--
-- One transaction, safe to run again. Requires 20261122000100_foundation.sql.

begin;

set local search_path = '';
set local lock_timeout = '3s';
set local statement_timeout = '10min';
select pg_advisory_xact_lock(hashtext('audiencelab migrations'));
set local client_min_messages = warning;

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

commit;

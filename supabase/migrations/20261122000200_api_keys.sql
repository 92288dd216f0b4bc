-- API keys: digests, scopes and usage logs, in a schema that the REST API does not expose.
--
-- One transaction, safe to run again, after 20261122000100_foundation.sql.

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

commit;

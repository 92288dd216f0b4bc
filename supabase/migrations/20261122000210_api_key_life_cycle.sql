-- The life cycle of API keys: reading, changing, disabling, enabling and rotating them, and their audit
-- trail.
--
-- One transaction, safe to run again. Requires 20261122000200_api_keys.sql.

begin;

set local search_path = '';
set local lock_timeout = '3s';
set local statement_timeout = '10min';
select pg_advisory_xact_lock(hashtext('audiencelab migrations'));
set local client_min_messages = warning;

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

commit;

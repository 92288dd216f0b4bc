-- Direct access: requests with the header x-api-key run as the API key, on the project's own REST API.
--
-- This file only creates the functions. Nothing changes until direct access is enabled: select api_keys_direct.enable();
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

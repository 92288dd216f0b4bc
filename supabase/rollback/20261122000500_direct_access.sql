-- Rolls back the migration of the same name: direct access with API keys.
--
-- It deletes no rows. It disables direct access first, so that no request calls a missing function.
-- If `supabase db push` applied the migration, remove it from the history, so that it can be pushed again:
-- supabase migration repair --status reverted 20261122000500

begin;

set local search_path = '';
set local lock_timeout = '3s';

do $disable$
declare
  v_caller text;
begin
  if to_regprocedure('api_keys_direct.disable()') is null then
    return;
  end if;
  select oid::regprocedure
  into v_caller
  from pg_proc
  where prosrc ~ 'api_keys_direct"?\s*\.\s*"?pre_request' and pronamespace <> to_regnamespace('api_keys_direct')
  limit 1;
  if found then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = format('nothing was changed: remove the call of api_keys_direct.pre_request from %s first', v_caller);
  end if;
  perform api_keys_direct.disable();
end;
$disable$;

commit;

-- PostgREST needs a moment to reload its configuration.
select pg_sleep(1);

begin;

set local search_path = '';
set local lock_timeout = '3s';
set local statement_timeout = '10min';
set local client_min_messages = warning;

do $schema$
begin
  if to_regnamespace('api_keys_direct') is not null then
    drop function if exists api_keys_direct.disable();
    drop function if exists api_keys_direct.enable();
    drop function if exists api_keys_direct.configured_function();
    drop function if exists api_keys_direct.pre_request();
    drop function if exists api_keys_direct.find_api_key(text);
    -- Without CASCADE, so that it raises an error if the schema contains other objects.
    drop schema api_keys_direct;
  end if;
end;
$schema$;

notify pgrst, 'reload schema';

commit;

-- Rolls back the migration of the same name: the functions that read, change, disable, enable and rotate
-- API keys, and that read their audit trail.
--
-- It deletes no rows.
-- If `supabase db push` applied the migration, remove it from the history, so that it can be pushed again:
-- supabase migration repair --status reverted 20261122000210

begin;

set local search_path = '';
set local lock_timeout = '3s';
set local statement_timeout = '10min';
set local client_min_messages = warning;

drop function if exists public.list_api_key_events(uuid, uuid, integer, timestamptz, uuid);
drop function if exists public.rotate_api_key(uuid, interval);
drop function if exists public.enable_api_key(uuid);
drop function if exists public.disable_api_key(uuid);
drop function if exists public.update_api_key(uuid, jsonb);
drop function if exists public.get_api_key(uuid);

do $schema$
begin
  if to_regclass('api_keys_private.api_keys') is not null then
    drop function if exists api_keys_private.parse_networks(jsonb);
    drop function if exists api_keys_private.parse_network(text);
    drop function if exists api_keys_private.parse_time(text, text);
    drop function if exists api_keys_private.require_json_type(jsonb, text, text[]);
    drop function if exists api_keys_private.max_overlap();
    drop function if exists api_keys_private.lock_api_key(uuid);
    drop function if exists api_keys_private.find_api_key(uuid);
    drop function if exists api_keys_private.to_response(api_keys_private.api_keys);
  end if;
end;
$schema$;

drop type if exists public.api_key_response;

notify pgrst, 'reload schema';

commit;

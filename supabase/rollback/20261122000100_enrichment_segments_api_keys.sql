-- Takes back the migration of the same name: the tables, functions, types, schema and role that it made.
--
-- THIS DELETES DATA: all enrichment jobs, all segments, all API keys and their logs. Every API key stops working.
-- It refuses to run until you have said so in the same session:
--
--   set audiencelab.confirm_rollback = 'delete enrichment jobs, segments and API keys';
--
-- With psql: psql -v ON_ERROR_STOP=1 -c "set ..." -f this-file. In the SQL editor: paste the line above this file.
-- Where `supabase db push` applied the migration, tell its history too, so that it can be pushed again:
-- supabase migration repair --status reverted 20261122000100

begin;

set local search_path = '';
set local lock_timeout = '3s';
set local statement_timeout = '10min';
set local client_min_messages = warning;

do $confirmation$
begin
  if to_regnamespace('enrichment_private') is not null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: take back 20261122000200_scoped_access_progress_batches.sql first';
  end if;
  if current_setting('audiencelab.confirm_rollback', true)
    is distinct from 'delete enrichment jobs, segments and API keys'
  then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: this would delete all enrichment jobs, segments and API keys. If that is what you'
        ' want, run first: set audiencelab.confirm_rollback = ''delete enrichment jobs, segments and API keys''';
  end if;
end;
$confirmation$;

drop function if exists public.create_studio_segment(
  uuid, text, text, text, text, jsonb, text[], jsonb, text[]
);
drop function if exists public.get_api_key_account_id();
drop function if exists public.has_scope(text, text, text);
drop function if exists public.log_api_key_usage(uuid, text, text, integer, text, text);
drop function if exists public.verify_api_key(text);
drop function if exists public.revoke_api_key(uuid);
drop function if exists public.list_api_keys(uuid);
drop function if exists public.create_api_key(uuid, text, jsonb, timestamptz);

drop type if exists public.api_key_usage_log_response;
drop type if exists public.verify_api_key_response;
drop type if exists public.create_api_key_response;

-- The tables leave the publication with it.
drop table if exists public.segments;
drop table if exists public.enrichment_tracking;

drop view if exists api_keys_private.live_api_keys;
drop table if exists api_keys_private.api_key_logs;
drop table if exists api_keys_private.api_keys;
drop function if exists api_keys_private.generate_api_key();
drop function if exists api_keys_private.crc32(bytea);
drop function if exists api_keys_private.random_base62(integer);
drop function if exists api_keys_private.base62(integer);
drop function if exists api_keys_private.require_scopes(jsonb);
drop function if exists api_keys_private.require_member(uuid);
drop function if exists api_keys_private.member_account_ids();
-- Not cascade: what somebody else has put there is not ours to delete.
drop schema if exists api_keys_private;

do $role$
begin
  if exists (select from pg_roles where rolname = 'api_key') then
    revoke usage on schema public from api_key;
    drop role api_key;
  end if;
end;
$role$;

notify pgrst, 'reload schema';

commit;

-- What was said holds for this once.
reset audiencelab.confirm_rollback;

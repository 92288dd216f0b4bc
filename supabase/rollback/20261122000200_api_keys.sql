-- Rolls back the migration of the same name: the tables, types and functions of API keys.
--
-- THIS DELETES DATA: all API keys, including those from before the migration, their audit trail and their usage logs. Every
-- API key stops working. Objects of earlier scripts that the migration replaced are not restored.
-- This file raises an error and changes nothing unless confirmed in the same session:
--
--   set audiencelab.confirm_rollback = 'delete all API keys';
--
-- With psql: psql -v ON_ERROR_STOP=1 -c "set ..." -f this-file. In the SQL editor: paste the line above this file.
-- If `supabase db push` applied the migration, remove it from the history, so that it can be pushed again:
-- supabase migration repair --status reverted 20261122000200

begin;

set local search_path = '';
set local lock_timeout = '3s';
set local statement_timeout = '10min';
set local client_min_messages = warning;

do $confirmation$
begin
  if to_regprocedure('public.restore_studio_segment(uuid)') is not null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: roll back 20261122000400_segments.sql first';
  end if;
  if to_regnamespace('enrichment_private') is not null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: roll back 20261122000300_enrichment_jobs.sql first';
  end if;
  if to_regtype('public.api_key_response') is not null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: roll back 20261122000210_api_key_life_cycle.sql first';
  end if;
  if to_regprocedure('public.log_api_key_usage_batch(jsonb)') is not null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: roll back 20261122000250_api_key_usage.sql first';
  end if;
  if to_regnamespace('api_keys_direct') is not null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: roll back 20261122000500_direct_access.sql first';
  end if;
  if current_setting('audiencelab.confirm_rollback', true) is distinct from 'delete all API keys' then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: this deletes all API keys, including those from before the migration, and their'
        ' usage logs. To confirm, run first: set audiencelab.confirm_rollback = ''delete all API keys''';
  end if;
end;
$confirmation$;

drop function if exists public.get_api_key_account_id();
drop function if exists public.has_scope(text, text, text);
drop function if exists public.authenticate_api_key(text, inet);
drop function if exists public.verify_api_key(text);
drop function if exists public.revoke_api_keys_of(uuid, uuid);
drop function if exists public.revoke_api_key(uuid);
drop function if exists public.list_api_keys(uuid);
drop function if exists public.issue_api_key(uuid, uuid, text, jsonb, timestamptz);
drop function if exists public.create_api_key(uuid, text, jsonb, timestamptz);
drop function if exists api_keys_private.add_api_key(uuid, uuid, text, jsonb, timestamptz);
drop function if exists api_keys_private.store_api_key(uuid, uuid, text, jsonb, timestamptz, jsonb, cidr[]);

drop type if exists public.authenticate_api_key_response;
drop type if exists public.verify_api_key_response;
drop type if exists public.create_api_key_response;

drop function if exists api_keys_private.caller_creator_id();
drop function if exists api_keys_private.caller_may_write(text, uuid, uuid);
drop function if exists api_keys_private.has_scope_on_all(text, text[]);
drop function if exists api_keys_private.scoped_entity_ids(text, text[]);
drop function if exists api_keys_private.count_failed_comparisons(text, integer, bigint);
drop function if exists api_keys_private.admit_comparison(text, text);
drop function if exists api_keys_private.require_live_caller();
drop function if exists api_keys_private.rehash_api_key(text, text);
drop function if exists api_keys_private.without_mapping(inet);
drop function if exists api_keys_private.require_room(uuid);
drop function if exists api_keys_private.require_expiry(timestamptz);
drop function if exists api_keys_private.require_name(text);
drop function if exists api_keys_private.may_read(uuid);
drop function if exists api_keys_private.require_manager(uuid);
drop function if exists api_keys_private.generate_api_key();
drop function if exists api_keys_private.crc32(bytea);
drop function if exists api_keys_private.random_base62(integer);
drop function if exists api_keys_private.base62(integer);
drop function if exists api_keys_private.require_scopes(jsonb);
drop view if exists api_keys_private.bcrypt_api_keys;
drop view if exists api_keys_private.live_api_keys;
drop table if exists api_keys_private.settings;
drop table if exists api_keys_private.failed_comparisons;
-- It exists only if an earlier script created it.
drop table if exists api_keys_private.api_key_logs;
drop table if exists api_keys_private.api_keys;
-- After the table, because its triggers call it.
drop function if exists api_keys_private.record_event();
drop table if exists api_keys_private.api_key_events;
-- Without CASCADE, so that it raises an error if the schema contains other objects.
drop schema if exists api_keys_private;

notify pgrst, 'reload schema';

commit;

-- The confirmation applies to one run.
reset audiencelab.confirm_rollback;

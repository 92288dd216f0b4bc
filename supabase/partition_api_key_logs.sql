-- Partitions the usage log by day with pg_partman, for projects that log more than about 100,000,000 requests in the period for
-- which they keep them. Dropping a partition takes no time, while purging its rows does.
--
-- Optional. Run it as role postgres, after the migrations:
--
--     create schema partman;
--     create extension pg_partman with schema partman;
--     select api_keys_private.roll_up_usage();
--     -- this file
--     -- Rows from before the migrations can be without a key. They are not readable.
--     delete from api_keys_private.api_key_logs_unpartitioned where api_key_id is null;
--     call partman.partition_data_proc(
--       'api_keys_private.api_key_logs', p_source_table => 'api_keys_private.api_key_logs_unpartitioned'
--     );
--     drop table api_keys_private.api_key_logs_unpartitioned;
--
-- partition_data_proc moves the rows in batches, while the application logs requests and reads their counts. Until a row is
-- moved, api_key_log does not return it.
--
-- To create partitions ahead and to drop those of the past, schedule the maintenance with pg_cron, besides the roll-up:
--
--     update partman.part_config
--     set retention = '90 days', retention_keep_table = false
--     where parent_table = 'api_keys_private.api_key_logs';
--     select cron.schedule('partition_api_key_logs', '@hourly', 'call partman.run_maintenance_proc()');
--     select api_keys_private.keep_api_key_logs('91 days');
--
-- What changes: the primary key is (id, timestamp), because it must contain the column that the table is partitioned by. An
-- event with a log_id is therefore written once only if it is repeated with the same timestamp. The functions are the same. The
-- migrations can still be run again, but do not alter the table, with a warning; supabase/verify.sql reports the differences.

begin;

set local search_path = '';
-- Requests queue behind a statement that waits for a lock, so the wait is short. After a timeout, run the file again.
set local lock_timeout = '3s';
set local statement_timeout = '10min';

do $requirements$
begin
  if (select relkind from pg_class where oid = to_regclass('api_keys_private.api_key_logs')) is distinct from 'r' then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed, because api_keys_private.api_key_logs does not exist or is already partitioned';
  end if;
  if to_regnamespace('partman') is null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: run "create extension pg_partman with schema partman" first';
  end if;
end;
$requirements$;

lock table api_keys_private.api_key_logs in access exclusive mode;
alter table api_keys_private.api_key_logs rename to api_key_logs_unpartitioned;
alter table api_keys_private.api_key_logs_unpartitioned rename constraint api_key_logs_pkey to api_key_logs_unpartitioned_pkey;
alter index api_keys_private.api_key_logs_api_key_id_timestamp_idx
  rename to api_key_logs_unpartitioned_api_key_id_timestamp_idx;
alter index api_keys_private.api_key_logs_timestamp_idx rename to api_key_logs_unpartitioned_timestamp_idx;
alter index api_keys_private.api_key_logs_position_idx rename to api_key_logs_unpartitioned_position_idx;

create table api_keys_private.api_key_logs (
  like api_keys_private.api_key_logs_unpartitioned including comments including constraints including defaults,
  constraint api_key_logs_pkey primary key (id, timestamp),
  constraint api_key_logs_api_key_id_fkey
    foreign key (api_key_id) references api_keys_private.api_keys (id) on delete cascade
) partition by range (timestamp);
comment on table api_keys_private.api_key_logs is 'One row for each use of an API key, partitioned by day.';
create index api_key_logs_api_key_id_timestamp_idx on api_keys_private.api_key_logs (api_key_id, timestamp desc);
create index api_key_logs_timestamp_idx on api_keys_private.api_key_logs (timestamp);
create index api_key_logs_position_idx on api_keys_private.api_key_logs (position);
alter table api_keys_private.api_key_logs enable row level security;
select audiencelab_private.revoke_privileges('api_keys_private', '{api_key_logs}');
grant select, insert, update, delete on api_keys_private.api_key_logs to service_role;

-- The parameters differ between versions 4 and 5 of pg_partman.
do $partitions$
begin
  if (select extversion from pg_extension where extname = 'pg_partman') like '4.%' then
    perform partman.create_parent(
      p_parent_table => 'api_keys_private.api_key_logs', p_control => 'timestamp', p_type => 'native', p_interval => '1 day'
    );
  else
    perform partman.create_parent(
      p_parent_table => 'api_keys_private.api_key_logs', p_control => 'timestamp', p_interval => '1 day'
    );
  end if;
end;
$partitions$;

-- The roll-up reads only the partitioned table, so the rows that are not rolled up must be there when the lock is released.
with moved as (
  delete from api_keys_private.api_key_logs_unpartitioned
  where position > (select rolled_up_to from api_keys_private.api_key_usage_progress) and api_key_id is not null
  returning *
)
insert into api_keys_private.api_key_logs (
  id, api_key_id, endpoint, method, status_code, ip_address, user_agent, timestamp, position
)
select id, api_key_id, endpoint, method, status_code, ip_address, user_agent, timestamp, position
from moved;

commit;

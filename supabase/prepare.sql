-- Builds the indexes and foreign keys of the migrations while the application keeps reading and writing. Before that, it adds
-- a column that one of the indexes contains.
--
-- Optional. Run it as role postgres before the migrations of a large live database:
--
--     psql "$DATABASE_URL" -f supabase/prepare.sql
--
-- The migrations reuse these indexes and foreign keys, whatever their names. Without this file, they build them themselves
-- and block reads and writes meanwhile: about five seconds for a million segments and five million log rows.
--
-- It builds only what is missing, so it can be repeated. On an error it stops with exit status 3: remove the cause and run
-- it again. DATABASE_URL must be a direct connection or a session pooler, not a transaction pooler. The SQL editor cannot
-- run this file: commands that begin with a backslash require psql, and concurrent builds cannot run in a transaction.

\set ON_ERROR_STOP on
\set AUTOCOMMIT on
\set QUIET on
\pset format unaligned
\pset fieldsep ' '
\pset tuples_only on

-- With an empty search path, PostgreSQL prints qualified names.
set search_path = '';
set statement_timeout = 0;
set client_min_messages = warning;

-- An index that is being built looks the same as an invalid one that an interrupted run left behind.
do $$
declare
  v_relation text;
begin
  select progress.relid::regclass
  into v_relation
  from pg_stat_progress_create_index as progress
  join pg_class as class on class.oid = progress.relid
  where progress.datname = current_database()
    and class.relname in ('enrichment_tracking', 'segments', 'api_keys', 'api_key_logs');
  if found then
    raise exception using
      errcode = 'object_in_use',
      message = format('another session is building an index on %s', v_relation),
      hint = 'Wait until it has finished, then run this file again.';
  end if;
end;
$$;

drop table if exists pg_temp.steps;
create temporary table steps as
-- As the migrations define them and PostgreSQL prints them, so that definitions can be compared.
with wanted (relation, kind, name, definition) as (
  values
    ('public.enrichment_tracking', 'index', 'enrichment_tracking_account_id_created_at_id_idx',
      'USING btree (account_id, created_at DESC, id DESC)'),
    ('public.enrichment_tracking', 'index', 'enrichment_tracking_account_id_status_created_at_idx',
      'USING btree (account_id, status, created_at DESC)'),
    ('public.enrichment_tracking', 'index', 'enrichment_tracking_audience_id_created_at_idx',
      'USING btree (audience_id, created_at DESC)'),
    ('public.enrichment_tracking', 'index', 'enrichment_tracking_created_by_idx', 'USING btree (created_by)'),
    ('public.enrichment_tracking', 'index', 'enrichment_tracking_created_at_idx', 'USING brin (created_at)'),
    ('public.enrichment_tracking', 'index', 'enrichment_tracking_unfinished_idx',
      'USING btree (status, created_at) WHERE (status = ANY (ARRAY[''pending''::text, ''processing''::text]))'),
    ('public.segments', 'index', 'segments_account_id_created_at_id_idx',
      'USING btree (account_id, created_at DESC, id DESC) INCLUDE (deleted, updated_at)'),
    ('public.segments', 'index', 'segments_account_id_source_type_created_at_idx',
      'USING btree (account_id, source_type, created_at DESC)'),
    ('public.segments', 'index', 'segments_created_by_idx', 'USING btree (created_by)'),
    ('public.segments', 'index', 'segments_created_at_idx', 'USING brin (created_at)'),
    ('public.segments', 'index', 'segments_deleted_idx', 'USING btree (updated_at) WHERE deleted'),
    ('api_keys_private.api_keys', 'unique index', 'api_keys_key_hash_key', 'USING btree (key_hash)'),
    ('api_keys_private.api_keys', 'index', 'api_keys_account_id_created_at_id_idx',
      'USING btree (account_id, created_at DESC, id DESC)'),
    ('api_keys_private.api_keys', 'index', 'api_keys_key_prefix_idx',
      'USING btree (key_prefix) WHERE (key_hash ~~ ''$2a$%''::text)'),
    ('api_keys_private.api_key_logs', 'index', 'api_key_logs_api_key_id_timestamp_idx',
      'USING btree (api_key_id, "timestamp" DESC)'),
    ('api_keys_private.api_key_logs', 'index', 'api_key_logs_timestamp_idx', 'USING btree ("timestamp")'),
    ('api_keys_private.api_key_logs', 'index', 'api_key_logs_position_idx', 'USING btree ("position")'),
    ('public.enrichment_tracking', 'foreign key', 'enrichment_tracking_account_id_fkey',
      'FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE'),
    ('public.enrichment_tracking', 'foreign key', 'enrichment_tracking_created_by_fkey',
      'FOREIGN KEY (created_by) REFERENCES auth.users(id) ON DELETE CASCADE'),
    ('public.segments', 'foreign key', 'segments_account_id_fkey',
      'FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE'),
    ('public.segments', 'foreign key', 'segments_created_by_fkey',
      'FOREIGN KEY (created_by) REFERENCES auth.users(id) ON DELETE CASCADE'),
    -- Not validated, because older databases contain keys of deleted accounts.
    ('api_keys_private.api_keys', 'foreign key', 'api_keys_account_id_fkey',
      'FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE NOT VALID'),
    ('api_keys_private.api_key_logs', 'foreign key', 'api_key_logs_api_key_id_fkey',
      'FOREIGN KEY (api_key_id) REFERENCES api_keys_private.api_keys(id) ON DELETE CASCADE')
),
-- The columns in these definitions. Each has the same type in every table.
known_column (name, type) as (
  values
    ('id', 'uuid'), ('account_id', 'uuid'), ('api_key_id', 'uuid'), ('audience_id', 'uuid'), ('created_by', 'uuid'),
    ('status', 'text'), ('source_type', 'text'), ('key_hash', 'text'), ('key_prefix', 'character varying'),
    ('deleted', 'boolean'), ('created_at', 'timestamp with time zone'), ('updated_at', 'timestamp with time zone'),
    ('timestamp', 'timestamp with time zone'), ('position', 'bigint')
),
existing_table as (
  select class.oid, class.relnamespace, format('%I.%I', namespace.nspname, class.relname) as name
  from pg_class as class
  join pg_namespace as namespace on namespace.oid = class.relnamespace
  where class.relkind = 'r'
),
-- As the migrations add it, except for its default, which the migrations alter. A constant default does not write the rows.
missing_column as (
  select existing_table.name as relation, 'position' as name, 'bigint not null default 0' as definition
  from existing_table
  where existing_table.name = 'api_keys_private.api_key_logs'
    and exists (select from pg_attribute where attrelid = existing_table.oid and attname = 'timestamp')
    and not exists (select from pg_attribute where attrelid = existing_table.oid and attname = 'position')
),
-- Skips indexes on a column of another type: the migrations alter the column and would drop them.
possible as (
  select wanted.*, existing_table.oid as table_oid, existing_table.relnamespace
  from wanted
  join existing_table on existing_table.name = wanted.relation
  where not exists (
    select from known_column
    where wanted.definition ~ format('\m%s\M', known_column.name)
      and not exists (
        select from pg_attribute
        where attrelid = existing_table.oid
          and attname = known_column.name
          and format_type(atttypid, null) = known_column.type
        union all
        select from missing_column
        where missing_column.relation = wanted.relation and missing_column.name = known_column.name
      )
  )
),
found_index as (
  select
    index.indrelid as table_oid,
    class.oid,
    class.relname as name,
    index.indisvalid as is_valid,
    case when index.indisunique then 'unique index' else 'index' end as kind,
    substring(pg_get_indexdef(class.oid) from ' (USING .*)$') as definition
  from pg_index as index
  join pg_class as class on class.oid = index.indexrelid
  where not exists (select from pg_constraint where conindid = class.oid and contype in ('p', 'u', 'x'))
),
invalid_index as (
  select distinct found_index.oid
  from found_index
  join possible on possible.table_oid = found_index.table_oid
    and found_index.name in (possible.name, possible.name || '_new')
  where not found_index.is_valid
),
missing_index as (
  select
    possible.relation,
    possible.kind,
    possible.definition,
    -- If an index with another definition has the name, the migrations drop it, then rename this one.
    possible.name || case when taken.oid is null then '' else '_new' end as name
  from possible
  left join pg_class as taken on taken.relnamespace = possible.relnamespace
    and taken.relname = possible.name
    and taken.oid not in (select oid from invalid_index)
  where possible.kind <> 'foreign key'
    and not exists (
      select from found_index
      where found_index.is_valid
        and (found_index.table_oid, found_index.kind, found_index.definition)
          = (possible.table_oid, possible.kind, possible.definition)
    )
),
foreign_key as (
  select
    possible.relation,
    possible.definition,
    found.name is null as is_missing,
    possible.definition not like '% NOT VALID' and found.is_valid is not true as is_to_validate,
    coalesce(found.name, possible.name || case when taken.oid is null then '' else '_new' end) as name
  from possible
  left join pg_constraint as taken on taken.conrelid = possible.table_oid and taken.conname = possible.name
  left join lateral (
    select conname as name, convalidated as is_valid
    from pg_constraint
    where conrelid = possible.table_oid
      and replace(pg_get_constraintdef(oid), ' NOT VALID', '') = replace(possible.definition, ' NOT VALID', '')
    order by convalidated desc, conname
    limit 1
  ) as found on true
  where possible.kind = 'foreign key'
    -- Requires the referenced table and its primary key.
    and exists (
      select from pg_constraint as key
      join existing_table on existing_table.oid = key.conrelid
      where existing_table.name = substring(possible.definition from 'REFERENCES ([^(]+)')
        and pg_get_constraintdef(key.oid) = 'PRIMARY KEY (id)'
    )
),
step (phase, description, statement) as (
  select
    0,
    format('add column %s to %s', name, relation),
    format('alter table %s add column %I %s', relation, name, definition)
  from missing_column
  union all
  select
    1,
    format('drop invalid index %s', oid::regclass),
    format('drop index concurrently %s', oid::regclass)
  from invalid_index
  union all
  select
    2,
    format('build %s %I on %s', kind, name, relation),
    format('create %s concurrently %I on %s %s', kind, name, relation, definition)
  from missing_index
  union all
  select
    3,
    format('add foreign key %I to %s', name, relation),
    format(
      'alter table %s add constraint %I %s',
      relation,
      name,
      replace(definition, ' NOT VALID', '') || ' NOT VALID'
    )
  from foreign_key
  where is_missing
  union all
  select
    4,
    format('validate foreign key %I of %s', name, relation),
    format('alter table %s validate constraint %I', relation, name)
  from foreign_key
  where is_to_validate
)
select
  phase,
  row_number() over (order by phase, description) as number,
  count(*) over () as total,
  description,
  statement
from step;

select case count(*) when 0 then 'Nothing to do.' else 'To do:' end from pg_temp.steps;
select '- ' || description from pg_temp.steps order by number;

-- Writes queue behind a statement that waits for its locks, so the wait is short.
set lock_timeout = '3s';
select format('select current_time(0), %L', format('%s of %s: %s', number, total, description)), statement
from pg_temp.steps
where phase = 0
order by number
\gexec

-- A concurrent build waits for older transactions, but does not block reads or writes. A timeout would only leave an
-- invalid index behind.
set lock_timeout = 0;
select format('select current_time(0), %L', format('%s of %s: %s', number, total, description)), statement
from pg_temp.steps
where phase between 1 and 2
order by number
\gexec

-- Writes queue behind a new foreign key that waits for its locks, so the wait is short. Each statement is a separate
-- transaction, so that the lock that adding takes on the referenced table is not held during the validation.
set lock_timeout = '3s';
select format('select current_time(0), %L', format('%s of %s: %s', number, total, description)), statement
from pg_temp.steps
where phase > 2
order by number
\gexec

select 'Done.' where exists (select from pg_temp.steps);
drop table pg_temp.steps;

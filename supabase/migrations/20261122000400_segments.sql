-- Segments: saved audiences of an account, with soft delete.
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
  if to_regprocedure('api_keys_private.caller_may_write(text, uuid, uuid)') is null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: apply 20261122000200_api_keys.sql first';
  end if;
end;
$requirements$;
select audiencelab_private.require_ownership(
  'public', '{segments,create_studio_segment,delete_studio_segment,restore_studio_segment}'
);

-- The table is created in this schema, then applied to that of the database.
create schema audiencelab_desired;

create table audiencelab_desired.segments (
  id uuid not null default gen_random_uuid(),
  account_id uuid not null,
  name text not null,
  description text,
  source_type text not null,
  source_id text not null,
  filters jsonb not null default '[]',
  enrichment_fields text[] not null default '{}',
  custom_columns jsonb not null default '[]',
  tags text[] not null default '{}',
  created_by uuid not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted boolean not null default false,
  constraint segments_pkey primary key (id),
  constraint segments_source_type_check check (source_type in ('audience', 'webhook_upload', 'csv_upload'))
);
-- Lists are read newest first within an account; id makes the order total. The policy reads the included columns, so that
-- counting uses index-only scans.
create index segments_account_id_created_at_id_idx
  on audiencelab_desired.segments (account_id, created_at desc, id desc) include (deleted, updated_at);
create index segments_account_id_source_type_created_at_idx
  on audiencelab_desired.segments (account_id, source_type, created_at desc);
create index segments_created_by_idx on audiencelab_desired.segments (created_by);
-- BRIN, because the planner could scan a B-tree of all accounts for one page of an account.
create index segments_created_at_idx on audiencelab_desired.segments using brin (created_at);
-- For purging deleted segments, which are few.
create index segments_deleted_idx on audiencelab_desired.segments (updated_at) where deleted;

create trigger set_timestamps_segments
  before update on audiencelab_desired.segments
  for each row execute function public.trigger_set_timestamps();
create trigger set_server_columns_segments
  before insert on audiencelab_desired.segments
  for each row execute function audiencelab_private.set_server_columns();
create trigger keep_identity_segments
  before update of id, account_id, created_by on audiencelab_desired.segments
  for each row
  when (new.id <> old.id or new.account_id <> old.account_id or new.created_by <> old.created_by)
  execute function audiencelab_private.keep_identity();

create trigger segments_name_limit
  before insert or update of name on audiencelab_desired.segments
  for each row when (length(new.name) > 255)
  execute function audiencelab_private.enforce_limit('name', 'must have at most 255 characters');
create trigger segments_description_limit
  before insert or update of description on audiencelab_desired.segments
  for each row when (length(new.description) > 10000)
  execute function audiencelab_private.enforce_limit('description', 'must have at most 10,000 characters');
create trigger segments_source_id_limit
  before insert or update of source_id on audiencelab_desired.segments
  for each row when (length(new.source_id) > 1000)
  execute function audiencelab_private.enforce_limit('source_id', 'must have at most 1,000 characters');
-- Short values cannot exceed the limits. Checking the length first saves the function call for most rows.
create trigger segments_filters_limit
  before insert or update of filters on audiencelab_desired.segments
  for each row
  when (octet_length(new.filters::text) > 200 and audiencelab_private.exceeds_json_limit(new.filters))
  execute function audiencelab_private.enforce_limit(
    'filters', 'must have at most 262,144 bytes as text, 100 levels, and numbers in the range of a double'
  );
create trigger segments_custom_columns_limit
  before insert or update of custom_columns on audiencelab_desired.segments
  for each row
  when (octet_length(new.custom_columns::text) > 200 and audiencelab_private.exceeds_json_limit(new.custom_columns))
  execute function audiencelab_private.enforce_limit(
    'custom_columns', 'must have at most 262,144 bytes as text, 100 levels, and numbers in the range of a double'
  );
create trigger segments_tags_limit
  before insert or update of tags on audiencelab_desired.segments
  for each row
  when (octet_length(new.tags::text) > 255 and audiencelab_private.exceeds_texts_limit(new.tags))
  execute function audiencelab_private.enforce_limit('tags', 'must have at most 1,000 elements of at most 255 characters');
create trigger segments_enrichment_fields_limit
  before insert or update of enrichment_fields on audiencelab_desired.segments
  for each row
  when (octet_length(new.enrichment_fields::text) > 255 and audiencelab_private.exceeds_texts_limit(new.enrichment_fields))
  execute function audiencelab_private.enforce_limit(
    'enrichment_fields', 'must have at most 1,000 elements of at most 255 characters'
  );

-- PostgreSQL also applies this policy to the new row of an UPDATE with a WHERE clause, and a soft delete marks that row as
-- deleted. The policy therefore admits rows that the current transaction changed: the trigger sets their updated_at to
-- now(), and a transaction that only reads has no transaction id.
create policy segments_select on audiencelab_desired.segments
  for select to authenticated
  using (
    account_id = any (array(select audiencelab_private.member_account_ids()))
    and (not deleted or (updated_at = now() and pg_current_xact_id_if_assigned() is not null))
  );
create policy segments_insert on audiencelab_desired.segments
  for insert to authenticated
  with check (account_id = any (array(select audiencelab_private.member_account_ids())));
-- PostgreSQL does not apply segments_select to an UPDATE or DELETE without a WHERE clause, so these policies also exclude
-- deleted rows.
create policy segments_update on audiencelab_desired.segments
  for update to authenticated
  using (account_id = any (array(select audiencelab_private.member_account_ids())) and not deleted)
  with check (account_id = any (array(select audiencelab_private.member_account_ids())));
create policy segments_delete on audiencelab_desired.segments
  for delete to authenticated
  using (account_id = any (array(select audiencelab_private.member_account_ids())) and not deleted);
-- An API key reads and updates the segments of its account that its scopes cover: all segments ("*") or those with the id in
-- a scope. A scope for writing includes reading, because an UPDATE with a WHERE clause reads. Only a scope for writing all
-- segments covers new ones. Deleted segments as above.
create policy segments_select_api_key on audiencelab_desired.segments
  for select to api_key
  using (
    account_id = (select public.get_api_key_account_id())
    and (not deleted or (updated_at = now() and pg_current_xact_id_if_assigned() is not null))
    and (
      (select api_keys_private.has_scope_on_all('segment', '{read,write}'))
      or id = any (array(select api_keys_private.scoped_entity_ids('segment', '{read,write}')))
    )
  );
create policy segments_insert_api_key on audiencelab_desired.segments
  for insert to api_key
  with check (
    account_id = (select public.get_api_key_account_id())
    and (select api_keys_private.has_scope_on_all('segment', '{write}'))
  );
create policy segments_update_api_key on audiencelab_desired.segments
  for update to api_key
  using (
    account_id = (select public.get_api_key_account_id())
    and not deleted
    and (
      (select api_keys_private.has_scope_on_all('segment', '{write}'))
      or id = any (array(select api_keys_private.scoped_entity_ids('segment', '{write}')))
    )
  )
  with check (
    account_id = (select public.get_api_key_account_id())
    and (
      (select api_keys_private.has_scope_on_all('segment', '{write}'))
      or id = any (array(select api_keys_private.scoped_entity_ids('segment', '{write}')))
    )
  );

select audiencelab_private.apply_table('public', 'segments');
comment on table public.segments is 'Saved audience segments, by account. Deleted segments are hidden until they are purged.';
comment on column public.segments.source_id is 'The id of the audience or upload. source_type states which of them it is.';
comment on column public.segments.filters is
  'Array of objects such as {"field": "country", "operator": "=", "value": "US"}.';
comment on column public.segments.custom_columns is
  'Array of objects such as {"field": "score", "headerName": "Score", "type": "number"}.';
comment on column public.segments.deleted is 'Whether the segment is deleted. Members do not see deleted segments.';
grant select, insert, update, delete on public.segments to authenticated;
grant select, insert, update, delete on public.segments to service_role;
grant select, insert on public.segments to api_key;
-- Not the columns that identify the segment, such as account_id and created_by.
grant update (
  name, description, source_type, source_id, filters, enrichment_fields, custom_columns, tags, deleted
) on public.segments to api_key;
select audiencelab_private.publish('public.segments');

select audiencelab_private.prepare_functions(
  'create_studio_segment(p_account_id uuid, p_name text, p_source_type text, p_source_id text,
     p_description text DEFAULT NULL::text, p_filters jsonb DEFAULT ''[]''::jsonb,
     p_enrichment_fields text[] DEFAULT ''{}''::text[], p_custom_columns jsonb DEFAULT ''[]''::jsonb,
     p_tags text[] DEFAULT ''{}''::text[])
   returns uuid',
  'delete_studio_segment(p_segment_id uuid) returns void',
  'restore_studio_segment(p_segment_id uuid) returns public.segments'
);

create or replace function audiencelab_private.require_segment_writer(p_account_id uuid, p_segment_id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  -- In a definer function, current_user is the owner, but the setting "role" is still the role of the request.
  if current_setting('role') = 'api_key' then
    if not api_keys_private.caller_may_write('segment', p_account_id, p_segment_id) then
      raise exception using
        errcode = 'PT404',
        message = 'the segment does not exist, or the API key has no scope for writing it';
    end if;
  elsif not audiencelab_private.is_member(p_account_id) then
    raise exception using
      errcode = 'PT404',
      message = 'the segment does not exist, or you are not a member of its account';
  end if;
end;
$$;
comment on function audiencelab_private.require_segment_writer(uuid, uuid) is
  'Raises PT404 unless the caller may write the segment of the account: as a member, or as an API key with a scope for it.';
select audiencelab_private.revoke_privileges('audiencelab_private', '{require_segment_writer}');

create or replace function public.create_studio_segment(
  p_account_id uuid,
  p_name text,
  p_source_type text,
  p_source_id text,
  p_description text default null,
  p_filters jsonb default '[]',
  p_enrichment_fields text[] default '{}',
  p_custom_columns jsonb default '[]',
  p_tags text[] default '{}'
)
returns uuid
language plpgsql
volatile
-- Definer: callers have no access to schema audiencelab_private. The function checks membership and scopes itself.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid;
begin
  -- In a definer function, current_user is the owner, but the setting "role" is still the role of the request.
  if current_setting('role') <> 'api_key' then
    perform audiencelab_private.require_member(p_account_id);
  elsif not api_keys_private.caller_may_write('segment', p_account_id) then
    raise exception using
      errcode = 'insufficient_privilege',
      message = 'the account is not that of the API key, or the API key has no scope for writing all segments';
  end if;
  if p_name is null or btrim(p_name) = '' then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the name of a segment must not be blank';
  end if;
  if p_source_id is null or btrim(p_source_id) = '' then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the source id of a segment must not be blank';
  end if;
  if p_source_type is null or p_source_type not in ('audience', 'webhook_upload', 'csv_upload') then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the source type of a segment must be audience, webhook_upload or csv_upload';
  end if;
  if jsonb_typeof(p_filters) <> 'array' or p_filters @? 'strict $[*] ? (@.type() != "object")' then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'filters must be an array of objects',
      hint = 'A filter is {"field": "country", "operator": "=", "value": "US"}.';
  end if;
  if jsonb_typeof(p_custom_columns) <> 'array' or p_custom_columns @? 'strict $[*] ? (@.type() != "object")' then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'custom columns must be an array of objects',
      hint = 'A custom column is {"field": "score", "headerName": "Score", "type": "number"}.';
  end if;

  insert into public.segments (
    account_id, name, source_type, source_id, description, filters, enrichment_fields, custom_columns, tags, created_by
  )
  values (
    p_account_id,
    p_name,
    p_source_type,
    p_source_id,
    p_description,
    coalesce(p_filters, '[]'),
    coalesce(p_enrichment_fields, '{}'),
    coalesce(p_custom_columns, '[]'),
    coalesce(p_tags, '{}'),
    audiencelab_private.caller_id()
  )
  returning id into v_id;
  return v_id;
end;
$$;
comment on function public.create_studio_segment(uuid, text, text, text, text, jsonb, text[], jsonb, text[]) is
$$Creates a segment in an account and returns its id. The caller becomes its created_by, or if the caller is an API key, the
user who created the key.

Callers: authenticated, as a member of the account; api_key, with a scope for writing all segments.

- p_name: not blank, at most 255 characters.
- p_source_type: audience, webhook_upload or csv_upload.
- p_source_id: the id of the audience or upload; not blank, at most 1,000 characters.
- p_description: at most 10,000 characters.
- p_filters, p_custom_columns: arrays of objects, at most 262,144 bytes as text and 100 levels each.
- p_enrichment_fields, p_tags: at most 1,000 elements of at most 255 characters.

Errors: 42501 if the account does not exist or the caller may not create segments in it; 22023 for an invalid argument; 23514
for a value that exceeds a limit; PT409 (HTTP 409) if the user who created the API key no longer exists.$$;
select audiencelab_private.revoke_privileges('public', '{create_studio_segment}');
grant execute on function public.create_studio_segment(uuid, text, text, text, text, jsonb, text[], jsonb, text[])
  to authenticated, api_key;

create or replace function public.delete_studio_segment(p_segment_id uuid)
returns void
language plpgsql
volatile
-- Definer: row level security hides deleted segments. The function checks membership and scopes itself.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_account_id uuid;
begin
  select segment.account_id into v_account_id from public.segments as segment where segment.id = p_segment_id;
  perform audiencelab_private.require_segment_writer(v_account_id, p_segment_id);
  update public.segments as segment set deleted = true where segment.id = p_segment_id and not segment.deleted;
end;
$$;
comment on function public.delete_studio_segment(uuid) is
$$Deletes a segment softly: the segment is hidden until it is restored or purged. A repeated call has no effect.

Callers: authenticated, as a member of the account of the segment; api_key, with a scope for writing it.

Errors: PT404 (HTTP 404) if the segment does not exist or the caller may not write it.$$;
select audiencelab_private.revoke_privileges('public', '{delete_studio_segment}');
grant execute on function public.delete_studio_segment(uuid) to authenticated, api_key;

create or replace function public.restore_studio_segment(p_segment_id uuid)
returns public.segments
language plpgsql
volatile
-- Definer: row level security hides deleted segments. The function checks membership and scopes itself.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_segment public.segments;
begin
  select * into v_segment from public.segments as segment where segment.id = p_segment_id;
  perform audiencelab_private.require_segment_writer(v_segment.account_id, p_segment_id);
  if v_segment.deleted then
    update public.segments as segment set deleted = false where segment.id = p_segment_id
    returning * into v_segment;
  end if;
  return v_segment;
end;
$$;
comment on function public.restore_studio_segment(uuid) is
$$Restores a deleted segment and returns it. A segment that is not deleted is returned unchanged.

Callers: authenticated, as a member of the account of the segment; api_key, with a scope for writing it.

Errors: PT404 (HTTP 404) if the segment does not exist or the caller may not write it.$$;
select audiencelab_private.revoke_privileges('public', '{restore_studio_segment}');
grant execute on function public.restore_studio_segment(uuid) to authenticated, api_key;

drop schema audiencelab_desired cascade;

-- Foreign keys come last, because adding one locks the referenced table until the transaction ends.
select audiencelab_private.apply_foreign_keys('public.segments', '{
  "segments_account_id_fkey": "FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE",
  "segments_created_by_fkey": "FOREIGN KEY (created_by) REFERENCES auth.users(id) ON DELETE CASCADE"
}');

notify pgrst, 'reload schema';

commit;

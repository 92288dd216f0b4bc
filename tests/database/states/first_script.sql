-- The first staging script, run with psql and no transaction: it stopped being valid half way.
create table public.enrichment_tracking (
  id uuid primary key default gen_random_uuid(),
  account_id uuid not null references public.accounts (id) on delete cascade,
  audience_id uuid not null,
  enrichment_type text not null check (enrichment_type in ('email', 'phone', 'company', 'social', 'custom')),
  status text not null default 'pending' check (status in ('pending', 'processing', 'completed', 'failed')),
  total_records integer not null default 0,
  processed_records integer not null default 0,
  failed_records integer not null default 0,
  enrichment_fields text[] not null default '{}',
  metadata jsonb not null default '{}',
  started_at timestamptz,
  completed_at timestamptz,
  created_by uuid not null references auth.users (id) on delete cascade,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create table public.segments (
  id uuid primary key default gen_random_uuid(),
  account_id uuid not null references public.accounts (id) on delete cascade,
  name text not null,
  description text,
  source_type text not null check (source_type in ('audience', 'webhook_upload', 'csv_upload')),
  source_id text not null,
  filters jsonb not null default '[]',
  enrichment_fields text[] not null default '{}',
  custom_columns jsonb not null default '[]',
  tags text[] not null default '{}',
  created_by uuid not null references auth.users (id) on delete cascade,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted boolean not null default false
);

alter table public.enrichment_tracking enable row level security;
alter table public.segments enable row level security;
create policy "Users can view enrichment tracking for their accounts" on public.enrichment_tracking
  for select using (public.has_role_on_account(account_id));
create policy "Users can create enrichment tracking for their accounts" on public.enrichment_tracking
  for insert with check (public.has_role_on_account(account_id));
create policy "Users can update enrichment tracking for their accounts" on public.enrichment_tracking
  for update using (public.has_role_on_account(account_id));
create policy "Users can view segments for their accounts" on public.segments
  for select using (public.has_role_on_account(account_id) and not deleted);
create policy "Users can create segments for their accounts" on public.segments
  for insert with check (public.has_role_on_account(account_id));
create policy "Users can update segments for their accounts" on public.segments
  for update using (public.has_role_on_account(account_id));
create policy "Users can delete segments for their accounts" on public.segments
  for delete using (public.has_role_on_account(account_id));

create index ix_enrichment_tracking_account_id on public.enrichment_tracking (account_id);
create index ix_enrichment_tracking_audience_id on public.enrichment_tracking (audience_id);
create index ix_enrichment_tracking_status on public.enrichment_tracking (status);
create index ix_enrichment_tracking_created_at on public.enrichment_tracking (created_at);
create index ix_segments_account_id on public.segments (account_id);
create index ix_segments_created_by on public.segments (created_by);
create index ix_segments_source_type on public.segments (source_type);
create index ix_segments_created_at on public.segments (created_at);
create index ix_segments_deleted on public.segments (deleted);

create trigger set_timestamps_enrichment_tracking before update on public.enrichment_tracking
  for each row execute function public.trigger_set_timestamps();
create trigger set_timestamps_segments before update on public.segments
  for each row execute function public.trigger_set_timestamps();

create schema api_keys_private;
create table api_keys_private.api_keys (
  id uuid primary key default gen_random_uuid(),
  account_id uuid not null,
  name text not null,
  key_prefix varchar(7) not null,
  key_hash text not null,
  scopes jsonb not null default '[]',
  expires_at timestamptz,
  created_at timestamptz not null default now(),
  last_used_at timestamptz,
  created_by uuid not null,
  is_active boolean not null default true
);
create table api_keys_private.api_key_logs (
  id uuid primary key default gen_random_uuid(),
  api_key_id uuid not null references api_keys_private.api_keys (id) on delete cascade,
  endpoint text not null,
  method text not null,
  status_code integer,
  ip_address text,
  user_agent text,
  timestamp timestamptz not null default now()
);
alter table api_keys_private.api_keys enable row level security;
alter table api_keys_private.api_key_logs enable row level security;
create index idx_api_keys_account_id on api_keys_private.api_keys (account_id);
create index idx_api_keys_key_prefix on api_keys_private.api_keys (key_prefix);
create index idx_api_key_logs_api_key_id on api_keys_private.api_key_logs (api_key_id);
create index idx_api_key_logs_timestamp on api_keys_private.api_key_logs (timestamp);

grant select, insert, update, delete on public.enrichment_tracking, public.segments to authenticated, service_role;

create function public.list_api_keys(p_account_id uuid)
returns table (
  id uuid, name text, key_prefix varchar(7), scopes jsonb, expires_at timestamptz, created_at timestamptz,
  last_used_at timestamptz, is_active boolean, created_by uuid
)
language plpgsql security definer as $$
begin
  return query select k.id, k.name, k.key_prefix, k.scopes, k.expires_at, k.created_at, k.last_used_at, k.is_active,
    k.created_by
  from api_keys_private.api_keys k where k.account_id = p_account_id and public.has_role_on_account(p_account_id);
end $$;
create function public.revoke_api_key(p_api_key_id uuid) returns boolean
language plpgsql security definer as $$
begin
  update api_keys_private.api_keys set is_active = false where id = p_api_key_id;
  return found;
end $$;
create function public.has_scope(p_entity_type text, p_entity_id text, p_action text) returns boolean
language plpgsql security definer as $$
begin
  return exists (select 1 from api_keys_private.api_keys k, jsonb_array_elements(k.scopes) s
    where k.id = auth.uid() and s ->> 'entity_type' = p_entity_type and s ->> 'action' in (p_action, '*'));
end $$;
create function public.get_api_key_account_id() returns uuid
language plpgsql security definer as $$
begin
  return (select account_id from api_keys_private.api_keys where id = auth.uid());
end $$;
create function public.create_studio_segment(
  p_account_id uuid, p_name text, p_source_type text, p_source_id text, p_description text default null,
  p_filters jsonb default '[]', p_enrichment_fields text[] default '{}', p_custom_columns jsonb default '[]',
  p_tags text[] default '{}'
) returns uuid
language plpgsql security definer set search_path = '' as $$
declare v_id uuid;
begin
  insert into public.segments (account_id, name, source_type, source_id, created_by)
  values (p_account_id, p_name, p_source_type, p_source_id, auth.uid()) returning id into v_id;
  return v_id;
end $$;
grant execute on function public.create_studio_segment to authenticated;

alter publication supabase_realtime add table public.enrichment_tracking, public.segments;

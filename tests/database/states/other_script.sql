-- Table segments as another script created it, with other names for its policies, indexes, triggers and constraints.
create table public.segments (
  deleted boolean not null default false,
  id uuid default gen_random_uuid() primary key,
  account_id uuid not null references public.accounts (id) on delete cascade,
  created_by uuid not null references auth.users (id) on delete cascade,
  name text not null,
  description text,
  source_id text not null,
  source_type text not null check (source_type in ('audience', 'webhook_upload', 'csv_upload')),
  tags text[] not null default '{}',
  filters jsonb not null default '[]',
  custom_columns jsonb not null default '[]',
  enrichment_fields text[] not null default '{}',
  updated_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  constraint segments_name_once unique (account_id, name, id)
);
alter table public.segments enable row level security;
create policy select_segments on public.segments for select to authenticated using (true);
create policy insert_segments on public.segments for insert to public with check (true);
create policy update_segments on public.segments for update to authenticated using (public.has_role_on_account(account_id));
create policy delete_segments on public.segments for delete to authenticated using (public.has_role_on_account(account_id));
create index segments_by_account on public.segments (account_id, name);
create index on public.segments using gin (tags);
create index segments_created_by_idx on public.segments (created_by);
create function public.touch() returns trigger language plpgsql as $$ begin new.updated_at := now(); return new; end $$;
create trigger touch_segments before insert or update on public.segments
  for each row execute function public.touch();
grant all on public.segments to anon, authenticated;

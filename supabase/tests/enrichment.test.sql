-- Enrichment jobs: members create and finish them; workers report progress.

begin;

select plan(16);

create function pg_temp.id(p_name text)
returns uuid
language sql
immutable
as $$
  select md5(p_name)::uuid;
$$;

-- Sets the role and the claims as PostgREST does for a request. `reset role` resets the role.
create function pg_temp.act_as(p_role text, p_subject uuid default null)
returns void
language sql
as $$
  select
    set_config('role', p_role, true),
    set_config('request.jwt.claims', json_build_object('role', p_role, 'sub', p_subject)::text, true);
$$;

grant execute on function pg_temp.id(text), pg_temp.act_as(text, uuid) to public;

-- Ada owns the account "engines". Mallory owns another account.
insert into auth.users (id) values (pg_temp.id('ada')), (pg_temp.id('mallory'));
insert into public.accounts (id, name, primary_owner_user_id)
values
  (pg_temp.id('engines'), 'Analytical Engines', pg_temp.id('ada')),
  (pg_temp.id('elsewhere'), 'Elsewhere', pg_temp.id('mallory'));
insert into public.accounts_memberships (user_id, account_id, account_role)
values
  (pg_temp.id('ada'), pg_temp.id('engines'), 'owner'),
  (pg_temp.id('mallory'), pg_temp.id('elsewhere'), 'owner')
on conflict (user_id, account_id) do nothing;

select pg_temp.act_as('authenticated', pg_temp.id('ada'));
insert into public.enrichment_tracking (id, account_id, audience_id, enrichment_type, total_records, created_by)
values (pg_temp.id('job'), pg_temp.id('engines'), pg_temp.id('audience'), 'email', 100, pg_temp.id('ada'));

select results_eq(
  $$ select status, processed_records, failed_records from public.enrichment_tracking $$,
  $$ values ('pending', 0, 0) $$,
  'a new job is pending, with counters of 0'
);
select throws_ok(
  $$ delete from public.enrichment_tracking $$,
  '42501',
  null,
  'a member cannot delete a job'
);

-- Two workers report their running totals.
select pg_temp.act_as('service_role');
select is(
  (public.report_enrichment_progress(pg_temp.id('job'), 'a', 10, 1)).status,
  'processing',
  'the first report sets the status to processing'
);
select is(
  (public.report_enrichment_progress(pg_temp.id('job'), 'b', 20, 0)).processed_records,
  30,
  'a counter is the sum over all workers'
);
select is(
  (public.report_enrichment_progress(pg_temp.id('job'), 'b', 20, 0)).processed_records,
  30,
  'a repeated report changes nothing'
);
select is(
  (public.report_enrichment_progress(pg_temp.id('job'), 'b', 5, 0)).processed_records,
  30,
  'a late report changes nothing'
);
select is(
  (public.report_enrichment_progress(pg_temp.id('job'), 'a', 15, 4)).failed_records,
  4,
  'failed records are counted'
);
select throws_ok(
  $$ select public.report_enrichment_progress(pg_temp.id('job'), 'a', -1, 0) $$,
  '22023',
  null,
  'a negative total raises 22023'
);
select throws_ok(
  $$ select public.report_enrichment_progress(pg_temp.id('job'), ' ', 1, 0) $$,
  '22023',
  null,
  'a blank worker name raises 22023'
);

-- Mallory is a member of another account only.
select pg_temp.act_as('authenticated', pg_temp.id('mallory'));
select is_empty($$ select from public.enrichment_tracking $$, 'a non-member reads no job');
select is_empty(
  $$ update public.enrichment_tracking set status = 'failed' returning id $$,
  'a non-member updates no job'
);
select throws_ok(
  $$ select public.report_enrichment_progress(pg_temp.id('job'), 'c', 1, 0) $$,
  'PT404',
  null,
  'a non-member cannot report progress'
);
select throws_ok(
  $$ select from enrichment_private.worker_progress $$,
  '42501',
  null,
  'a user cannot read the totals of workers'
);

-- Ada completes the job.
select pg_temp.act_as('authenticated', pg_temp.id('ada'));
update public.enrichment_tracking set status = 'completed', completed_at = now() where id = pg_temp.id('job');
select throws_ok(
  $$ select public.report_enrichment_progress(pg_temp.id('job'), 'a', 90, 4) $$,
  'PT409',
  null,
  'a report for a completed job raises PT409'
);
select results_eq(
  $$ select processed_records, failed_records from public.enrichment_tracking $$,
  $$ values (35, 4) $$,
  'the counters of a completed job do not change'
);
select throws_ok(
  $$ update public.enrichment_tracking set status = 'done' $$,
  '23514',
  null,
  'an unknown status violates the check constraint'
);

select * from finish();

rollback;

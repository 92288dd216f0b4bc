-- Enrichment jobs: members create, finish and retry them; workers report the progress of units.

begin;

select plan(29);

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

-- Two units of work, with their running totals.
select pg_temp.act_as('service_role');
select is(
  (public.report_enrichment_progress(pg_temp.id('job'), 'a', 10, 1)).status,
  'processing',
  'the first report sets the status to processing'
);
select is(
  (public.report_enrichment_progress(pg_temp.id('job'), 'b', 20, 0)).processed_records,
  30,
  'a counter is the sum over all units'
);
select is(
  (public.report_enrichment_progress(pg_temp.id('job'), 'b', 20, 0)).processed_records,
  30,
  'a repeated report changes no counter'
);
select is(
  (public.report_enrichment_progress(pg_temp.id('job'), 'b', 5, 0)).processed_records,
  30,
  'a late report changes no counter'
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
  'a blank name of a unit raises 22023'
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
  $$ select from enrichment_private.unit_progress $$,
  '42501',
  null,
  'a user cannot read the totals of units'
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
  $$ select public.retry_enrichment_job(pg_temp.id('job')) $$,
  'PT409',
  null,
  'a completed job cannot be retried'
);

-- The job fails and is retried, first from where it was.
update public.enrichment_tracking
set status = 'failed', metadata = '{"source": "test", "error": "out of coffee"}'
where id = pg_temp.id('job');
select pg_temp.act_as('authenticated', pg_temp.id('mallory'));
select throws_ok(
  $$ select public.retry_enrichment_job(pg_temp.id('job')) $$,
  'PT404',
  null,
  'a non-member cannot retry a job'
);
select throws_ok(
  $$ select public.fail_stale_enrichment_jobs('10 minutes') $$,
  '42501',
  null,
  'a user cannot fail stale jobs'
);
select pg_temp.act_as('authenticated', pg_temp.id('ada'));
select results_eq(
  $$
    select status, processed_records, failed_records, completed_at, metadata
    from public.retry_enrichment_job(pg_temp.id('job'))
  $$,
  $$ values ('pending', 35, 4, null::timestamptz, '{"source": "test"}'::jsonb) $$,
  'a retried job is pending, keeps its counters and has no error'
);
select isnt(
  (public.report_enrichment_progress(pg_temp.id('job'), 'a', 16, 4)).started_at,
  null,
  'a retried job is started by a report'
);
select throws_ok(
  $$ select public.retry_enrichment_job(pg_temp.id('job')) $$,
  'PT409',
  null,
  'a processing job cannot be retried'
);
update public.enrichment_tracking set status = 'failed' where id = pg_temp.id('job');
select results_eq(
  $$ select processed_records, failed_records from public.enrichment_tracking $$,
  $$ values (36, 4) $$,
  'the counters of a failed job are exact'
);
select results_eq(
  $$
    select status, processed_records, failed_records, started_at
    from public.retry_enrichment_job(pg_temp.id('job'), true)
  $$,
  $$ values ('pending', 0, 0, null::timestamptz) $$,
  'a job that is reset starts from the beginning'
);

-- Nobody works on the job any more.
select public.report_enrichment_progress(pg_temp.id('job'), 'a', 1, 0);
reset role;
alter table public.enrichment_tracking disable trigger set_timestamps_enrichment_tracking;
update public.enrichment_tracking set updated_at = now() - interval '11 minutes';
alter table public.enrichment_tracking enable trigger set_timestamps_enrichment_tracking;
select pg_temp.act_as('service_role');
select throws_ok(
  $$ select public.fail_stale_enrichment_jobs('59 seconds') $$,
  '22023',
  null,
  'a time without a report that is too short raises 22023'
);
select is(public.fail_stale_enrichment_jobs('12 minutes'), 0, 'a job that is silent for a shorter time is not failed');
select is(public.fail_stale_enrichment_jobs('10 minutes'), 1, 'a silent job is failed');
select results_eq(
  $$ select status, metadata ->> 'error' from public.enrichment_tracking $$,
  $$ values ('failed', 'no report for 00:10:00') $$,
  'its error says why'
);
select is(
  (public.reset_enrichment_progress(pg_temp.id('job'))).processed_records,
  0,
  'the service role resets the counters'
);
select throws_ok(
  $$ update public.enrichment_tracking set status = 'done' $$,
  '23514',
  null,
  'an unknown status violates the check constraint'
);

select * from finish();

rollback;

-- Enrichment jobs: started by a member, worked on by many, finished once.

begin;

select plan(16);

create function pg_temp.id(p_name text)
returns uuid
language sql
immutable
as $$
  select md5(p_name)::uuid;
$$;

-- As PostgREST does for a request: the role, and the claims of its token. `reset role` ends it.
create function pg_temp.act_as(p_role text, p_subject uuid default null)
returns void
language sql
as $$
  select
    set_config('role', p_role, true),
    set_config('request.jwt.claims', json_build_object('role', p_role, 'sub', p_subject)::text, true);
$$;

grant execute on function pg_temp.id(text), pg_temp.act_as(text, uuid) to public;

-- Ada owns the account of the engines, and Mallory another one.
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
  'a job waits'
);
select throws_ok(
  $$ delete from public.enrichment_tracking $$,
  '42501',
  null,
  'a member does not delete jobs'
);

-- Two workers report what each has done so far.
select pg_temp.act_as('service_role');
select is(
  (public.report_enrichment_progress(pg_temp.id('job'), 'a', 10, 1)).status,
  'processing',
  'the first report starts the job'
);
select is(
  (public.report_enrichment_progress(pg_temp.id('job'), 'b', 20, 0)).processed_records,
  30,
  'a job''s counter is the sum over its workers'
);
select is(
  (public.report_enrichment_progress(pg_temp.id('job'), 'b', 20, 0)).processed_records,
  30,
  'a report that comes twice counts once'
);
select is(
  (public.report_enrichment_progress(pg_temp.id('job'), 'b', 5, 0)).processed_records,
  30,
  'a report that comes late changes nothing'
);
select is(
  (public.report_enrichment_progress(pg_temp.id('job'), 'a', 15, 4)).failed_records,
  4,
  'failures are summed, too'
);
select throws_ok(
  $$ select public.report_enrichment_progress(pg_temp.id('job'), 'a', -1, 0) $$,
  '22023',
  null,
  'totals are not negative'
);
select throws_ok(
  $$ select public.report_enrichment_progress(pg_temp.id('job'), ' ', 1, 0) $$,
  '22023',
  null,
  'a worker has a name'
);

-- Mallory belongs to another account.
select pg_temp.act_as('authenticated', pg_temp.id('mallory'));
select is_empty($$ select from public.enrichment_tracking $$, 'a stranger sees nothing');
select is_empty(
  $$ update public.enrichment_tracking set status = 'failed' returning id $$,
  'a stranger changes nothing'
);
select throws_ok(
  $$ select public.report_enrichment_progress(pg_temp.id('job'), 'c', 1, 0) $$,
  'PT404',
  null,
  'a stranger reports nothing'
);
select throws_ok(
  $$ select from enrichment_private.worker_progress $$,
  '42501',
  null,
  'and does not see who works'
);

-- Ada finishes the job, and that is the end of it.
select pg_temp.act_as('authenticated', pg_temp.id('ada'));
update public.enrichment_tracking set status = 'completed', completed_at = now() where id = pg_temp.id('job');
select throws_ok(
  $$ select public.report_enrichment_progress(pg_temp.id('job'), 'a', 90, 4) $$,
  'PT409',
  null,
  'a finished job takes no reports'
);
select results_eq(
  $$ select processed_records, failed_records from public.enrichment_tracking $$,
  $$ values (35, 4) $$,
  'its counters stay as they were'
);
select throws_ok(
  $$ update public.enrichment_tracking set status = 'done' $$,
  '23514',
  null,
  'there are four states'
);

select * from finish();

rollback;

-- The usage of API keys: backends log requests, members read the log and the counts, and old log rows are purged.

begin;

select plan(17);

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
insert into api_keys_private.api_keys (id, account_id, name, key_prefix, key_hash, created_by)
values
  (pg_temp.id('key'), pg_temp.id('engines'), 'key', 'sk_test', 'hash of key', pg_temp.id('ada')),
  (pg_temp.id('foreign'), pg_temp.id('elsewhere'), 'foreign', 'sk_test', 'hash of foreign', pg_temp.id('mallory'));

-- A backend logs requests: one at noon, one failed an hour later, one the next day.
create temporary table batch as
select jsonb_agg(
  jsonb_build_object(
    'log_id', pg_temp.id(name), 'api_key_id', pg_temp.id('key'), 'endpoint', '/' || name, 'method', 'GET',
    'status_code', status_code, 'timestamp', logged_at
  )
  order by logged_at
) as events
from (
  values
    ('first', 200, '2026-05-01 12:00:00+00'),
    ('second', 500, '2026-05-01 13:00:00+00'),
    ('third', null, '2026-05-02 12:00:00+00')
) as request (name, status_code, logged_at);
grant select on batch to public;
select pg_temp.act_as('service_role');
select results_eq(
  $$ select logged.success, logged.log_id from batch, public.log_api_key_usage_batch(batch.events) as logged $$,
  $$ values (true, pg_temp.id('first')), (true, pg_temp.id('second')), (true, pg_temp.id('third')) $$,
  'log_api_key_usage_batch writes rows with the ids of the events'
);
select results_eq(
  $$ select logged.success, logged.log_id from batch, public.log_api_key_usage_batch(batch.events) as logged $$,
  $$ values (true, pg_temp.id('first')), (true, pg_temp.id('second')), (true, pg_temp.id('third')) $$,
  'a repeated batch is a success'
);

-- Ada reads the log.
select pg_temp.act_as('authenticated', pg_temp.id('ada'));
select results_eq(
  $$ select id, endpoint from public.api_key_log(pg_temp.id('engines')) $$,
  $$
    values (pg_temp.id('third'), '/third'), (pg_temp.id('second'), '/second'), (pg_temp.id('first'), '/first')
  $$,
  'a member reads the log, newest first, and each request once'
);
select results_eq(
  $$
    select id
    from public.api_key_log(
      pg_temp.id('engines'), p_limit => 1, p_before => '2026-05-01 13:00:00+00', p_before_id => pg_temp.id('second')
    )
  $$,
  $$ values (pg_temp.id('first')) $$,
  'the next page begins after the last row of the previous one'
);
select throws_ok(
  $$ select * from public.api_key_log(pg_temp.id('engines'), p_limit => 1001) $$,
  '22023',
  null,
  'api_key_log raises 22023 for more than 1,000 rows'
);

-- And the counts.
select results_eq(
  $$
    select bucket, requests, errors, last_used_at
    from public.api_key_usage(pg_temp.id('engines'), '2026-05-01', '2026-06-01')
  $$,
  $$
    values
      ('2026-05-01 00:00:00+00'::timestamptz, 2::bigint, 1::bigint, '2026-05-01 13:00:00+00'::timestamptz),
      ('2026-05-02 00:00:00+00', 1, 0, '2026-05-02 12:00:00+00')
  $$,
  'a member reads the requests and errors of each day'
);
select results_eq(
  $$ select requests from public.api_key_usage(pg_temp.id('engines'), '2026-05-01', '2026-06-01', 'hour') $$,
  $$ values (1::bigint), (1), (1) $$,
  'of each hour'
);
select results_eq(
  $$ select requests from public.api_key_usage(pg_temp.id('engines'), '2026-05-01', '2026-06-01', 'month') $$,
  $$ values (3::bigint) $$,
  'and of each month'
);
select throws_ok(
  $$ select * from public.api_key_usage(pg_temp.id('engines'), '2026-05-01', '2026-06-01', 'week') $$,
  '22023',
  null,
  'api_key_usage raises 22023 for another bucket'
);
select throws_ok(
  $$ select * from public.api_key_usage(pg_temp.id('engines'), '2026-05-01', '2026-06-01', 'day', pg_temp.id('foreign')) $$,
  'PT404',
  null,
  'a key of another account does not exist'
);
select throws_ok(
  $$ select public.purge_api_key_logs(now()) $$,
  '42501',
  null,
  'a member cannot purge the log'
);

-- Mallory reads neither, nor does the key itself.
select pg_temp.act_as('authenticated', pg_temp.id('mallory'));
select throws_ok(
  $$ select * from public.api_key_log(pg_temp.id('engines')) $$,
  '42501',
  null,
  'a member of another account cannot read the log'
);
select throws_ok(
  $$ select * from public.api_key_usage(pg_temp.id('engines'), '2026-05-01', '2026-06-01') $$,
  '42501',
  null,
  'a member of another account cannot read the counts'
);
select pg_temp.act_as('api_key', pg_temp.id('key'));
select throws_ok(
  $$ select * from public.api_key_log(pg_temp.id('engines')) $$,
  '42501',
  null,
  'an API key cannot read the log'
);

-- A purge leaves rows that are not committed, because they cannot be counted yet.
select pg_temp.act_as('service_role');
select is(public.purge_api_key_logs('2026-05-02'), 0, 'rows of running transactions are not purged');
select throws_ok(
  $$ select public.purge_api_key_logs('2026-05-02', 0) $$,
  '22023',
  null,
  'purge_api_key_logs raises 22023 for a limit below 1'
);
reset role;
select throws_ok(
  $$ select api_keys_private.keep_api_key_logs('1 minute') $$,
  '22023',
  null,
  'keep_api_key_logs raises 22023 for a period of less than an hour'
);

select * from finish();

rollback;

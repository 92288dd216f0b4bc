-- Segments: saved by a member, seen by the account alone, deleted softly, and restored.

begin;

select plan(17);

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
create temporary table saved as
select public.create_studio_segment(
  pg_temp.id('engines'), 'US only', 'audience', 'a1', p_filters => '[{"field": "country", "operator": "=", "value": "US"}]'
) as id;
grant select on saved to public;

select results_eq(
  $$ select name, created_by, tags, deleted from public.segments $$,
  $$ values ('US only', pg_temp.id('ada'), array[]::text[], false) $$,
  'a member sees what he saved, and no other account''s'
);
select throws_ok(
  $$ select public.create_studio_segment(pg_temp.id('engines'), '', 'audience', 'a1') $$,
  '22023',
  null,
  'a segment needs a name'
);
select throws_ok(
  $$ select public.create_studio_segment(pg_temp.id('engines'), 'x', 'audience', 'a1', p_filters => '["country"]') $$,
  '22023',
  null,
  'filters are objects'
);
select throws_ok(
  $$ update public.segments set source_type = 'guess' $$,
  '23514',
  null,
  'a source is of a known type'
);

-- Mallory belongs to another account.
select pg_temp.act_as('authenticated', pg_temp.id('mallory'));
select is_empty($$ select from public.segments $$, 'a stranger sees nothing');
select throws_ok(
  $$ select public.create_studio_segment(pg_temp.id('engines'), 'mine', 'audience', 'a1') $$,
  '42501',
  null,
  'a stranger saves nothing'
);
select throws_ok(
  $$
    insert into public.segments (account_id, name, source_type, source_id, created_by)
    values (pg_temp.id('engines'), 'mine', 'audience', 'a1', pg_temp.id('mallory'))
  $$,
  '42501',
  null,
  'nor by writing to the table'
);
select is_empty($$ update public.segments set name = 'mine' returning id $$, 'a stranger changes nothing');
select throws_ok(
  $$ select public.delete_studio_segment((select id from saved)) $$,
  'PT404',
  null,
  'a stranger deletes nothing'
);
select pg_temp.act_as('anon');
select throws_ok($$ select from public.segments $$, '42501', null, 'who is not logged in may not even ask');

-- Ada deletes it as the web application does, with an update.
select pg_temp.act_as('authenticated', pg_temp.id('ada'));
select lives_ok(
  $$ update public.segments set deleted = true where id = (select id from saved) $$,
  'a member deletes softly'
);
-- The transaction that deleted the row may still see it; to be another one, it is aged.
reset role;
alter table public.segments disable trigger set_timestamps_segments;
update public.segments set updated_at = now() - interval '1 minute' where id = (select id from saved);
alter table public.segments enable trigger set_timestamps_segments;
select pg_temp.act_as('authenticated', pg_temp.id('ada'));
select is_empty($$ select from public.segments $$, 'nobody sees it any more');
select is(
  (public.restore_studio_segment((select id from saved))).deleted,
  false,
  'a member restores it'
);
select isnt_empty($$ select from public.segments $$, 'it is seen again');
select lives_ok($$ select public.delete_studio_segment((select id from saved)) $$, 'the function deletes it as well');
select lives_ok($$ select public.delete_studio_segment((select id from saved)) $$, 'twice is no error');
reset role;
select is((select deleted from public.segments where id = (select id from saved)), true, 'the row is kept');

select * from finish();

rollback;

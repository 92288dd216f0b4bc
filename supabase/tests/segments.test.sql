-- Segments: members of an account create, read, delete and restore them.

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

select pg_temp.act_as('authenticated', pg_temp.id('ada'));
create temporary table saved as
select public.create_studio_segment(
  pg_temp.id('engines'), 'US only', 'audience', 'a1', p_filters => '[{"field": "country", "operator": "=", "value": "US"}]'
) as id;
grant select on saved to public;

select results_eq(
  $$ select name, created_by, tags, deleted from public.segments $$,
  $$ values ('US only', pg_temp.id('ada'), array[]::text[], false) $$,
  'a member reads the segments of the account only'
);
select throws_ok(
  $$ select public.create_studio_segment(pg_temp.id('engines'), '', 'audience', 'a1') $$,
  '22023',
  null,
  'create_studio_segment raises 22023 for a blank name'
);
select throws_ok(
  $$ select public.create_studio_segment(pg_temp.id('engines'), 'x', 'audience', 'a1', p_filters => '["country"]') $$,
  '22023',
  null,
  'create_studio_segment raises 22023 for filters that are not objects'
);
select throws_ok(
  $$ update public.segments set source_type = 'guess' $$,
  '23514',
  null,
  'an unknown source type violates the check constraint'
);

-- Mallory is a member of another account only.
select pg_temp.act_as('authenticated', pg_temp.id('mallory'));
select is_empty($$ select from public.segments $$, 'a non-member reads no segments');
select throws_ok(
  $$ select public.create_studio_segment(pg_temp.id('engines'), 'mine', 'audience', 'a1') $$,
  '42501',
  null,
  'a non-member cannot create a segment with the function'
);
select throws_ok(
  $$
    insert into public.segments (account_id, name, source_type, source_id, created_by)
    values (pg_temp.id('engines'), 'mine', 'audience', 'a1', pg_temp.id('mallory'))
  $$,
  '42501',
  null,
  'a non-member cannot insert a segment into the table'
);
select is_empty($$ update public.segments set name = 'mine' returning id $$, 'a non-member updates no segments');
select throws_ok(
  $$ select public.delete_studio_segment((select id from saved)) $$,
  'PT404',
  null,
  'a non-member cannot delete a segment'
);
select pg_temp.act_as('anon');
select throws_ok($$ select from public.segments $$, '42501', null, 'anon cannot read the table');

-- Ada deletes the segment with an update, as the web application does.
select pg_temp.act_as('authenticated', pg_temp.id('ada'));
select lives_ok(
  $$ update public.segments set deleted = true where id = (select id from saved) $$,
  'a member deletes a segment softly'
);
-- The transaction that deleted the row can still read it. An older updated_at simulates a later transaction.
reset role;
alter table public.segments disable trigger set_timestamps_segments;
update public.segments set updated_at = now() - interval '1 minute' where id = (select id from saved);
alter table public.segments enable trigger set_timestamps_segments;
select pg_temp.act_as('authenticated', pg_temp.id('ada'));
select is_empty($$ select from public.segments $$, 'a deleted segment is hidden');
select is(
  (public.restore_studio_segment((select id from saved))).deleted,
  false,
  'a member restores a segment'
);
select isnt_empty($$ select from public.segments $$, 'a restored segment is visible');
select lives_ok($$ select public.delete_studio_segment((select id from saved)) $$, 'a member deletes a segment with the function');
select lives_ok($$ select public.delete_studio_segment((select id from saved)) $$, 'a repeated deletion has no effect');
reset role;
select is((select deleted from public.segments where id = (select id from saved)), true, 'the row of a deleted segment is kept');

select * from finish();

rollback;

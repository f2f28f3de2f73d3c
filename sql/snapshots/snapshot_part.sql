-- The part of a captured table that a snapshot reads next: one whose events go under the table's
-- name; null where all of them are `done`.
create or replace function pgoutbox.snapshot_part(root regclass, done oid[]) returns regclass
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select p.relation
    from pgoutbox.snapshot_parts(root) p
    where p.relation::oid <> all (done) and pgoutbox.captured_as(p.relation) = root
    order by p.relation::oid
    limit 1
$$;

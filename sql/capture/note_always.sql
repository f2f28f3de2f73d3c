-- Note which triggers of captured tables somebody has made ENABLE ALWAYS.
--
-- PostgreSQL forgets it when triggers are disabled and enabled again. Writes nothing where nothing
-- is new.
create or replace function pgoutbox.note_always() returns void
    language sql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
    update pgoutbox.captured_table c
    set fires_always = c.fires_always || f.names
    from (
        select t.tgrelid, pg_catalog.array_agg(t.tgname::text order by t.tgname) as names
        from pg_trigger t
        join pgoutbox.captured_table k on k.relation = t.tgrelid
        where t.tgenabled = 'A' and t.tgname <> all (k.fires_always)
          and t.tgname in ('00_pgoutbox', '00_pgoutbox_alone_' || k.number, '00_pgoutbox_truncate')
        group by t.tgrelid
    ) f
    where f.tgrelid = c.relation
$$;

-- The order of a table's key, by which a snapshot reads it: columns, and how their values compare.
--
-- The primary key, else the index of REPLICA IDENTITY, else another unique index whose columns
-- can't be null; each as PostgreSQL sorts by default, so that ORDER BY walks the index. No row
-- where there is none. Operators come from the index: by a name alone another one might be
-- found, such as that of text for citext. `described` is what a last key belongs to.
--
-- The last key is read back from text, with the rights of the schema's owner, and a domain's checks
-- are functions of whoever made it. So a column of a domain counts as what that is made of, and one
-- that has domains inside isn't taken for a key.
create or replace function pgoutbox.key_order(relation regclass) returns table (
    columns text[], types text[], equal text[], greater text[], described text
)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select
        array_agg(k.name order by k.place),
        array_agg(k.type order by k.place),
        array_agg(k.equal order by k.place),
        array_agg(k.greater order by k.place),
        string_agg(concat_ws(' ', quote_ident(k.name), k.type, k.collation), ', ' order by k.place)
    from pg_index i
    cross join lateral (
        select
            n.place, a.attname::text as name,
            -- By name, without a length: bit alone would be bit(1).
            format('%I.%I', t.typnamespace::regnamespace::name, t.typname) as type,
            (
                select format('%I.%I', c.collnamespace::regnamespace::name, c.collname)
                from pg_collation c where c.oid = a.attcollation
            ) as collation,
            (
                select format('operator(%I.%s)', o.oprnamespace::regnamespace::name, o.oprname)
                from pg_amop m join pg_operator o on o.oid = m.amopopr
                where m.amopfamily = p.opcfamily and m.amopstrategy = 3
                  and m.amoplefttype = p.opcintype and m.amoprighttype = p.opcintype
            ) as equal,
            (
                select format('operator(%I.%s)', o.oprnamespace::regnamespace::name, o.oprname)
                from pg_amop m join pg_operator o on o.oid = m.amopopr
                where m.amopfamily = p.opcfamily and m.amopstrategy = 5
                  and m.amoplefttype = p.opcintype and m.amoprighttype = p.opcintype
            ) as greater,
            a.attnotnull and a.attgenerated = '' and p.opcdefault
                and not pgoutbox.has_domain_inside(t.oid)
                and (i.indoption::int2[])[n.place - 1] = 0
                and (i.indcollation::oid[])[n.place - 1] = a.attcollation as is_usable
        from unnest(i.indkey::int2[]) with ordinality n (number, place)
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = n.number
        join pg_type t on t.oid = pgoutbox.base_type(a.atttypid)
        join pg_opclass p on p.oid = (i.indclass::oid[])[n.place - 1]
        where n.place <= i.indnkeyatts
    ) k
    where i.indrelid = relation
      and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null
    group by i.indexrelid, i.indisprimary, i.indisreplident, i.indnkeyatts
    having count(*) = i.indnkeyatts and bool_and(k.is_usable)
    order by i.indisprimary desc, i.indisreplident desc, i.indexrelid
    limit 1
$$;

-- The statement with which a capture function writes its event into a slot.
--
-- Straight into the leaf, since routing through the partitioned table costs 4 us. The
-- setting pgoutbox.transaction holds the transaction's id once its first event is written;
-- PostgreSQL itself takes that back at the end of the transaction and at ROLLBACK TO
-- SAVEPOINT. A value that somebody left in the session is that of another transaction.
create or replace function pgoutbox.insert_statement(slot integer) returns text
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select pg_catalog.format(
        $insert$insert into pgoutbox.event_%1$s
            (xid, seq, slot, opens, schema_name, table_name, action, new_row, old_row)
        values (
            pg_catalog.pg_current_xact_id(),
            pg_catalog.nextval('pgoutbox.event_seq'::pg_catalog.regclass),
            %1$s,
            case when pg_catalog.current_setting('pgoutbox.transaction', true)
                    operator(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.text
                then false
                when pg_catalog.left(pg_catalog.current_setting('pgoutbox.transaction', true), 1) operator(pg_catalog.=) 'c'
                then pgoutbox.reopen()
                else pg_catalog.set_config('pgoutbox.transaction', pg_catalog.pg_current_xact_id()::pg_catalog.text, true) is not null
            end,
            event_schema, event_table, tg_op, new_row, old_row
        );$insert$,
        slot
    )
$$;

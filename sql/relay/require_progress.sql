-- True, if what a relay asks goes to the outbox that it knows, and its progress is as it has
-- written it last; else an error.
--
-- No dump has the OID of pgoutbox.progress; and of a table that keeps its OID none has a row's
-- place and the transaction that wrote it. So whatever is put beneath a relay that runs (a dump,
-- also its own, a new installation, another leader) is noticed by the first question, before its
-- positions are taken for those of before. So is a sequence of positions that lies behind what is
-- sent.
create or replace function pgoutbox.require_progress(
    outbox oid, installation uuid, row_tid tid, row_xmin xid
) returns boolean
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    reached bigint;
begin
    select greatest(p.high, p.partial_position) into reached
    from pgoutbox.progress p
    where p.ctid = row_tid and p.xmin = row_xmin and p.tableoid = outbox
      and exists (
          select from pgoutbox.installation i where i.id = require_progress.installation
      );
    if not found then
        raise exception 'the progress is not the one that was written last'
            using errcode = 'P0R01';
    elsif reached > coalesce(pg_sequence_last_value('pgoutbox.position_seq'), 0) then
        raise exception 'positions lie behind what is sent' using errcode = 'P0R02';
    end if;
    return true;
end
$$;

-- Take back the row that the last commit stage of the same transaction wrote; its first_seq, or
-- null where there is none.
--
-- It has the position that this session drew last, but where a savepoint was rolled back after
-- another stage, or the session forgot its sequences: then it is looked for.
create or replace function pgoutbox.withdraw_0(xid xid8) returns bigint
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    withdrawn bigint;
begin
    begin
        delete from pgoutbox.transaction_0 t
        where t.position = currval('pgoutbox.position_seq') and t.xid = withdraw_0.xid
        returning t.first_seq into withdrawn;
    exception when object_not_in_prerequisite_state then
        null;
    end;
    if withdrawn is null then
        delete from pgoutbox.transaction_0 t
        where t.position = (
            select max(e.position) from pgoutbox.transaction_0 e where e.xid = withdraw_0.xid
        )
        returning t.first_seq into withdrawn;
    end if;
    return withdrawn;
end
$$;

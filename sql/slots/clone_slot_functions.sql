-- Make each function of slot 0 for the other slots, too, and the triggers of their commit stages.
--
-- Whatever a function of slot 0 calls or reads by a name that ends in _0 is cloned as well, or a
-- table of the slot.
do $do$
declare
    slot integer;
    function regprocedure;
begin
    for slot in
        select pg_catalog.substring(c.relname, 'transaction_([0-9]+)$')::integer
        from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'pgoutbox.transaction'::regclass
        order by 1
    loop
        for function in
            select p.oid from pg_catalog.pg_proc p
            where p.pronamespace = 'pgoutbox'::regnamespace and p.proname ~ '_0$' and slot <> 0
        loop
            execute pg_catalog.regexp_replace(
                pg_catalog.pg_get_functiondef(function), E'\\m([a-z_]+_)0\\M', E'\\1' || slot, 'g');
        end loop;
        if not exists (
            select from pg_catalog.pg_trigger t
            where t.tgrelid = pg_catalog.format('pgoutbox.first_event_%s', slot)::regclass
              and t.tgname = 'commit_stage'
        ) then
            execute pg_catalog.replace($create$
create constraint trigger commit_stage after insert on pgoutbox.first_event_0
    deferrable initially deferred for each row
    execute function pgoutbox.commit_stage_0();
create constraint trigger commit_lap after insert on pgoutbox.lap_0
    deferrable initially deferred for each row
    execute function pgoutbox.commit_stage_0();
-- Where a capture trigger was told to fire, in a replica's session too, this must.
alter table pgoutbox.first_event_0 enable always trigger commit_stage;
alter table pgoutbox.lap_0 enable always trigger commit_lap
            $create$, '_0', '_' || slot);
        end if;
    end loop;
end
$do$;

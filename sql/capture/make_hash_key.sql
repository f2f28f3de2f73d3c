-- Draw the key of keyed hashes, unless there is one: 32 random bytes, padded as HMAC has it.
create or replace function pgoutbox.make_hash_key() returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    key constant bytea := (
        select sha256(string_agg(uuid_send(gen_random_uuid()), '')) from generate_series(1, 3));
    padded constant bytea := key || decode(repeat('00', 32), 'hex');
    inner_key bytea := padded;
    outer_key bytea := padded;
begin
    for n in 0..63 loop
        inner_key := set_byte(inner_key, n, get_byte(padded, n) # 54);  -- 0x36
        outer_key := set_byte(outer_key, n, get_byte(padded, n) # 92);  -- 0x5c
    end loop;
    insert into pgoutbox.hash_key (inner_key, outer_key) values (inner_key, outer_key)
    on conflict do nothing;
end
$$;

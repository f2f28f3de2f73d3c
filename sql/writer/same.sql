-- A value, of which the type is asserted: where the two differ in type there is no such function.
--
-- Inlined, so it costs nothing per row. A domain is not the same type as what it is made of.
create or replace function pgoutbox.same(value anyelement, type anyelement) returns anyelement
    language sql
    immutable
as $$ select value $$;

-- Whether a table still has the shape that its capture function was made for.
--
-- Not immutable at all, but called so: PostgreSQL works it out when it plans the expression that it
-- stands in, and never again while the plan is valid. A constant of type regclass in the same
-- expression makes every ALTER TABLE end that.
create or replace function pgoutbox.fits(relation oid, expected text) returns boolean
    language plpgsql
    immutable
as $$
begin
    return pgoutbox.parsed_shape(relation) operator(pg_catalog.=) expected;
end
$$;

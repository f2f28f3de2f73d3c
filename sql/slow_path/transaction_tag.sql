-- What tells a transaction from others of its session, and from those of other sessions; also
-- while it has no transaction id. Called by functions that have pinned the search_path.
create or replace function pgoutbox.transaction_tag() returns text
    language sql
    stable
as $$ select format('%s %s ', pg_backend_pid(), (date_part('epoch', now()) * 1000000)::bigint) $$;

-- Upsert four people. Run once it makes four INSERTs, and four UPDATEs each time after that.
set client_min_messages = warning;
\ir initdb/users.sql

insert into users (name, email)
values
    ('John Wick', 'john.wick@continental.example'),
    ('James Bond', 'james.bond@universal-exports.example'),
    ('Elim Garak', 'elim.garak@deep-space-9.example'),
    ('Sarah Walker', 'sarah.walker@buy-more.example')
on conflict (email) do update set name = excluded.name, updated_at = now();

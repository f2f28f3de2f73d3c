-- Upsert four people, each in a transaction of its own; twice, for four INSERTs and four UPDATEs.
prepare upsert (text, text) as
insert into users (name, email) values ($1, $2)
on conflict (email) do update set name = excluded.name, updated_at = now();

execute upsert ('John Wick', 'john.wick@continental.example');
execute upsert ('James Bond', 'james.bond@universal-exports.example');
execute upsert ('Elim Garak', 'elim.garak@deep-space-9.example');
execute upsert ('Sarah Walker', 'sarah.walker@buy-more.example');

execute upsert ('John Wick', 'john.wick@continental.example');
execute upsert ('James Bond', 'james.bond@universal-exports.example');
execute upsert ('Elim Garak', 'elim.garak@deep-space-9.example');
execute upsert ('Sarah Walker', 'sarah.walker@buy-more.example');

-- The application's table. PostgreSQL's image runs this at its first start.
create table if not exists users (
    id uuid primary key default gen_random_uuid(),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    name text,
    email text unique
);

-- A role without any special right, its database, and the table of the example.
create role shop login password 'shop';
create database shop owner shop;

\connect shop
set role shop;

create table users (
    id uuid primary key default gen_random_uuid(),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    name text not null,
    email text not null unique
);

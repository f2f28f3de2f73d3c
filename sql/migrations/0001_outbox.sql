-- The outbox: what captured changes are written to, and what relays have sent of it.
--
-- Immutable once released; later changes are further migrations. Everything here is
-- data; functions, triggers and views are in the folders beside this one and are applied after
-- it, again at every upgrade.

-- An administrator may have made it, empty, for a role that may not create schemas.
do $$ begin
    if not exists (select from pg_catalog.pg_namespace n where n.nspname = 'pgoutbox') then
        create schema pgoutbox;
    end if;
end $$;

comment on schema pgoutbox is 'Row changes on their way to NATS (pgoutbox).';

create table pgoutbox.migration (
    number integer primary key,
    name text not null,
    breaking text,
    applied_at timestamptz not null default pg_catalog.clock_timestamp()
);

comment on table pgoutbox.migration is 'Which files of sql/migrations this database has.';
comment on column pgoutbox.migration.breaking is
    'Why a relay that doesn''t know this migration must not go on; null where it may.';

-- One row. `id` goes into every event id, so that two databases never make the same one.
create table pgoutbox.installation (
    is_only_row boolean primary key default true check (is_only_row),
    id uuid not null default pg_catalog.gen_random_uuid(),
    functions_version text not null default '',
    emits boolean not null default false,
    captures_sessions boolean not null default false,
    awaits_all_checks boolean not null default false
);

insert into pgoutbox.installation default values;

comment on table pgoutbox.installation is
    'Identity of this outbox and version of its functions; one row.';
comment on column pgoutbox.installation.emits is
    'Whether a role may emit events of its own, so that new streams take subjects of any length.';
comment on column pgoutbox.installation.captures_sessions is
    'Whether a transaction''s context has its session: user, application name, client address.';
comment on column pgoutbox.installation.awaits_all_checks is
    'Whether a transaction gets its position behind the deferred checks of all tables, not only of '
    'captured ones.';

-- One row a captured table. A regclass is dumped by name, so a restored database still
-- knows its tables; the name stands beside it for tables that were dropped since.
create table pgoutbox.captured_table (
    relation regclass primary key,
    number integer not null generated always as identity unique,
    schema_name text not null,
    table_name text not null,
    actions text[] not null
        check (actions <@ array['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'] and actions <> '{}'),
    old_values text not null check (old_values in ('full', 'identity')),
    shape text not null,
    keys jsonb not null default '[]',
    fires_always text[] not null default '{}',
    choice jsonb not null default '{}',
    condition_types jsonb
);

comment on table pgoutbox.captured_table is
    'Tables with pgoutbox''s triggers, and what these were generated for.';
comment on column pgoutbox.captured_table.number is
    'The table''s capture function is pgoutbox.capture_<number>.';
comment on column pgoutbox.captured_table.choice is
    'Which rows and columns its events have, where not all: "where", a condition; "columns", '
    '"except" and "hash", names.';
comment on column pgoutbox.captured_table.condition_types is
    'Columns that the condition uses, with the types that it was checked for: it is evaluated only '
    'as long as they are of these.';
comment on column pgoutbox.captured_table.fires_always is
    'Triggers of ours that somebody has made ENABLE ALWAYS, which fire in replica sessions, too.';
comment on column pgoutbox.captured_table.shape is
    'What the capture function was generated for; differs from pgoutbox.table_shape() after drift.';
comment on column pgoutbox.captured_table.keys is
    'Columns of the key, as it is and as it was before, latest first: events keep the names that '
    'columns had.';

-- Tables by names with wildcards, as LIKE has them, and as they were given.
create type pgoutbox.table_pattern as (pattern text, schema_like text, table_like text);

-- What was asked for by a pattern: later tables that match are captured, too.
create table pgoutbox.captured_pattern (
    pattern text primary key,
    wanted pgoutbox.table_pattern not null,
    excepted pgoutbox.table_pattern[] not null,
    actions text[],
    old_values text,
    fires_always boolean,
    schemas text[] not null
);

comment on table pgoutbox.captured_pattern is
    'Patterns whose tables are captured, those that are made later included.';
comment on column pgoutbox.captured_pattern.schemas is
    'The schemas that matched when it was given, or of which it has been said that they do.';

-- One row, once a column is hashed. Nobody but the owner reads it.
create table pgoutbox.hash_key (
    is_only_row boolean primary key default true check (is_only_row),
    inner_key bytea not null,
    outer_key bytea not null
);

comment on table pgoutbox.hash_key is
    'The secret key of hashed columns, as HMAC uses it: each byte with 0x36, and with 0x5c.';

-- Cached: a session takes 64 numbers at once, which spares most of the contention. Only
-- the order inside a transaction matters, and that is one session.
create sequence pgoutbox.event_seq as bigint cache 64;

-- Not cached: positions must follow the order in which transactions reach their commit stage.
create sequence pgoutbox.position_seq as bigint cache 1;

-- What an event is about, and what tells when its row changed. A composite type, since each
-- column of an INSERT costs the writer more than a field does; fields can be added.
create type pgoutbox.event_facts as (
    schema_name text,
    table_name text,
    action text,
    relation oid,
    depth integer,
    new_ctid tid,
    new_cmin cid,
    new_xmax xid,
    old_ctid tid,
    old_cmax cid,
    old_xmin xid
);

comment on column pgoutbox.event_facts.relation is
    'The table that held the row, such as a partition.';
comment on column pgoutbox.event_facts.depth is
    'Of triggers: above 1 where one of the application changed the row.';
comment on column pgoutbox.event_facts.new_ctid is
    'This and what follows: system columns of the row after the change, and before it.';

-- Column order matters in these tables: expressions of an INSERT run in this order.
create table pgoutbox.event (
    xid xid8 not null,
    seq bigint not null,
    facts pgoutbox.event_facts not null,
    new_row text,
    old_row text,
    check (xid is null) no inherit
);

comment on table pgoutbox.event is
    'One row a captured change; never updated after its COMMIT, removed by TRUNCATE of its slot.';
comment on column pgoutbox.event.new_row is
    'JSON object of the row after the change, as pgoutbox.as_published() reads it; of an emitted '
    'event, of its subject, key, headers and payload.';
comment on column pgoutbox.event.old_row is 'JSON object of the row before the change.';

create table pgoutbox.transaction (
    position bigint not null,
    xid xid8 not null,
    first_seq bigint not null,
    last_seq bigint not null,
    committed_at timestamptz not null,
    slot smallint not null,
    traceparent text,
    check (position is null) no inherit
);

comment on table pgoutbox.transaction is
    'One row a transaction with captured changes; its position is its rank in commit order.';
comment on column pgoutbox.transaction.traceparent is
    'In the first 56 characters what the writer had set pgoutbox.traceparent to; anything at all, '
    'so to be checked by who reads it. From the 57th on the context, if there is one: a column of '
    'its own would cost all writers.';

-- The ring: five slots of 15 minutes each (pgoutbox.ring()). Plain inheritance, since PostgreSQL
-- takes its time to find a row's partition, and to check that the row belongs there. The
-- tables that the slots' inherit from have no rows: by their checks the planner knows that.
create table pgoutbox.event_0 () inherits (pgoutbox.event);
create table pgoutbox.event_1 () inherits (pgoutbox.event);
create table pgoutbox.event_2 () inherits (pgoutbox.event);
create table pgoutbox.event_3 () inherits (pgoutbox.event);
create table pgoutbox.event_4 () inherits (pgoutbox.event);

-- The first event of each transaction, which queues its commit stage. Apart from the others, since
-- a trigger that has to look at each row would cost all of them.
create table pgoutbox.first_event_0 () inherits (pgoutbox.event);
create table pgoutbox.first_event_1 () inherits (pgoutbox.event);
create table pgoutbox.first_event_2 () inherits (pgoutbox.event);
create table pgoutbox.first_event_3 () inherits (pgoutbox.event);
create table pgoutbox.first_event_4 () inherits (pgoutbox.event);

-- Somebody's publication of all tables has these, too, and PostgreSQL then refuses an UPDATE or
-- DELETE of a table without replica identity: the writer's statement would fail. No index of
-- events is unique, nor can one be, since put_in_order() exchanges their numbers row by row.
alter table pgoutbox.event replica identity full;
alter table pgoutbox.event_0 replica identity full;
alter table pgoutbox.event_1 replica identity full;
alter table pgoutbox.event_2 replica identity full;
alter table pgoutbox.event_3 replica identity full;
alter table pgoutbox.event_4 replica identity full;
alter table pgoutbox.first_event_0 replica identity full;
alter table pgoutbox.first_event_1 replica identity full;
alter table pgoutbox.first_event_2 replica identity full;
alter table pgoutbox.first_event_3 replica identity full;
alter table pgoutbox.first_event_4 replica identity full;

-- What reads the events of one slot names it, and reads no other.
create view pgoutbox.event_in_slot as
select 0::smallint as slot, e.* from pgoutbox.first_event_0 e
union all select 0::smallint, e.* from pgoutbox.event_0 e
union all select 1::smallint, e.* from pgoutbox.first_event_1 e
union all select 1::smallint, e.* from pgoutbox.event_1 e
union all select 2::smallint, e.* from pgoutbox.first_event_2 e
union all select 2::smallint, e.* from pgoutbox.event_2 e
union all select 3::smallint, e.* from pgoutbox.first_event_3 e
union all select 3::smallint, e.* from pgoutbox.event_3 e
union all select 4::smallint, e.* from pgoutbox.first_event_4 e
union all select 4::smallint, e.* from pgoutbox.event_4 e;

comment on view pgoutbox.event_in_slot is 'Events with their slot.';

create index event_0_xid_seq on pgoutbox.event_0 (xid, seq);
create index event_1_xid_seq on pgoutbox.event_1 (xid, seq);
create index event_2_xid_seq on pgoutbox.event_2 (xid, seq);
create index event_3_xid_seq on pgoutbox.event_3 (xid, seq);
create index event_4_xid_seq on pgoutbox.event_4 (xid, seq);
create index first_event_0_xid_seq on pgoutbox.first_event_0 (xid, seq);
create index first_event_1_xid_seq on pgoutbox.first_event_1 (xid, seq);
create index first_event_2_xid_seq on pgoutbox.first_event_2 (xid, seq);
create index first_event_3_xid_seq on pgoutbox.first_event_3 (xid, seq);
create index first_event_4_xid_seq on pgoutbox.first_event_4 (xid, seq);

create table pgoutbox.transaction_0 (slot smallint not null default 0)
    inherits (pgoutbox.transaction);
create table pgoutbox.transaction_1 (slot smallint not null default 1)
    inherits (pgoutbox.transaction);
create table pgoutbox.transaction_2 (slot smallint not null default 2)
    inherits (pgoutbox.transaction);
create table pgoutbox.transaction_3 (slot smallint not null default 3)
    inherits (pgoutbox.transaction);
create table pgoutbox.transaction_4 (slot smallint not null default 4)
    inherits (pgoutbox.transaction);

-- A row queues the second lap of a transaction's commit stage (commit_unusual.sql), and means
-- nothing afterwards. Unlogged, since then a crash may as well take it.
create unlogged table pgoutbox.lap_0 (xid xid8 not null, seq bigint not null);
create unlogged table pgoutbox.lap_1 (xid xid8 not null, seq bigint not null);
create unlogged table pgoutbox.lap_2 (xid xid8 not null, seq bigint not null);
create unlogged table pgoutbox.lap_3 (xid xid8 not null, seq bigint not null);
create unlogged table pgoutbox.lap_4 (xid xid8 not null, seq bigint not null);
alter table pgoutbox.lap_0 replica identity full;
alter table pgoutbox.lap_1 replica identity full;
alter table pgoutbox.lap_2 replica identity full;
alter table pgoutbox.lap_3 replica identity full;
alter table pgoutbox.lap_4 replica identity full;

-- Not unique, though positions are: a copy whose sequence lies behind must not fail a write.
create index transaction_0_position on pgoutbox.transaction_0 (position);
create index transaction_1_position on pgoutbox.transaction_1 (position);
create index transaction_2_position on pgoutbox.transaction_2 (position);
create index transaction_3_position on pgoutbox.transaction_3 (position);
create index transaction_4_position on pgoutbox.transaction_4 (position);

alter table pgoutbox.transaction replica identity full;
alter table pgoutbox.transaction_0 replica identity full;
alter table pgoutbox.transaction_1 replica identity full;
alter table pgoutbox.transaction_2 replica identity full;
alter table pgoutbox.transaction_3 replica identity full;
alter table pgoutbox.transaction_4 replica identity full;

-- One row a relay. Sent is every position up to `high` outside the gaps, and of the
-- transaction at `partial_position` every event up to `partial_seq`. Gaps are ranges:
-- gap_first[i] to gap_last[i]. Of those up to `settled` only what the transactions `holders` wrote
-- is unsent, holders[i] from position holder_since[i] on: neighbours may have been joined.
-- Leadership, pid and role tell who leads it; see pgoutbox.is_led().
create table pgoutbox.progress (
    relay text primary key,
    leadership uuid,
    leader_pid integer,
    leader_role oid,
    high bigint not null default 0,
    gap_first bigint[] not null default '{}',
    gap_last bigint[] not null default '{}',
    partial_position bigint,
    partial_seq bigint,
    settled bigint not null default 0,
    holders xid8[] not null default '{}',
    holder_since bigint[] not null default '{}',
    plan jsonb not null default 'null',
    method text,
    started_at timestamptz not null default pg_catalog.clock_timestamp(),
    share text not null default '',
    last_stored jsonb
) with (fillfactor = 10);

comment on table pgoutbox.progress is 'What each relay has sent.';
comment on column pgoutbox.progress.leadership is
    'A uuid, new each time; leader_pid and leader_role say which session holds its lock.';
comment on column pgoutbox.progress.plan is
    'Progress as it will be after each batch now being published, or null: a relay that was '
    'killed in the middle of them goes on in the same order.';
comment on column pgoutbox.progress.method is 'How the leader publishes, in words.';
comment on column pgoutbox.progress.share is
    'What of the outbox the relay publishes, as flags; all of it where empty.';

comment on column pgoutbox.progress.last_stored is
    'The last message that the stream has confirmed: stream, created, sequence, id.';

-- Progress as it was, and the last message that the stream had confirmed by then, so that a relay
-- can go back when the stream has lost messages; see keep_mark.sql.
create table pgoutbox.mark (
    relay text,
    sequence bigint,
    progress jsonb not null,
    last_stored jsonb,
    made_at timestamptz not null default pg_catalog.clock_timestamp(),
    primary key (relay, sequence)
);

comment on table pgoutbox.mark is 'What each relay had sent when its stream was how long.';
comment on column pgoutbox.mark.sequence is 'Of the stream; 0 before the relay''s first message.';
comment on column pgoutbox.mark.last_stored is 'As in pgoutbox.progress; null with sequence 0.';

-- One row a relay whose stream has lost messages, the last time that it has.
create table pgoutbox.loss (
    relay text primary key,
    stream text not null,
    noticed_at timestamptz not null default pg_catalog.clock_timestamp(),
    progress jsonb not null,
    events bigint
);

comment on table pgoutbox.loss is 'The last time that a relay''s stream had lost messages.';
comment on column pgoutbox.loss.progress is
    'Of the relay then: of the events that it covers some are sent again.';
comment on column pgoutbox.loss.events is 'How many were sent again; null while that goes on.';

-- Why a relay publishes nothing, while that lasts. Beside the progress, which is written all the
-- time.
create table pgoutbox.relay_error (
    relay text primary key,
    error text not null,
    since timestamptz not null default pg_catalog.clock_timestamp()
);

comment on table pgoutbox.relay_error is 'Why a relay publishes nothing now.';

-- Why notifications don't reach a relay, while that lasts.
create table pgoutbox.relay_polling (
    relay text primary key,
    reason text not null
);

comment on table pgoutbox.relay_polling is 'Why a relay finds events by polling alone now.';

-- Relays that are to publish nothing until somebody resumes them. Beside the progress, too, and not
-- tied to a leader: it holds across restarts.
create table pgoutbox.relay_pause (
    relay text primary key,
    reason text,
    paused_by text not null,
    since timestamptz not null default pg_catalog.clock_timestamp()
);

comment on table pgoutbox.relay_pause is 'Relays that publish nothing until they are resumed.';
comment on column pgoutbox.relay_pause.paused_by is
    'Who paused it, in words: the role, and the operating system''s user and host.';

-- Sent events that somebody wants to be sent again; a relay does it behind what is newer.
create table pgoutbox.resend (
    number bigint primary key generated always as identity,
    relay text not null,
    first_position bigint not null,
    last_position bigint not null,
    since timestamptz,
    before timestamptz,
    table_schemas text[],
    table_names text[],
    key_positions bigint[],
    key_seqs bigint[],
    events bigint not null,
    sent bigint not null default 0,
    done_position bigint not null default 0,
    done_seq bigint not null default 0,
    asked_by text not null,
    asked_at timestamptz not null default pg_catalog.clock_timestamp(),
    ended_at timestamptz
);

comment on table pgoutbox.resend is 'Sent events that are to be sent again, and how far that is.';
comment on column pgoutbox.resend.table_schemas is
    'Of the tables that are wanted, all where it is null; an element is null for any schema.';
comment on column pgoutbox.resend.key_positions is
    'Where the events stand that are wanted by their ids; with key_seqs.';
comment on column pgoutbox.resend.events is 'How many were to be sent again when that was asked.';
comment on column pgoutbox.resend.done_position is
    'With done_seq: up to which event the relay has come.';

-- How long each slot of the ring has been as it is; see pgoutbox.resting_slots().
create table pgoutbox.slot_rest (
    slot integer primary key,
    "position" bigint,
    since timestamptz
);

insert into pgoutbox.slot_rest (slot) select pg_catalog.generate_series(0, 4);

comment on table pgoutbox.slot_rest is
    'The last position in each slot, and since when it is that; of slots not written to now.';

-- Once a relay of a set of shards has decided by which columns a table's rows are told apart, that
-- stands for all of them: were it looked up anew, an ALTER TABLE could make an event nobody's.
create table pgoutbox.shard_key (
    shards text,
    schema_name text,
    table_name text,
    columns text[] not null,
    primary key (shards, schema_name, table_name)
);

comment on table pgoutbox.shard_key is
    'By which columns a set of shards divides a table; whole where there are none.';
comment on column pgoutbox.shard_key.shards is 'Name of the set, such as default-of-8.';

-- Events that can't be published, set aside with the reason. One that reached the relay is here as
-- the message that it was; of any other there is no `payload`, and it stands in the outbox, at
-- `position` and `seq`, or in parked_event once its slot is emptied.
create table pgoutbox.parked (
    relay text not null,
    event_id uuid not null,
    position bigint not null,
    seq bigint not null,
    schema_name text,
    table_name text,
    action text,
    bytes bigint not null,
    reason text not null,
    number integer not null default 0,
    size integer not null default 0,
    subject text,
    headers text not null default '',
    payload text,
    retries boolean not null default false,
    parked_at timestamptz not null default pg_catalog.clock_timestamp(),
    primary key (relay, event_id)
);

create index parked_retries on pgoutbox.parked (relay) where retries;
create index parked_reference on pgoutbox.parked (position, seq) where payload is null;

comment on table pgoutbox.parked is 'Events a relay couldn''t publish, with the reason.';
comment on column pgoutbox.parked.bytes is 'Size of its payload, or of the rows in the outbox.';
comment on column pgoutbox.parked.number is
    'Which of its transaction''s events it is, of size; 0 where no header of the relay says so.';
comment on column pgoutbox.parked.headers is
    'Headers beside Nats-Msg-Id, as lines of the protocol.';
comment on column pgoutbox.parked.retries is 'Whether the relay is to publish it after all.';

-- By this a relay tells a limit that is set too low from an event that is too large.
create table pgoutbox.largest_message (
    relay text,
    stream text,
    bytes bigint not null,
    primary key (relay, stream)
);

comment on table pgoutbox.largest_message is
    'Size of the largest message that a relay has published into a stream, by the stream''s name.';

-- What was copied of slots before they were emptied.
create table pgoutbox.parked_event (
    position bigint,
    seq bigint,
    xid xid8 not null,
    committed_at timestamptz not null,
    traceparent text,
    facts pgoutbox.event_facts not null,
    new_row text,
    old_row text,
    primary key (position, seq)
);

comment on table pgoutbox.parked_event is
    'Events whose slot is emptied, and that a row of pgoutbox.parked refers to.';

-- A snapshot of one table: what was asked for, and how far each relay has come with it. Whoever may
-- write here has a condition run with the rights of the schema's owner; so nobody else may, but
-- for what a relay notes of its own progress.
create table pgoutbox.snapshot (
    id uuid not null,
    relay text not null,
    relation regclass not null,
    table_name text not null,
    condition text,
    action text not null default 'READ' check (action in ('READ', 'INSERT')),
    subject text,
    rate integer check (rate > 0),
    allows_no_key boolean not null default false,
    asked_at timestamptz not null default pg_catalog.clock_timestamp(),
    state text not null default 'waiting'
        check (state in ('waiting', 'running', 'paused', 'done', 'cancelled', 'failed')),
    place jsonb,
    chunk integer not null default 0,
    rows bigint not null default 0,
    error text,
    ended_at timestamptz,
    primary key (id, relay)
) with (fillfactor = 50);

comment on table pgoutbox.snapshot is 'Snapshots of tables: what was asked for, and how far it is.';
comment on column pgoutbox.snapshot.table_name is
    'The table''s name when it was asked for, quoted.';
comment on column pgoutbox.snapshot.condition is
    'Which rows; runs with the rights of the schema''s owner.';
comment on column pgoutbox.snapshot.allows_no_key is
    'Whether a table without a key may be read: what changes meanwhile may come twice then.';
comment on column pgoutbox.snapshot.place is
    'How far it is, as pgoutbox.read_chunk() has it; null before the first chunk.';

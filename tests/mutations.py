"""Ways to break pgoutbox, each with a test that must fail: see ``tools/mutations.py``.

A mutation replaces a text that stands once in its file. Where that text has changed, change it
here, too: the mutation should break the same thing in the new code.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """``before`` becomes ``after`` in ``path``; then ``test`` fails."""

    what: str  # that no longer holds
    path: str
    before: str
    after: str
    test: str


_SQL = "tests/sql/test_"
_UNIT = "tests/unit/test_"
_MODEL = "tests/models/test_models.py::test_no_interleaving_breaks_a_promise"

CAPTURE = [
    Mutation(
        "capture notices that its table has changed",
        "sql/capture/fits_source.sql",
        "'operator(pg_catalog.=) %L then\\n'",
        "'is not null or %L is null then\\n'",
        f"{_SQL}drift.py::test_events_follow_the_table",
    ),
    Mutation(
        "a row of the catalog that was replaced since the snapshot isn't believed",
        "sql/writer/is_outdated.sql",
        "select xmax operator(pg_catalog.<>) '0'::pg_catalog.xid and",
        "select false and",
        f"{_SQL}snapshots.py::test_old_values_are_those_of_the_identity",
    ),
    Mutation(
        "a value that can't be rendered doesn't fail the write",
        "sql/capture/capture_source.sql",
        "exception when others then",
        "exception when division_by_zero then",
        f"{_SQL}capture.py::test_a_value_that_cannot_be_rendered_does_not_fail_the_write",
    ),
    Mutation(
        "what can't be published is taken out of a row before it is copied",
        "sql/slow_path/too_large.sql",
        "where c.total > 67108864",
        "where false",
        f"{_SQL}capture.py::test_what_no_server_takes_is_not_copied",
    ),
    Mutation(
        "no check of a table owner's domain runs while a row is stripped",
        "sql/capture/strip_source.sql",
        "where not c.is_domain",
        "where true",
        "tests/integration/test_rights.py"
        "::test_no_function_of_a_captured_tables_owner_runs_with_other_rights",
    ),
    Mutation(
        "an event that a trigger caused is known for one",
        "sql/capture/capture_source.sql",
        "and pg_catalog.pg_trigger_depth() operator(pg_catalog.=) 1",
        "and true",
        f"{_SQL}row_order.py::test_triggers_that_change_other_rows_of_the_statement",
    ),
    Mutation(
        "events stand in the order of the changes, whatever triggers do",
        "sql/slow_path/commit_unusual.sql",
        "if is_ours and state !~ '^[0-9]+ 1( |$)' then",
        "if false then",
        f"{_SQL}row_order.py::test_triggers_that_change_other_rows_of_the_statement",
    ),
    Mutation(
        "an event belongs to its own transaction, whatever a session was left with",
        "sql/capture/capture_source.sql",
        """pg_catalog.current_setting('pgoutbox.transaction', true),
            pg_catalog.concat(event_xid, ' '))""",
        """pg_catalog.current_setting('pgoutbox.transaction', true),
            '')""",
        f"{_SQL}transactions.py::test_forged_state",
    ),
    Mutation(
        "a table whose rows can queue deferred checks is known for one",
        "sql/capture/may_defer.sql",
        "where t.tgdeferrable and (",
        "where not t.tgdeferrable and (",
        f"{_SQL}laps.py::test_only_checks_behind_the_stage_need_a_lap",
    ),
    Mutation(
        "a transaction that may have queued a deferred check is marked",
        "sql/capture/capture_source.sql",
        "'mark_lap', case when may_defer then",
        "'mark_lap', case when false then",
        f"{_SQL}laps.py::test_only_checks_behind_the_stage_need_a_lap",
    ),
]

COMMIT_STAGE = [
    Mutation(
        "positions tell the order, whatever the steps of commit stages are arranged like",
        "sql/writer/commit_stage.sql",
        "pg_catalog.nextval('pgoutbox.position_seq'::pg_catalog.regclass)",
        "new.seq",
        "tests/property/test_interleavings.py::test_some_orders_of_the_steps",
    ),
    Mutation(
        "positions are drawn at COMMIT",
        "sql/writer/commit_stage.sql",
        "pg_catalog.nextval('pgoutbox.position_seq'::pg_catalog.regclass)",
        "new.seq",
        f"{_SQL}transactions.py::test_commit_order_is_that_of_the_commit_stage",
    ),
    Mutation(
        "a stage that has run is told from the first one",
        "sql/writer/commit_stage.sql",
        "operator(pg_catalog.~~) '% 1'\n",
        "operator(pg_catalog.~~) '%'\n",
        f"{_SQL}transactions.py::test_deferred_triggers_that_write_captured_tables",
    ),
    Mutation(
        "a transaction knows its last event",
        "sql/writer/commit_stage.sql",
        "pg_catalog.nextval('pgoutbox.event_seq'::pg_catalog.regclass),",
        "new.seq,",
        f"{_SQL}capture.py::test_upsert_merge_and_copy",
    ),
    Mutation(
        "a writer keeps relays awake until it is visible",
        "sql/writer/commit_stage.sql",
        "and pg_catalog.pg_try_advisory_xact_lock_shared(1885826914, 0)",
        "and pg_catalog.pg_try_advisory_lock_shared(1885826914, 0)"
        " and pg_catalog.pg_advisory_unlock_shared(1885826914, 0)",
        f"{_SQL}transactions.py::test_a_relay_cannot_fall_asleep_while_a_commit_is_under_way",
    ),
    Mutation(
        "a sleeping relay is woken",
        "sql/slow_path/commit_unusual.sql",
        "if not pg_try_advisory_xact_lock_shared(1885826914, 0) then",
        "if false then",
        f"{_SQL}transactions.py::test_only_a_sleeping_relay_is_woken",
    ),
    Mutation(
        "a full notification queue fails no writer",
        "sql/slow_path/wake_relays.sql",
        "and pg_catalog.pg_notification_queue_usage() < 0.5",
        "",
        "tests/faults/test_surroundings.py::test_a_full_notification_queue_fails_no_writer",
    ),
    Mutation(
        "a stage that runs again takes back its earlier row",
        "sql/slow_path/commit_unusual.sql",
        "first_seq := coalesce(pgoutbox.withdraw_0(xid), seq);",
        "first_seq := seq;",
        f"{_SQL}transactions.py::test_writes_after_set_constraints",
    ),
    Mutation(
        "the row of a stage whose successor was rolled back is found",
        "sql/slow_path/withdraw.sql",
        "if withdrawn is null then",
        "if false then",
        f"{_SQL}transactions.py::test_a_stage_whose_successor_was_rolled_back_is_still_replaced",
    ),
]

GAPS = [
    Mutation(
        "who holds the lock of a slot's table may fill gaps",
        "sql/relay/gap_holders.sql",
        "l.mode = 'RowExclusiveLock'",
        "l.mode = 'ExclusiveLock'",
        f"{_SQL}rotation.py::test_gap_holders_are_those_who_drew_a_position",
    ),
    Mutation(
        "a prepared transaction draws no more positions",
        "sql/relay/gap_holders.sql",
        "l.pid is null as is_prepared",
        "false as is_prepared",
        f"{_SQL}rotation.py::test_a_prepared_gap_holder_draws_no_more",
    ),
    Mutation(
        "who may fill gaps is asked for before the read that settles them",
        "pgoutbox/outbox/reader.py",
        "is_known = not before.has_unsettled_gap and (self._has_asked or not before.gaps)",
        "is_known = True",
        "tests/faults/test_postgres.py::test_others_flow_past_an_open_and_a_prepared_transaction",
    ),
    Mutation(
        "what a holder wrote in a settled gap is unsent",
        "sql/relay/unsent.sql",
        "or t.xid operator(pg_catalog.=) any (holders)",
        "or false",
        "tests/faults/test_postgres.py::test_others_flow_past_an_open_and_a_prepared_transaction",
    ),
    Mutation(
        "a gap is read again once a holder has ended",
        "sql/relay/unsent.sql",
        "least(settled operator(pg_catalog.+) 1, again)",
        "settled operator(pg_catalog.+) 1",
        "tests/faults/test_postgres.py::test_others_flow_past_an_open_and_a_prepared_transaction",
    ),
    Mutation(
        "a read that was full settles nothing behind its end",
        "pgoutbox/outbox/progress.py",
        "looked_upto = self._looked_upto(keys) if is_full else _FOREVER",
        "looked_upto = _FOREVER",
        f"{_MODEL}[Gaps]",
    ),
    Mutation(
        "a holder that hasn't ended keeps its gaps",
        "pgoutbox/outbox/progress.py",
        "if holder.is_gone or holder.xid in gone else holder",
        "if True else holder",
        f"{_MODEL}[Gaps]",
    ),
    Mutation(
        "holders that were noted and have gone are told from those that are left",
        "pgoutbox/outbox/progress.py",
        "return holder._replace(is_gone=True)",
        "return holder",
        "tests/property/test_gaps.py::test_what_is_rolled_back_to_a_savepoint_keeps_no_gap",
    ),
    Mutation(
        "a position that was passed is a gap",
        "pgoutbox/outbox/progress.py",
        "if position > high + 1:",
        "if position > high + 2:",
        "tests/property/test_progress.py::test_progress_covers_exactly_what_was_sent",
    ),
    Mutation(
        "ranges are joined only where nothing sent is left in them of a holder that is gone",
        "pgoutbox/outbox/progress.py",
        "or any(holder.is_gone for holder in self.holders)",
        "",
        "tests/property/test_gaps.py"
        "::test_what_is_sent_of_a_holder_is_not_read_again_in_a_joined_gap",
    ),
]

PROGRESS = [
    Mutation(
        "progress moves to where the next batch in flight began, not beyond",
        "pgoutbox/relay/loop.py",
        "self._move(self._flights[0].batch.before if self._flights else self._front)",
        "self._move(self._front)",
        f"{_UNIT}relay.py::test_relay_without_a_record_interval_records_each_batch_at_once",
    ),
    Mutation(
        "progress is recorded with the end of the batch that is sent next",
        "pgoutbox/relay/loop.py",
        "await self._outbox.advance(self.progress, self._in_flight)",
        "await self._outbox.advance(self.progress, self._in_flight[:-1])",
        f"{_UNIT}relay.py::test_what_is_recorded_keeps_the_plan_of_a_batch_that_is_sent_next",
    ),
    Mutation(
        "what a failed batch has stored counts, and no more",
        "pgoutbox/relay/loop.py",
        "self._move(flight.batch.upto(flight.stored))",
        "self._move(flight.batch.after)",
        f"{_UNIT}relay.py::test_lost_connection_keeps_what_was_confirmed",
    ),
    Mutation(
        "a plan is on the disk before its batch goes out beside a gap",
        "pgoutbox/outbox/reader.py",
        "flush = is_news and batch.after.has_gap",
        "flush = False",
        "tests/faults/test_postgres.py::test_crash_takes_back_no_plan_that_order_depends_on",
    ),
    Mutation(
        "a plan is noted before its batch goes out",
        "pgoutbox/outbox/reader.py",
        "is_news = plan[-1:] not in ((), self._plan[-1:])",
        "is_news = False",
        "tests/integration/test_relay_outbox.py::test_a_plan_is_recorded_before_its_batch_goes_out",
    ),
    Mutation(
        "a relay finishes the plan of the one before it",
        "pgoutbox/outbox/reader.py",
        "self._plan = self._replay = self._row.plan",
        "self._plan = self._row.plan",
        "tests/faults/test_relay_dies.py::test_killed_between_two_events_of_a_transaction",
    ),
    Mutation(
        "a plan is finished before what has become visible since",
        "pgoutbox/outbox/progress.py",
        "unsent = _cut(unsent, gap.first, gap.last)",
        "pass",
        "tests/property/test_progress.py::test_plan_is_finished_before_anything_else",
    ),
    Mutation(
        "a batch that ends inside a transaction is continued there",
        "pgoutbox/outbox/progress.py",
        "if is_cut and keys:",
        "if False:",
        f"{_MODEL}[Plan]",
    ),
    Mutation(
        "what commits asynchronously is on the disk before it is published",
        "pgoutbox/outbox/reader.py",
        "flush = not await self._disk.flushes(batch.unflushed, count)",
        "flush = False",
        "tests/integration/test_disk.py::test_an_event_is_on_disk_before_it_is_published",
    ),
    Mutation(
        "a parked event is on the disk before it is published",
        "pgoutbox/outbox/parked.py",
        "set local synchronous_commit = local",
        "set local synchronous_commit = off",
        "tests/integration/test_disk.py::test_a_parked_event_is_on_disk_before_it_is_published",
    ),
    Mutation(
        "events are on the disk before they are sent again",
        "pgoutbox/outbox/reader.py",
        "        await self._disk.force(resends.TOUCH, number)\n",
        "",
        "tests/integration/test_disk.py::test_events_are_on_disk_before_they_are_sent_again",
    ),
    Mutation(
        "what is on the disk already isn't taken for more than it is",
        "pgoutbox/outbox/disk.py",
        "pg_catalog.pg_snapshot_xmin(",
        "pg_catalog.pg_snapshot_xmax(",
        "tests/integration/test_disk.py::test_an_older_transaction_that_ends_later_is_waited_for",
    ),
    Mutation(
        "a former leader can't move the progress",
        "sql/relay/advance.sql",
        "where p.ctid = advance.row_tid and p.xmin = advance.row_xmin and p.tableoid",
        "where p.tableoid",
        "tests/integration/test_relay_outbox.py::test_former_leader_cannot_move_the_progress",
    ),
    Mutation(
        "another outbox beneath a running relay is noticed",
        "sql/relay/require_progress.sql",
        "if not found then",
        "if false then",
        "tests/integration/test_replaced.py"
        "::test_what_somebody_else_writes_is_noticed_by_the_next_question",
    ),
    Mutation(
        "what a copy has brought along isn't sent again under other ids",
        "sql/slots/catch_up_sequences.sql",
        "and t.xid::text::bigint % 4294967296 = t.xmin::text::bigint",
        "",
        "tests/integration/test_replaced.py"
        "::test_positions_that_fall_behind_stop_the_relay_until_install_mends_them",
    ),
    Mutation(
        "positions behind what is sent stop the relay",
        "sql/relay/require_progress.sql",
        "elsif reached >",
        "elsif false and reached >",
        "tests/integration/test_replaced.py"
        "::test_positions_that_fall_behind_stop_the_relay_until_install_mends_them",
    ),
]

LEADERSHIP = [
    Mutation(
        "who queues for a leader's lock leads nothing",
        "sql/relay/is_led.sql",
        "and l.pid = progress.leader_pid and",
        "and",
        "tests/integration/test_leadership.py"
        "::test_a_stranger_that_queues_for_the_lock_leads_nothing",
    ),
    Mutation(
        "another role with a leader's pid leads nothing",
        "sql/relay/is_led.sql",
        "and a.usesysid = progress.leader_role",
        "",
        "tests/integration/test_leadership.py"
        "::test_a_stranger_with_the_pid_of_the_last_leader_leads_nothing",
    ),
    Mutation(
        "a lock in another database leads nothing here",
        "sql/relay/is_led.sql",
        "and l.database = (select d.oid from pg_database d where d.datname = current_database())",
        "",
        "tests/integration/test_leadership.py::test_a_lock_in_another_database_leads_nothing_here",
    ),
    Mutation(
        "of several standbys one takes over",
        "sql/relay/lead.sql",
        "where p.leadership is not distinct from before.leadership",
        "where true",
        "tests/integration/test_leadership.py::test_of_many_that_find_nobody_one_leads",
    ),
    Mutation(
        "a leadership that the database doesn't know is noticed before publishing",
        "pgoutbox/relay/wakeup.py",
        "if not is_known:",
        "if False:",
        "tests/integration/test_replaced.py"
        "::test_a_leadership_that_is_gone_from_the_database_is_noticed_before_publishing",
    ),
    Mutation(
        "a relay makes sure that it leads before it sends",
        "pgoutbox/relay/loop.py",
        """            self._close_stretch()
        await self._wake_up.verify()
        if self._stretch is None:""",
        """            self._close_stretch()
        if self._stretch is None:""",
        f"{_UNIT}relay.py::test_relay_that_loses_the_lead_sends_no_further_batch",
    ),
]

MARKS = [
    Mutation(
        "it is looked whether the stream has what it confirmed",
        "pgoutbox/relay/healing.py",
        "if last is not None and not await publisher.confirms(last):",
        "if last is not None and last.sequence < 0:",
        "tests/faults/test_losses.py::test_any_part_of_the_stream_is_made_whole",
    ),
    Mutation(
        "a stream that is too short has lost something",
        "pgoutbox/nats/reading.py",
        "if stream.end < last.sequence:",
        "if stream.end < 0:",
        "tests/faults/test_losses.py::test_store_rolled_back_to_an_earlier_copy",
    ),
    Mutation(
        "another message in the place of ours is a loss",
        "pgoutbox/nats/reading.py",
        "return found.id == last.id",
        "return True",
        "tests/faults/test_losses.py::test_stream_deleted_and_made_again_by_somebody",
    ),
    Mutation(
        "what was removed isn't lost",
        "pgoutbox/nats/reading.py",
        "return (stream.name, stream.created) == (last.stream, last.created)",
        "return False",
        "tests/faults/test_losses.py::test_what_somebody_has_removed_is_not_lost",
    ),
    Mutation(
        "a transaction that the stream has in part is finished first",
        "pgoutbox/relay/healing.py",
        "if found is not None:",
        "if False:",
        "tests/faults/test_losses.py"
        "::test_transaction_that_the_stream_has_in_part_is_finished_first",
    ),
    Mutation(
        "a mark has the progress of its message",
        "pgoutbox/outbox/reader.py",
        "await self.marks.keep(self._recorded, self.last_stored, since=self._recorded_at)",
        "await self.marks.keep(progress, self.last_stored, since=self._recorded_at)",
        "tests/integration/test_relay_outbox.py"
        "::test_a_mark_has_the_progress_that_was_recorded_with_its_message",
    ),
    Mutation(
        "snapshots go back with the stream",
        "sql/snapshots/rewind_snapshots.sql",
        "where s.relay = rewind_snapshots.relay and s.place is not null",
        "where false",
        "tests/faults/test_losses.py::test_rows_of_a_snapshot_that_were_lost_are_read_again",
    ),
]

PARKING = [
    Mutation(
        "a limit that refuses what the stream took before is waited for",
        "pgoutbox/relay/parking.py",
        "if 0 < self._largest >= size:",
        "if size < 0:",
        f"{_UNIT}relay.py::test_limit_that_refuses_less_than_was_stored_is_waited_for",
    ),
    Mutation(
        "what is parked by reference survives its slot",
        "sql/slots/rotate.sql",
        "perform pgoutbox.keep_parked(target_slot);",
        "null;",
        f"{_SQL}rotation.py::test_what_is_parked_by_reference_survives_its_slot",
    ),
    Mutation(
        "an event that can't be read stops nobody",
        "pgoutbox/outbox/careful.py",
        '_OF_EVENTS = ("22", "54", "XX")',
        "_OF_EVENTS = ()",
        "tests/integration/test_hostile_events.py::test_hostile_rows_stop_nobody[WIN1252-flags1]",
    ),
    Mutation(
        "parked events are published again only where that is asked for",
        "pgoutbox/outbox/parked.py",
        "where k.relay = $1 and k.retries",
        "where k.relay = $1",
        "tests/integration/test_parked.py::test_parked_events_are_published_once_the_limit_is_raised",
    ),
    Mutation(
        "the events before one that is set aside are sent",
        "pgoutbox/outbox/batch.py",
        "end = self.passed.index(key)",
        "end = 0",
        f"{_UNIT}relay.py"
        "::test_relay_that_is_told_to_stop_at_an_event_without_rows_sends_what_came_before",
    ),
]

SNAPSHOTS = [
    Mutation(
        "a chunk is read in the snapshot of its batch",
        "pgoutbox/outbox/reader.py",
        'isolation="repeatable_read"',
        'isolation="read_committed"',
        "tests/integration/test_snapshot_chunks.py"
        "::test_what_commits_after_the_batch_isnt_in_the_chunk",
    ),
    Mutation(
        "events come before the chunk that shows them",
        "pgoutbox/outbox/batch.py",
        "return [*self.compose(), *self.chunk.compose()] if self.chunk else self.compose()",
        "return [*self.chunk.compose(), *self.compose()] if self.chunk else self.compose()",
        "tests/integration/test_snapshot_chunks.py::test_events_come_before_the_chunk_that_shows_them",
    ),
    Mutation(
        "behind a full batch there is no chunk",
        "pgoutbox/outbox/reader.py",
        "chunk = None if batch.is_full else",
        "chunk = None if False else",
        "tests/integration/test_snapshot_chunks.py::test_behind_a_full_batch_there_is_no_chunk",
    ),
    Mutation(
        "what a chunk shows is on the disk before it is published",
        "pgoutbox/outbox/batch.py",
        "unflushed = sight if chunk.size > 0 else self.unflushed",
        "unflushed = self.unflushed",
        "tests/integration/test_snapshot_chunks.py"
        "::test_what_a_chunk_shows_is_on_disk_before_it_is_published",
    ),
    Mutation(
        "a chunk that is stored in part is read again",
        "pgoutbox/outbox/batch.py",
        "return replace(self.after, place=self.before.place)",
        "return self.after",
        "tests/integration/test_snapshot_chunks.py::test_a_chunk_that_is_stored_in_part_is_read_again",
    ),
    Mutation(
        "a table that was altered since the snapshot is read again",
        "sql/snapshots/read_chunk.sql",
        "raise exception 'the table % has changed', part using errcode = 'P0K02';",
        "null;",
        "tests/integration/test_snapshot_chunks.py"
        "::test_a_table_that_was_altered_since_the_snapshot_is_read_again",
    ),
    Mutation(
        "behind a replayed batch there is no chunk",
        "pgoutbox/outbox/reader.py",
        "            if batch:\n                return batch\n",
        "            if batch:\n"
        "                chunk = self._snapshots and await self._snapshots.read(before.place)\n"
        "                return batch.with_chunk(chunk) if chunk else batch\n",
        "tests/integration/test_snapshot_chunks.py::test_behind_a_replayed_batch_there_is_no_chunk",
    ),
    Mutation(
        "holders of gaps are asked for before the snapshot of a chunk is taken",
        "pgoutbox/outbox/reader.py",
        "await self._connection.execute(queries.BRIEFLY)\n",
        "await self._connection.execute(queries.BRIEFLY)\n"
        "                before = await self.noting_holders("
        "Progress(before.high, before.gaps, before.partial, place=before.place))\n",
        "tests/integration/test_snapshot_chunks.py"
        "::test_holders_of_gaps_are_asked_for_before_the_chunks_snapshot_is_taken",
    ),
    Mutation(
        "the session of a relay that freezes in a chunk is ended",
        "pgoutbox/outbox/queries.py",
        "idle_in_transaction_session_timeout = '5s'",
        "idle_in_transaction_session_timeout = 0",
        "tests/integration/test_snapshot_chunks.py::test_a_session_that_idles_in_a_chunk_is_ended",
    ),
    Mutation(
        "ids of rows without a key have the file",
        "sql/snapshots/read_chunk.sql",
        "array_remove(array[part::oid::text, ordering.file::text], null)",
        "array[part::oid::text]",
        "tests/integration/test_snapshot_places.py"
        "::test_what_is_read_again_from_another_file_has_other_ids",
    ),
    Mutation(
        "a place means something in its file only",
        "sql/snapshots/snapshot_order.sql",
        "concat('file ', f.file)",
        "'file'",
        "tests/integration/test_snapshot_places.py::test_another_file_has_the_table_begun_anew",
    ),
    Mutation(
        "pages without a row aren't the end of the table",
        "sql/snapshots/read_chunk.sql",
        "is_over := reach = upto;",
        "is_over := true;",
        "tests/integration/test_snapshot_places.py"
        "::test_each_row_comes_once_in_the_order_of_its_place",
    ),
]

IDS = [
    Mutation(
        "ids of one transaction don't follow from one another",
        "pgoutbox/messages/envelope.py",
        'digits = sha256(fixed + seq.to_bytes(8, "big", signed=True)).hexdigest()',
        "digits = sha256(fixed).hexdigest()",
        f"{_SQL}ids.py::test_sql_and_python_make_the_same_ids",
    ),
    Mutation(
        "ids in SQL are those of the relay",
        "sql/relay/event_id.sql",
        "operator(pg_catalog.||) pg_catalog.timestamptz_send(committed_at)",
        "",
        f"{_SQL}ids.py::test_sql_and_python_make_the_same_ids",
    ),
    Mutation(
        "an event under two subjects is two messages",
        "pgoutbox/nats/wire.py",
        'name = f"{event_id}.{_hash(subject)}"',
        'name = f"{event_id}.{_hash(event_id)}"',
        "tests/integration/test_nats_ids.py::test_message_id_is_made_of_the_event_and_its_subject",
    ),
    Mutation(
        "a repeat that is somebody else's message confirms nothing",
        "pgoutbox/nats/repeats.py",
        "if found is not None and not found.is_of(message):",
        "if False:",
        f"{_UNIT}publisher_answers.py::test_message_of_another_with_the_id_of_ours_confirms_nothing",
    ),
]

CHAIN = [
    Mutation(
        "an acknowledgement counts if the stream has grown by what was sent",
        "pgoutbox/nats/stretch.py",
        'answer["seq"] == number + 1 + self._offset and not',
        "not",
        f"{_UNIT}stretch.py::test_stretch_ends_with_any_other_answer",
    ),
    Mutation(
        "a chain begins with a message alone",
        "pgoutbox/nats/chain.py",
        "return self._alone > 0 or not self._is_begun",
        "return self._alone > 0",
        f"{_UNIT}chain.py::test_chain_by_id_begins_with_a_message_alone_and_names_each_before",
    ),
    Mutation(
        "a repeat begins no chain",
        "pgoutbox/nats/chain.py",
        "is_stored_last = is_whole and not window.is_repeat",
        "is_stored_last = is_whole",
        f"{_UNIT}chain.py::test_repeat_begins_no_chain",
    ),
]

ROTATION = [
    Mutation(
        "a slot with unsent events isn't emptied",
        "sql/slots/rotate.sql",
        "where t.position > p.high)",
        "where false)",
        f"{_SQL}rotation.py::test_only_what_is_sent",
    ),
    Mutation(
        "a slot with events in a gap isn't emptied",
        "sql/slots/rotate.sql",
        "where t.position between greatest(g.first, p.settled + 1) and g.last",
        "where false",
        f"{_SQL}rotation.py::test_only_what_is_sent",
    ),
    Mutation(
        "what keeps a slot is looked up, not joined to all of it",
        "sql/slots/rotate.sql",
        "where t.position = p.partial_position limit 1",
        "where t.position + 0 = p.partial_position limit 1",
        f"{_SQL}rotation.py::test_looks_under_the_lock_do_not_grow_with_the_slot",
    ),
    Mutation(
        "a slot with a transaction that is sent in part isn't emptied",
        "sql/slots/rotate.sql",
        "where t.position = p.partial_position",
        "where false",
        f"{_SQL}rotation.py::test_only_what_is_sent",
    ),
    Mutation(
        "without a relay nothing is emptied",
        "sql/slots/rotate.sql",
        "'select not exists (select from pgoutbox.progress) or exists (",
        "'select exists (",
        f"{_SQL}rotation.py::test_without_a_relay_nothing_is_emptied",
    ),
    Mutation(
        "events without a transaction are found before their slot is emptied",
        "sql/slots/rotate.sql",
        "having count(*) > 0",
        "having false",
        f"{_SQL}transactions.py::test_events_hidden_by_a_forged_setting_are_adopted",
    ),
    Mutation(
        "a slot rests for the retention before it is emptied",
        "sql/slots/resting_slots.sql",
        "and r.since <= moment - retention",
        "and true",
        f"{_SQL}rotation.py::test_how_long_a_slot_rests_outlives_whoever_looks",
    ),
    Mutation(
        "a clock that was set back keeps no slot from being emptied",
        "sql/slots/resting_slots.sql",
        " or r.since is null or r.since > moment);",
        " or r.since is null);",
        f"{_SQL}rotation.py::test_a_slot_rests_from_now_on_where_the_clock_was_set_back",
    ),
    Mutation(
        "a jump of the clock is counted from the end of the look before it",
        "pgoutbox/outbox/upkeep.py",
        "select pg_catalog.clock_timestamp() as moment, r.slot",
        "select pg_catalog.statement_timestamp() as moment, r.slot",
        "tests/integration/test_relay_outbox.py"
        "::test_nothing_that_a_look_for_resting_slots_notes_is_later_than_its_time",
    ),
    Mutation(
        "what a clock has jumped ahead is no rest",
        "sql/slots/resting_slots.sql",
        "if moment - looked - ago > '1 minute' then",
        "if false then",
        f"{_SQL}rotation.py::test_what_the_clock_has_jumped_ahead_is_no_rest",
    ),
]

MONITORING = [
    Mutation(
        "ages go by PostgreSQL's clock, whatever ours says",
        "pgoutbox/monitoring/server_clock.py",
        "return time.time() if self._offset is None else",
        "return time.time() if True else",
        f"{_UNIT}server_clock.py::test_ages_go_by_postgresqls_clock_whatever_ours_says",
    ),
    Mutation(
        "an answer that took long doesn't move the clock",
        "pgoutbox/monitoring/server_clock.py",
        "self._offset = min(max(lowest, known), highest)",
        "self._offset = (lowest + highest) / 2",
        f"{_UNIT}server_clock.py::test_an_answer_that_took_long_moves_nothing",
    ),
]

_NOTIFICATIONS = "tests/faults/test_notifications.py::test_"

NOTIFICATIONS = [
    Mutation(
        "a LISTEN that fails keeps no events back",
        "pgoutbox/relay/wakeup.py",
        "        except asyncpg.PostgresError as error:\n",
        "        except ZeroDivisionError as error:\n",
        f"{_NOTIFICATIONS}listen_has_no_effect[refused]",
    ),
    Mutation(
        "a relay that hears nothing listens anew",
        "pgoutbox/relay/wakeup.py",
        "        self._is_listening = False\n        return _NO_ECHO\n",
        "        return _NO_ECHO\n",
        f"{_NOTIFICATIONS}listen_has_no_effect[silent]",
    ),
    Mutation(
        "a relay that listens anew looks at what it hasn't heard of",
        "pgoutbox/relay/wakeup.py",
        "        self._hint.set()  # whoever notified before wasn't heard\n",
        "",
        f"{_NOTIFICATIONS}a_session_that_once_heard_is_asked_again_only_in_doubt",
    ),
    Mutation(
        "a session that has heard one notification can still be in doubt",
        "pgoutbox/relay/wakeup.py",
        "        self._heard.clear()\n",
        "        pass\n",
        f"{_NOTIFICATIONS}a_session_that_once_heard_is_asked_again_only_in_doubt",
    ),
    Mutation(
        "events that nobody has notified of are a reason to doubt",
        "pgoutbox/relay/loop.py",
        "elif was_silent and not",
        "elif False and not",
        f"{_UNIT}relay.py::test_events_that_nobody_has_notified_of_are_a_reason_to_doubt",
    ),
]

_FAULTS = "tests/faults/test_"

SURROUNDINGS = [
    Mutation(
        "a relay's sessions have none of its role's time-outs",
        "pgoutbox/database/sessions.py",
        '    "lock_timeout": "0",\n',
        "",
        f"{_FAULTS}postgres.py::test_timeouts_of_the_role_are_not_the_relays",
    ),
    Mutation(
        "a table is released without holding its writers up",
        "pgoutbox/database/table_locks.py",
        "{max(1, round(settings.lock_timeout * 1000))}ms",
        "{max(1, round(settings.lock_wait * 1000))}ms",
        "tests/integration/test_install.py"
        "::test_it_waits_for_the_lock_and_never_holds_up_the_application[uninstall]",
    ),
    Mutation(
        "after an outage no more is in flight than before",
        "pgoutbox/relay/loop.py",
        "_DEPTH = 2  #",
        "_DEPTH = 9  #",
        f"{_FAULTS}long_outages.py::test_nats_is_away[minutes]",
    ),
    Mutation(
        "an outage is said once, however often something is retried",
        "pgoutbox/relay/outage.py",
        "str(error) != self._said and now",
        "now",
        f"{_FAULTS}long_outages.py::test_postgresql_is_away[minutes]",
    ),
    Mutation(
        "reasons that alternate fill no log",
        "pgoutbox/relay/outage.py",
        "1 if self._since is None else 2",
        "1",
        f"{_UNIT}outage.py::test_reasons_that_alternate_for_an_hour_fill_no_log",
    ),
    Mutation(
        "a certificate that has expired is not trusted",
        "pgoutbox/nats/credentials.py",
        "        context = ssl.create_default_context(cafile=config.ca_cert)\n",
        "        context = ssl._create_unverified_context(cafile=config.ca_cert)\n",
        f"{_FAULTS}nats.py::test_a_certificate_that_has_expired",
    ),
]

MUTATIONS = {
    "capture": CAPTURE,
    "commit stage": COMMIT_STAGE,
    "gaps": GAPS,
    "progress": PROGRESS,
    "leadership": LEADERSHIP,
    "marks": MARKS,
    "parking": PARKING,
    "snapshots": SNAPSHOTS,
    "ids": IDS,
    "chain": CHAIN,
    "rotation": ROTATION,
    "monitoring": MONITORING,
    "notifications": NOTIFICATIONS,
    "surroundings": SURROUNDINGS,
}

// Append each event to a file, once and in order: npm install && node consume.js
//
// A durable consumer: it goes on where it stopped. One event at a time, so none overtakes another,
// not even one that is tried again. An event that comes twice has the same id, and counts once.
// One that fails again and again is given up and named, so that it doesn't hold up the others.
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { AckPolicy, jetstream, JetStreamApiCodes, jetstreamManager } from "@nats-io/jetstream";
import { connect, nanos } from "@nats-io/transport-node";

const { NATS_URL = "nats://localhost:4222", STREAM = "wal_listener", NAME = "users-log" } =
  process.env;
const FILE = process.env.FILE ?? "users.jsonl";
// Seconds before an event is tried again; after the last it is given up.
const DELAYS = (process.env.DELAYS ?? "1 5 30 120").split(" ").map(Number);

const lines = existsSync(FILE) ? readFileSync(FILE, "utf8").split("\n").filter(Boolean) : [];
const seen = new Set(lines.map((line) => JSON.parse(line).id));

function apply(event) {
  if (seen.has(event.id)) return "seen before";
  appendFileSync(FILE, JSON.stringify(event) + "\n", { flush: true });
  seen.add(event.id);
  return `${event.action} ${event.table} ${event.data.id ?? event.dataOld.id ?? ""}`;
}

function handle(message) {
  const { stream, streamSequence: sequence, deliveryCount: delivery } = message.info;
  if (delivery > DELAYS.length + 1) {
    // It may have crashed us, so look before anything else.
    console.log(`${sequence} given up; see: nats stream get ${stream} ${sequence}`);
    return message.term();
  }
  try {
    console.log(`${sequence} ${apply(message.json())}`);
  } catch (error) {
    console.log(`${sequence} failed: ${error}`);
    return message.nak(1000 * [...DELAYS, 0][delivery - 1]);
  }
  message.ack();
}

const connection = await connect({ servers: NATS_URL, maxReconnectAttempts: -1 });
const manager = await jetstreamManager(connection);
const config = {
  durable_name: NAME,
  ack_policy: AckPolicy.Explicit,
  ack_wait: nanos(30_000), // longer than an event may take
  max_ack_pending: 1,
};
for (;;) {
  try {
    await manager.consumers.add(STREAM, config);
    break;
  } catch (error) {
    if (error.code !== JetStreamApiCodes.StreamNotFound) throw error;
    await setTimeout(1000); // the relay makes the stream when it first connects
  }
}
const consumer = await jetstream(connection).consumers.get(STREAM, NAME);
const messages = await consumer.consume({ max_messages: 1 });
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, () => messages.close().then(() => connection.drain()));
}
for await (const message of messages) handle(message);

// Keep a copy of table users in another database, from its events: go run .
//
// A durable consumer: it goes on where it stopped. One event at a time, so none overtakes another,
// not even one that is tried again. An event that comes twice has the same id: it is written down in
// the transaction that applies the event, so the event counts once, whatever crashes when. One that
// fails again and again is given up and named, so that it doesn't hold up the others.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const tables = `
create table if not exists inbox (id uuid primary key, handled_at timestamptz default now());
create table if not exists users (id text primary key, name text, email text)`

type user struct {
	ID    any     `json:"id"` // a number or a text
	Name  *string `json:"name"`
	Email *string `json:"email"`
}

type event struct {
	ID     string `json:"id"`
	Table  string `json:"table"`
	Action string `json:"action"`
	Data   user   `json:"data"`
	Old    user   `json:"dataOld"`
}

// apply brings the copy up to date; it is part of the transaction that remembers the event.
func apply(ctx context.Context, tx pgx.Tx, e event) error {
	if e.Table != "users" {
		return nil
	}
	if e.Action == "TRUNCATE" {
		_, err := tx.Exec(ctx, "truncate users")
		return err
	}
	if e.Old.ID != nil { // the key may have changed
		if _, err := tx.Exec(ctx, "delete from users where id = $1", fmt.Sprint(e.Old.ID)); err != nil {
			return err
		}
	}
	if e.Action == "DELETE" {
		return nil
	}
	_, err := tx.Exec(ctx, "insert into users (id, name, email) values ($1, $2, $3)"+
		" on conflict (id) do update set name = excluded.name, email = excluded.email",
		fmt.Sprint(e.Data.ID), e.Data.Name, e.Data.Email)
	return err
}

// handle applies an event once, and returns what became of it.
func handle(ctx context.Context, pool *pgxpool.Pool, data []byte) (said string, err error) {
	var e event
	decoder := json.NewDecoder(strings.NewReader(string(data)))
	decoder.UseNumber() // a bigint doesn't fit into a float64
	if err := decoder.Decode(&e); err != nil {
		return "", err
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "insert into inbox (id) values ($1) on conflict do nothing", e.ID)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			said = "seen before"
			return nil
		}
		said = e.Action + " " + e.Table
		return apply(ctx, tx, e)
	})
	return said, err
}

// settle acknowledges a message, or has it delivered again after a while.
func settle(ctx context.Context, pool *pgxpool.Pool, delays []time.Duration, m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	sequence, delivery := meta.Sequence.Stream, int(meta.NumDelivered)
	if delivery > len(delays)+1 {
		// It may have crashed us, so look before anything else.
		fmt.Printf("%d given up; see: nats stream get %s %d\n", sequence, meta.Stream, sequence)
		return m.Term()
	}
	said, err := handle(ctx, pool, m.Data())
	if err == nil {
		fmt.Println(sequence, said)
		return m.Ack()
	}
	fmt.Printf("%d failed: %v\n", sequence, err)
	return m.NakWithDelay(append(delays, 0)[delivery-1])
}

func consumer(ctx context.Context, js jetstream.JetStream) (jetstream.Consumer, error) {
	for {
		found, err := js.CreateOrUpdateConsumer(ctx, env("STREAM", "wal_listener"), jetstream.ConsumerConfig{
			Durable:       env("NAME", "users-copy"),
			AckPolicy:     jetstream.AckExplicitPolicy,
			AckWait:       30 * time.Second, // longer than an event may take
			MaxAckPending: 1,
		})
		if !errors.Is(err, jetstream.ErrStreamNotFound) {
			return found, err
		}
		select { // the relay makes the stream when it first connects
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func run(ctx context.Context) error {
	var delays []time.Duration // before an event is tried again; after the last it is given up
	for _, text := range strings.Fields(env("DELAYS", "1s 5s 30s 2m")) {
		delay, err := time.ParseDuration(text)
		if err != nil {
			return err
		}
		delays = append(delays, delay)
	}
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, tables); err != nil {
		return err
	}
	connection, err := nats.Connect(env("NATS_URL", nats.DefaultURL), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer connection.Drain()
	js, err := jetstream.New(connection)
	if err != nil {
		return err
	}
	durable, err := consumer(ctx, js)
	if err != nil {
		return err
	}
	messages, err := durable.Messages(jetstream.PullMaxMessages(1))
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, messages.Stop)
	for {
		message, err := messages.Next()
		if errors.Is(err, jetstream.ErrMsgIteratorClosed) {
			return nil
		}
		if err != nil {
			log.Print(err) // such as a server that is away; it comes back
			time.Sleep(time.Second)
			continue
		}
		// What has begun is finished: the signal stops the loop, not the transaction.
		if err := settle(context.WithoutCancel(ctx), pool, delays, message); err != nil {
			log.Print(err)
		}
	}
}

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

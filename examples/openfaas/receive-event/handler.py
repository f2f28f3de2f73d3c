"""Receive row changes: one call for each event, its JSON as the body."""

import json


def handle(event, context):
    """Print what has changed; a function of yours does its work here."""
    subject = event.headers.get("X-Topic")
    try:
        change = json.loads(event.body)
    except ValueError:
        return {"statusCode": 400, "body": f"not JSON: {event.body!r}"}
    row = change["data"] or change["dataOld"]  # a DELETE has only the old row
    print(subject, change["action"], change["table"], row.get("name"), flush=True)
    return {"statusCode": 200, "body": change["id"]}

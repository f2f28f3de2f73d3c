"""The protocols as small models, of which every interleaving is explored.

A test on real servers sees the interleavings that happen; a model of a protocol has few enough
states to see all of them. Each module here is one protocol: what its steps are, beside the names
of the functions that take them, and the promise as a condition on states. `explorer.py` tries the
steps in every order, and prints the shortest way to a state that breaks the promise.

Each module's docstring names the code that it models:

- `commit_stage`: positions tell the order in which transactions depend on one another
- `gaps`: what is committed late is read, and no gap outlives those who may fill it
- `marks`: what the stream loses is sent again, and no transaction is torn by that
- `plan`: no transaction is torn, and progress covers only what is stored, whoever is killed when
- `sleep_lock`: no wake-up is lost
- `snapshots`: each row of a chunk is what the events before it make of it

What can be the code itself is: progress, gaps and holders are `pgoutbox.outbox.progress`, so a
mistake there is found here. What PostgreSQL and nats-server do is written down as their documents
have it; the tests on real servers show that they do.

That a model can tell right from wrong is tested, too: beside each stand *variants*, the protocol
with one thing done wrong, and each must be found. `python -m tests.models sleep_lock` explores a
model and its variants, and prints how each variant fails, step by step.
"""

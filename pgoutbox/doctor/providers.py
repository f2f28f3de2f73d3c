"""Whose PostgreSQL it is, by the marks that its provider leaves, and what is particular there.

The marks are roles and functions that the providers' own documents name, and the host's name;
docs/providers.md tells more of each.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider of PostgreSQL; each mark is enough."""

    name: str
    anchor: str  # in docs/providers.md
    particular: str
    roles: AbstractSet[str] = frozenset()
    functions: AbstractSet[str] = frozenset()
    hosts: tuple[str, ...] = ()  # how their names end
    pooler: str | None = None  # what the name of its pooler's host has, and no other
    pooler_port: int | None = None  # where a pooler in transaction mode listens


# Aurora is RDS, too, so it comes first.
PROVIDERS = (
    Provider(
        "Amazon Aurora",
        "amazon-aurora",
        "give the cluster's writer endpoint, which follows a failover; a serverless instance with"
        " a minimum of 0 ACU never pauses while a relay is connected",
        functions={"aurora_version"},
    ),
    Provider(
        "Amazon RDS",
        "amazon-rds",
        "a failover of a Multi-AZ instance cuts connections, and the relay connects again by"
        " itself",
        roles={"rdsadmin"},
        hosts=(".rds.amazonaws.com", ".rds.amazonaws.com.cn"),
    ),
    Provider(
        "Google Cloud SQL",
        "google-cloud-sql",
        "the Auth Proxy and private addresses give whole sessions; managed connection pooling is"
        " for writers, not for the relay",
        roles={"cloudsqladmin", "cloudsqlsuperuser"},
    ),
    Provider(
        "Azure Database for PostgreSQL",
        "azure-database-for-postgresql",
        "port 5432 is direct; port 6432 is PgBouncer, in transaction mode unless configured"
        " otherwise, and not for the relay",
        roles={"azure_pg_admin", "azuresu"},
        hosts=(".postgres.database.azure.com",),
        pooler_port=6432,
    ),
    Provider(
        "Supabase",
        "supabase",
        "the direct address is IPv6 only without the add-on; the pooler's port 5432 gives"
        " sessions, its port 6543 doesn't",
        roles={"supabase_admin"},
        hosts=(".supabase.co", ".pooler.supabase.com"),
        pooler_port=6543,
    ),
    Provider(
        "Neon",
        "neon",
        "a compute that scales to zero is kept awake by the relay's polling, and costs its time",
        roles={"neon_superuser"},
        hosts=(".neon.tech",),
        pooler="-pooler.",
    ),
)


@dataclass(frozen=True, slots=True)
class Marks:
    """What can be seen of a server."""

    roles: AbstractSet[str]
    functions: AbstractSet[str]
    host: str
    port: int


def provider_of(marks: Marks) -> Provider | None:
    """Return whose server it is; None where it is nobody's that is known."""
    for provider in PROVIDERS:
        if (
            provider.roles & marks.roles
            or provider.functions & marks.functions
            or marks.host.lower().endswith(provider.hosts)
        ):
            return provider
    return None


def is_pooler(provider: Provider, marks: Marks) -> bool:
    """Tell whether the address is that of the provider's pooler in transaction mode."""
    by_host = provider.pooler is not None and provider.pooler in marks.host.lower()
    return by_host or (provider.pooler_port is not None and provider.pooler_port == marks.port)

"""Whose PostgreSQL it is, and docs/providers.md about each."""

from __future__ import annotations

import pytest

from pgoutbox.doctor.providers import PROVIDERS, Marks, Provider, is_pooler, provider_of
from tests.support.commands import ROOT

PAGE = (ROOT / "docs" / "providers.md").read_text("utf-8")
NOTHING: frozenset[str] = frozenset()


def marks(
    *roles: str, functions: frozenset[str] = NOTHING, host: str = "10.0.0.1", port: int = 5432
) -> Marks:
    return Marks(frozenset({"postgres", *roles}), functions, host, port)


@pytest.mark.parametrize(
    ("seen", "name"),
    [
        (marks("rdsadmin", "rds_superuser"), "Amazon RDS"),
        (marks(host="shop.abc.eu-central-1.rds.amazonaws.com"), "Amazon RDS"),
        (marks("rdsadmin", functions=frozenset({"aurora_version"})), "Amazon Aurora"),
        (marks("cloudsqlsuperuser"), "Google Cloud SQL"),
        (marks("azure_pg_admin"), "Azure Database for PostgreSQL"),
        (marks(host="shop.postgres.database.azure.com"), "Azure Database for PostgreSQL"),
        (marks("supabase_admin"), "Supabase"),
        (marks("neon_superuser"), "Neon"),
        (marks(host="ep-cool-1.eu-central-1.aws.neon.tech"), "Neon"),
        (marks("azurite", host="rds.amazonaws.com.example"), None),
    ],
)
def test_provider_is_known_by_any_mark(seen: Marks, name: str | None) -> None:
    provider = provider_of(seen)

    assert (provider.name if provider else None) == name


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (marks("neon_superuser", host="ep-cool-1-pooler.eu-central-1.aws.neon.tech"), True),
        (marks("neon_superuser", host="ep-cool-1.eu-central-1.aws.neon.tech"), False),
        (marks("supabase_admin", host="aws-0.pooler.supabase.com", port=6543), True),
        (marks("supabase_admin", host="aws-0.pooler.supabase.com"), False),
        (marks("azure_pg_admin", port=6432), True),
        (marks("rdsadmin", port=6432), False),
    ],
)
def test_poolers_in_transaction_mode_are_told_by_host_or_port(seen: Marks, expected: bool) -> None:
    provider = provider_of(seen)

    assert provider is not None
    assert is_pooler(provider, seen) == expected


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_page_has_a_section_of_each(provider: Provider) -> None:
    assert f"\n## {provider.name}\n" in PAGE
    assert provider.anchor == provider.name.lower().replace(" ", "-")

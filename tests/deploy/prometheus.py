"""A Prometheus with the configuration of deploy/prometheus, for tests."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from pgoutbox.demo.process import HOST, Server
from tests.deploy.tools import program
from tests.support.commands import ROOT
from tests.support.http import ask

FOLDER = ROOT / "deploy" / "prometheus"


class Prometheus(Server):
    """Scrapes each second what listens at ``targets`` (ports by job), or all as the files say."""

    name = "prometheus"

    def __init__(self, folder: Path, targets: Mapping[str, list[int]] | None = None) -> None:
        super().__init__(folder, None)
        self._program = program("prometheus")
        self._targets = targets

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression has now."""
        answer = await self._get("query", query=expression)
        assert answer["resultType"] == "vector", expression
        return list(answer["result"])

    async def query_range(
        self, expression: str, start: float, end: float, step: float
    ) -> list[dict[str, Any]]:
        """Return what an expression had from ``start`` to ``end``, each ``step`` seconds."""
        span = {"start": f"{start}", "end": f"{end}", "step": f"{step}"}
        answer = await self._get("query_range", query=expression, **span)
        assert answer["resultType"] == "matrix", expression
        return list(answer["result"])

    async def values_of(self, label: str, selector: str) -> list[str]:
        """Return the values that a label has in the series of a selector."""
        found = await self._get(f"label/{label}/values", **{"match[]": selector})
        return [str(value) for value in found]

    async def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {
            alert["labels"]["alertname"]
            for alert in (await self._get("alerts"))["alerts"]
            if alert["state"] == "firing"
        }

    async def rules(self) -> list[str]:
        """Return the names of the rules that it evaluates."""
        groups = (await self._get("rules"))["groups"]
        return [rule["name"] for group in groups for rule in group["rules"]]

    async def scraped(self) -> list[str]:
        """Return the addresses that it scrapes."""
        return [each["scrapeUrl"] for each in (await self._get("targets"))["activeTargets"]]

    async def _get(self, path: str, **parameters: str) -> Any:
        answer = await ask(self.port, f"/api/v1/{path}?{urlencode(parameters)}")
        body = json.loads(answer.body)
        assert body["status"] == "success", (body.get("error"), parameters)
        return body["data"]

    def _command(self) -> list[str | Path]:
        return [
            self._program,
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={HOST}:{self.port}",
        ]

    def _prepare(self) -> None:
        super()._prepare()
        if self._targets is None:
            shutil.copytree(FOLDER, self.folder, dirs_exist_ok=True)
            return
        configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))
        configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        configuration["scrape_configs"] = [
            {
                "job_name": job,
                "static_configs": [{"targets": [f"{HOST}:{port}" for port in ports]}],
            }
            for job, ports in self._targets.items()
        ]
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(configuration), "utf-8")
        for name in configuration["rule_files"]:
            shutil.copy(FOLDER / name, self.folder)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=1.0)
        try:
            connection.request("GET", "/-/ready")
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

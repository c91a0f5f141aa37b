"""What the Grafana dashboard and the alerts ask of Prometheus."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import promql_parser as promql
import yaml

DOCKER: Final = Path(__file__).parents[2] / "docker"
DASHBOARD: Final = DOCKER / "grafana" / "dashboards" / "nla-serve.json"


ALERTS: Final = DOCKER / "alerts.yaml"


@dataclass(frozen=True)
class Query:
    """One query: the series that it selects, and the labels that it groups by or shows."""

    expression: str
    selectors: tuple[Any, ...]
    labels: frozenset[str]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    return [query_of(target["expr"]) for panel in panels() for target in panel["targets"]]


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def query_of(expression: str) -> Query:
    """Parse one query; Grafana puts a time span for its own variable."""
    selectors: list[Any] = []
    labels: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql.MatrixSelector):
            selectors.append(node.vector_selector)
        elif isinstance(node, promql.VectorSelector):
            selectors.append(node)
        elif isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            labels.update(node.modifier.labels)

    promql.walk(promql.parse(expression.replace("$__rate_interval", "1m")), visit)
    return Query(expression, tuple(selectors), frozenset(labels))

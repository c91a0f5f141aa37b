"""What of Kustomize's and of the Prometheus operator's schemas the manifests use: other fields are mistakes.

Kubernetes' own kinds are looked at by kubernetes-validate, which has their schemas.
"""

from typing import Any, Final

TEXT: Final = {"type": "string", "minLength": 1}
TEXTS: Final = {"type": "array", "items": TEXT, "minItems": 1}
LABELS: Final = {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1}


def exactly(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """An object of these fields and no other."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": [*required],
        "additionalProperties": False,
    }


def kind_of(version: str, kind: str, required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """A whole document."""
    return exactly({"apiVersion": {"const": version}, "kind": {"const": kind}, **required}, **optional)


GENERATED: Final = {
    "literals": {"type": "array", "items": {"type": "string", "pattern": r"^\w+=.+$"}},
    "files": TEXTS,
    "options": exactly({}, disableNameSuffixHash={"type": "boolean"}, labels=LABELS, annotations=LABELS),
}
GENERATORS: Final = {"type": "array", "items": exactly({"name": TEXT}, **GENERATED)}
KEY: Final = exactly({"name": TEXT, "key": TEXT}, optional={"type": "boolean"})
SCHEMAS: Final = {
    "Kustomization": kind_of(
        "kustomize.config.k8s.io/v1beta1",
        "Kustomization",
        {"resources": TEXTS},
        namespace=TEXT,
        images={"type": "array", "items": exactly({"name": TEXT}, newName=TEXT, newTag=TEXT, digest=TEXT)},
        configMapGenerator=GENERATORS,
        secretGenerator=GENERATORS,
    ),
    "ServiceMonitor": kind_of(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        {
            "metadata": exactly({"name": TEXT}, labels=LABELS),
            "spec": exactly({
                "selector": exactly({"matchLabels": LABELS}),
                "endpoints": {"type": "array", "minItems": 1, "items": exactly(
                    {"port": TEXT},
                    path={"type": "string", "pattern": "^/"},
                    interval={"type": "string", "pattern": r"^\d+(ms|s|m|h)$"},
                    authorization=exactly({"credentials": KEY}, type=TEXT),
                )},
            }),
        },
    ),
}  # fmt: skip

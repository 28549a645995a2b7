"""An OpenID Connect issuer for tests: real keys, signed tokens, and a server for its two documents."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

AUDIENCE = "headrace"

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_JWK: dict[str, Any] = {
    "RS256": jwt.algorithms.RSAAlgorithm,
    "ES256": jwt.algorithms.ECAlgorithm,
    "EdDSA": jwt.algorithms.OKPAlgorithm,
}


def new_key(algorithm: str = "ES256") -> Key:
    """A private key for a kind of signature."""
    if algorithm == "RS256":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else ed25519.Ed25519PrivateKey.generate()


class Issuer:
    """Serves its documents on loopback until it is closed.

    Attributes:
        url: The issuer's name.
        keys: The published keys: by their ID, their kind and the private key.
        keys_url: The URL of the keys, as its discovery document names it.
        fetches: How often its keys were requested.
        is_up: Whether it answers.
        garbage: What it sends instead of HTTP, if it is not empty.
        redirect: The URL that it redirects every request to, if it is not empty.
    """

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, Key]] = {"first": ("ES256", new_key())}
        self.fetches = 0
        self.is_up = True
        self.garbage = b""
        self.redirect = ""
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if issuer.garbage:
                    self.wfile.write(issuer.garbage)
                    return
                if issuer.redirect:
                    self.send_response(302)
                    self.send_header("Location", issuer.redirect)
                    self.end_headers()
                    return
                body = issuer.document(self.path)
                self.send_response(200 if body is not None and issuer.is_up else 503)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
                """Logs nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.keys_url: Any = f"{self.url}/jwks"
        self._thread = threading.Thread(target=self._server.serve_forever, name="issuer")
        self._thread.start()

    def document(self, path: str) -> Any:
        """The document at a path; None if there is none."""
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": self.keys_url}
        if path != "/jwks":
            return None
        self.fetches += 1
        return {"keys": [self._jwk(name, *key) for name, key in self.keys.items()]}

    def token(self, key_id: str = "first", *, key: Key | None = None, algorithm: str = "", **claims: Any) -> str:
        """A token that is valid for an hour, unless claims say otherwise; a claim of None is left out."""
        kind, own = self.keys.get(key_id, ("ES256", None))
        now = int(time.time())
        every = {"iss": self.url, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 3600, **claims}
        said = {name: value for name, value in every.items() if value is not None}
        signer = key or own
        assert signer is not None, f"{key_id} is not one of the issuer's keys"
        return jwt.encode(said, signer, algorithm=algorithm or kind, headers={"kid": key_id})

    def close(self) -> None:
        """Stops the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _jwk(self, name: str, algorithm: str, key: Key) -> dict[str, Any]:
        public: Any = key.public_key()
        document = json.loads(_JWK[algorithm].to_jwk(public))
        return {**document, "kid": name, "alg": algorithm, "use": "sig"}

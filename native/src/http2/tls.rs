//! TLS: certificates that are read again when their file changes, and handshakes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use tokio::sync::Mutex;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::socket::Socket;

/// The name of HTTP/2 when TLS chooses the protocol (ALPN).
pub const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// A key, its certificate chain, and the requirements for client certificates.
#[pyclass(frozen, module = "headrace_native")]
pub struct Certificates(Configs);

/// The configurations for clients that speak only HTTP/2, and for clients that may also speak HTTP/1.
#[derive(Clone)]
struct Configs {
    http2: Arc<ServerConfig>,
    either: Arc<ServerConfig>,
}

#[pymethods]
impl Certificates {
    /// Parses PEM texts. With `client_verify`, clients must send a certificate signed by `authority`.
    #[new]
    fn new(key: &str, certificate: &str, authority: &str, client_verify: bool) -> PyResult<Self> {
        let config = server_config(key, certificate, client_verify.then_some(authority));
        let http2 = config.map_err(|error| PyValueError::new_err(error.to_string()))?;
        let mut either = http2.clone();
        either.alpn_protocols.push(HTTP1.to_vec());
        Ok(Self(Configs { http2: Arc::new(http2), either: Arc::new(either) }))
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn server_config(key: &str, certificate: &str, authority: Option<&str>) -> Result<ServerConfig, AnyError> {
    let provider = Arc::new(ring::default_provider());
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = provider.key_provider.load_private_key(PrivateKeyDer::from_pem_slice(key.as_bytes())?)?;
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match authority {
        Some(authority) => builder.with_client_cert_verifier(client_verifier(authority, provider)?),
        None => builder.with_no_client_auth(),
    };
    // Python has checked that the two belong together, for every kind of certificate that OpenSSL reads.
    let pair = CertifiedKey::new(chain, key);
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(config)
}

fn client_verifier(authority: &str, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, AnyError> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(root?)?;
    }
    if roots.is_empty() {
        return Ok(Arc::new(Nobody(provider.signature_verification_algorithms)));
    }
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?)
}

/// Requires a certificate but trusts none, as gRPC does if clients must send one and no authority is configured.
#[derive(Debug)]
struct Nobody(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for Nobody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Err(rustls::CertificateError::UnknownIssuer.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// The attributes by which a changed file is recognised; None if there is no file.
type State = Option<(u64, i64, i64, u64)>;

/// The TLS settings of an address, from Python.
#[pyclass(frozen, module = "headrace_native")]
pub struct Tls(pub Arc<Certified>);

#[pymethods]
impl Tls {
    /// `changed` is called, on any thread, when the file has changed: it returns new certificates, or None to keep the
    /// old ones.
    #[new]
    fn new(path: PathBuf, certificates: &Certificates, changed: Py<PyAny>) -> Self {
        let configs = RwLock::new(certificates.0.clone());
        Self(Arc::new(Certified { path, changed, seen: Mutex::default(), configs }))
    }
}

/// The certificates in a file, which are read again when a client connects and the file has changed.
pub struct Certified {
    path: PathBuf,
    changed: Py<PyAny>,
    seen: Mutex<Option<State>>,
    configs: RwLock<Configs>,
}

impl Certified {
    /// Performs the handshake with a client; None if the handshake fails, or if the client does not speak HTTP/2
    /// although `http1` is false.
    pub async fn handshake(self: Arc<Self>, socket: Socket, http1: bool) -> Option<TlsStream<Socket>> {
        let configs = self.current().await;
        let acceptor = TlsAcceptor::from(if http1 { configs.either } else { configs.http2 });
        let stream = acceptor.accept(socket).await.ok()?;
        (http1 || stream.get_ref().1.alpn_protocol() == Some(HTTP2)).then_some(stream)
    }

    async fn current(self: Arc<Self>) -> Configs {
        let mut seen = self.seen.lock().await;
        let state = self.state();
        if *seen != Some(state) {
            let this = self.clone();
            // Python is called on another thread, since connections must not wait for a busy interpreter. If this
            // client goes away in the meantime, the result is kept for the next one.
            let _ = tokio::task::spawn_blocking(move || this.ask()).await;
            *seen = Some(state);
        }
        self.configs.read().clone()
    }

    fn state(&self) -> State {
        let file = fs::metadata(&self.path).ok()?;
        Some((file.ino(), file.mtime(), file.mtime_nsec(), file.size()))
    }

    fn ask(&self) {
        Python::attach(|py| {
            let changed = self.changed.bind(py);
            let made = changed.call0().and_then(|made| Ok(made.extract::<Option<Py<Certificates>>>()?));
            match made {
                Ok(Some(made)) => *self.configs.write() = made.get().0.clone(),
                Ok(None) => {}
                Err(error) => error.write_unraisable(py, Some(changed)),
            }
        });
    }
}

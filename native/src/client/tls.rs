//! TLS of a client: the authorities that it trusts, the certificate that it shows, and the name that a server must
//! have.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use rustls::client::WantsClientCert;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::target::Target;
use crate::http2::{HTTP2, Socket};

/// The authorities that a client trusts, and the certificate that it shows: TLS 1.2 or 1.3, with HTTP/2 by ALPN.
#[pyclass(frozen, module = "headrace_native")]
pub struct ClientTls(Arc<ClientConfig>);

#[pymethods]
impl ClientTls {
    /// Parses PEM texts: the trusted authorities, and a key with its certificate chain for servers that ask for one.
    /// Raises ValueError if one of them cannot be used.
    #[new]
    #[pyo3(signature = (authorities, pair=None))]
    fn new(authorities: PyBackedBytes, pair: Option<(PyBackedBytes, PyBackedBytes)>) -> PyResult<Self> {
        let pair = pair.as_ref().map(|(key, chain)| (&**key, &**chain));
        let config = config(&authorities, pair).map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self(Arc::new(config)))
    }

    /// Whether the certificate of a target's server can be checked for a name; None means the target's.
    #[staticmethod]
    #[pyo3(signature = (target, name=None))]
    fn knows(target: &str, name: Option<&str>) -> bool {
        let target = Target::parse(target);
        name.or(target.as_ref().map(Target::name)).is_some_and(|name| server_name(name).is_some())
    }
}

impl ClientTls {
    /// TLS with a server of this name; None if a certificate cannot have such a name.
    pub fn with(&self, name: &str) -> Option<Secured> {
        Some(Secured { connector: self.0.clone().into(), name: server_name(name)? })
    }
}

/// TLS with one server.
pub struct Secured {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Secured {
    /// Performs the handshake, in which the server must prove its name and choose HTTP/2.
    pub async fn handshake(&self, socket: Socket) -> io::Result<TlsStream<Socket>> {
        let stream = self.connector.connect(self.name.clone(), socket).await?;
        if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(io::Error::new(ErrorKind::InvalidData, "the server did not choose HTTP/2 by ALPN"));
        }
        Ok(stream)
    }
}

fn server_name(name: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(name.to_owned()).ok()
}

type AnyError = Box<dyn Error + Send + Sync>;

fn config(authorities: &[u8], pair: Option<(&[u8], &[u8])>) -> Result<ClientConfig, AnyError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?.with_root_certificates(trusted(authorities)?);
    let mut config = with_pair(builder, pair)?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(config)
}

fn trusted(authorities: &[u8]) -> Result<RootCertStore, AnyError> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities) {
        roots.add(authority?)?;
    }
    if roots.is_empty() {
        return Err("there is no authority among the root certificates".into());
    }
    Ok(roots)
}

fn with_pair(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    pair: Option<(&[u8], &[u8])>,
) -> Result<ClientConfig, AnyError> {
    let Some((key, chain)) = pair else { return Ok(builder.with_no_client_auth()) };
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>()?;
    Ok(builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?)
}

//! How the connections of an address are served.

use std::sync::Arc;

use crate::http::Endpoint;
use crate::http2::Certified;

/// The protocol that is spoken at an address.
#[derive(Clone)]
pub enum Protocol {
    Grpc,
    Http(Arc<Endpoint>),
}

/// How the connections of an address are served: their security, and their protocol.
#[derive(Clone)]
pub struct Service {
    pub tls: Option<Arc<Certified>>,
    pub protocol: Protocol,
}

impl Service {
    /// The endpoint of an address for HTTP.
    pub fn endpoint(&self) -> Option<Arc<Endpoint>> {
        match &self.protocol {
            Protocol::Grpc => None,
            Protocol::Http(endpoint) => Some(endpoint.clone()),
        }
    }
}

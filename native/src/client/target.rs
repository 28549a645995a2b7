//! The address of a server: parses a target, and connects a socket to it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use tokio::net::{TcpStream, UnixStream};

use crate::http2::{SharedTcp, Socket};

/// The port of a target without one, as in gRPC.
const DEFAULT_PORT: u16 = 443;

/// The parsed target. The forms are gRPC's: `host:port`, `dns:///host:port`, `unix:path`, `unix:///path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { .. } => formatter.write_str(&self.authority()),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl Target {
    /// Parses a target; None for an unknown form, such as any other scheme.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(path);
            return (!path.is_empty()).then(|| Self::Unix(path.into()));
        }
        let text = text.strip_prefix("dns:").map_or(text, |rest| rest.strip_prefix("///").unwrap_or(rest));
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']')?;
                (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
            }
            None => match text.split_once(':') {
                // An IPv6 address without brackets has no port.
                Some((_, rest)) if rest.contains(':') => (text, None),
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = port.map_or(Some(DEFAULT_PORT), |port| port.parse().ok())?;
        let is_name = !host.is_empty() && !host.contains(['/', '@', '[', ']', ' ', ',']);
        is_name.then(|| Self::Tcp { host: host.into(), port })
    }

    /// The `:authority` of requests.
    pub fn authority(&self) -> String {
        match self {
            Self::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port } => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".into(),
        }
    }

    /// The name that a server's certificate must have.
    pub fn name(&self) -> &str {
        match self {
            Self::Tcp { host, .. } => host,
            Self::Unix(_) => "localhost",
        }
    }

    /// Connects a socket; tries every address of the name in turn.
    pub async fn connect(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp { host, port } => {
                let socket = TcpStream::connect((host.as_str(), *port)).await?;
                socket.set_nodelay(true)?;
                Ok(Socket::Tcp(SharedTcp::new(socket)))
            }
            Self::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path).await?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let tcp = |host: &str, port| Some(Target::Tcp { host: host.into(), port });
        for (text, expected) in [
            ("localhost:8500", tcp("localhost", 8500)),
            ("dns:///a.b:1", tcp("a.b", 1)),
            ("dns:a.b:1", tcp("a.b", 1)),
            ("a.b", tcp("a.b", 443)),
            ("[::1]:8500", tcp("::1", 8500)),
            ("::1", tcp("::1", 443)),
            ("unix:/run/s", Some(Target::Unix("/run/s".into()))),
            ("unix:///run/s", Some(Target::Unix("/run/s".into()))),
            ("unix:s", Some(Target::Unix("s".into()))),
        ] {
            assert_eq!(Target::parse(text), expected, "{text}");
        }
        for text in ["", ":1", "a:b", "a:70000", "http://a:1", "xds:///a", "[::1", "[::1]x", "unix:", "a b:1", "a,b:1"]
        {
            assert_eq!(Target::parse(text), None, "{text}");
        }
    }
}

//! The address of a node.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::Url;

/// The base URL of a node, normalised (`http://host:port`, no trailing slash), so that equal addresses compare equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PeerUrl(String);

impl PeerUrl {
    /// Takes `http://host:port`, or `host:port` for short. The error says what is wrong with it.
    pub fn parse(text: &str) -> Result<PeerUrl, String> {
        let text = text.trim();
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&full).map_err(|error| error.to_string())?;
        match url {
            _ if url.scheme() != "http" => {
                Err(format!("scheme {} is not supported, only http", url.scheme()))
            }
            _ if !url.username().is_empty() || url.password().is_some() => {
                Err("a user or password does not belong in it (set CLUSTER_TOKEN)".into())
            }
            _ if url.path() != "/" || url.query().is_some() || url.fragment().is_some() => {
                Err("it must be a host and a port, without a path".into())
            }
            _ => {
                let host = url.host_str().filter(|host| !host.is_empty()).ok_or("it names no host")?;
                let port = url.port_or_known_default().ok_or("it names no port")?;
                Ok(PeerUrl(format!("http://{host}:{port}")))
            }
        }
    }

    /// `host:port`: where to connect to.
    pub fn authority(&self) -> &str {
        self.0.trim_start_matches("http://")
    }

    /// The normalised URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_normalised_and_nonsense_is_refused() {
        let url = |text| PeerUrl::parse(text).map(|url| url.0);
        assert_eq!(url("localhost:8001").unwrap(), "http://localhost:8001");
        assert_eq!(url("http://LocalHost:8001/").unwrap(), "http://localhost:8001");
        assert_eq!(url(" http://follower1 ").unwrap(), "http://follower1:80");
        for nonsense in [
            "",
            "http://",
            "https://a:1",
            "http://a:1/x",
            "http://a:1?x",
            "a:99999",
            "http://u:p@a:1",
            "ftp://a",
        ] {
            assert!(url(nonsense).is_err(), "{nonsense} was accepted");
        }
    }
}

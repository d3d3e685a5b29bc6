//! Ports for a cluster on loopback. It finds them free; whether they stay free nobody can promise.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};

/// `base`, `base + 1`, …, all of them free now; the error names the first that is not.
pub(super) fn from_base(base: u16, count: usize) -> Result<Vec<u16>, String> {
    let ports: Vec<u16> = (base..=u16::MAX).take(count).collect();
    if ports.len() < count {
        return Err(format!("{count} ports from {base} on go beyond {}", u16::MAX));
    }
    for port in &ports {
        TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => format!("port {port} is already in use: choose others with --base-port"),
            _ => format!("port {port} cannot be used: {error}"),
        })?;
    }
    Ok(ports)
}

/// Ports of the system's choice. All are held until the last is found, so that they differ.
pub(super) fn any(count: usize) -> Result<Vec<u16>, String> {
    let listeners: Result<Vec<TcpListener>, std::io::Error> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect();
    listeners
        .and_then(|all| all.iter().map(|listener| listener.local_addr().map(|addr| addr.port())).collect())
        .map_err(|error| format!("the system has no free ports: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ_and_a_taken_one_is_named() {
        let mut ports = any(6).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 6);

        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = from_base(port, 1).unwrap_err();
        assert!(error.contains(&port.to_string()), "{error}");
        assert!(from_base(65_535, 2).is_err());
    }
}

//! A slow link to one node: a proxy on loopback that passes on what it gets, each piece [`SLOWNESS`] later.
//!
//! Owns its threads, which end when it is dropped and the connections through it are closed. Only the way to the node is
//! slow; answers come back at once. Pieces wait side by side: the link is slow, not narrow.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How much later everything arrives.
pub(super) const SLOWNESS: Duration = Duration::from_millis(20);

/// A running proxy.
pub(super) struct SlowLink {
    /// Where it takes connections.
    pub address: SocketAddr,
    is_over: Arc<AtomicBool>,
}

impl SlowLink {
    /// Takes connections for `node`, from now on.
    pub(super) fn start(node: SocketAddr) -> std::io::Result<SlowLink> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let link = SlowLink { address: listener.local_addr()?, is_over: Arc::default() };
        let is_over = link.is_over.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                // A connection that cannot be passed on is closed, as the node itself would.
                let _ = pass_on(stream, node);
            }
        });
        Ok(link)
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(self.address);
    }
}

fn pass_on(client: TcpStream, node: SocketAddr) -> std::io::Result<()> {
    let node = TcpStream::connect(node)?;
    client.set_nodelay(true)?;
    node.set_nodelay(true)?;
    let (from_node, to_client) = (node.try_clone()?, client.try_clone()?);
    let (later, due) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let _ = each_piece(client, |piece| later.send((Instant::now() + SLOWNESS, piece)).is_ok());
    });
    thread::spawn(move || {
        let mut node = node;
        for (instant, piece) in due {
            thread::sleep(instant.saturating_duration_since(Instant::now()));
            if node.write_all(&piece).is_err() {
                break;
            }
        }
        let _ = node.shutdown(Shutdown::Both);
    });
    thread::spawn(move || {
        let mut to_client = to_client;
        let _ = each_piece(from_node, |piece| to_client.write_all(&piece).is_ok());
        let _ = to_client.shutdown(Shutdown::Both);
    });
    Ok(())
}

/// Reads until the end, or until `take` has had enough.
fn each_piece(mut from: impl Read, mut take: impl FnMut(Vec<u8>) -> bool) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut bytes)?;
        if count == 0 || !take(bytes[..count].to_vec()) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_later_in_order_and_the_link_ends() {
        let node = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let link = SlowLink::start(node.local_addr().unwrap()).unwrap();
        let mut client = TcpStream::connect(link.address).unwrap();
        let (mut at_node, _) = node.accept().unwrap();
        let start = Instant::now();
        for piece in ["a", "b", "c"] {
            client.write_all(piece.as_bytes()).unwrap();
        }
        let mut got = [0; 3];
        at_node.read_exact(&mut got).unwrap();
        assert!(start.elapsed() >= SLOWNESS && &got == b"abc");
        at_node.write_all(b"d").unwrap();
        client.read_exact(&mut got[..1]).unwrap();
        assert_eq!(&got[..1], b"d");

        let address = link.address;
        drop(link);
        drop(client);
        assert_eq!(at_node.read(&mut got).unwrap(), 0, "the end is passed on");
        while TcpStream::connect(address).is_ok() {
            thread::yield_now();
        }
    }
}

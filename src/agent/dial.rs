//! From a broker's name to a connected stream.

use super::tls;
use super::wire::Stream;
use rumqttc::tokio_rustls::TlsConnector;
use rumqttc::tokio_rustls::rustls::ClientConfig;
use rumqttc::tokio_rustls::rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

/// How long one address may take. A black hole (IPv6 without a route is the usual one) must leave time for the next address.
const PER_ADDRESS: Duration = Duration::from_secs(4);
/// Most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Connects to the first address of `host` that answers, IPv6 and IPv4 in turn.
///
/// # Errors
/// A sentence.
pub async fn tcp(host: &str, port: u16) -> Result<(TcpStream, SocketAddr), String> {
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let found = lookup_host((name, port)).await.map_err(|e| format!("cannot resolve {host}: {}", plain(&e)))?;
    let found: Vec<_> = found.take(MAX_ADDRESSES).collect();
    if found.is_empty() {
        return Err(format!("cannot resolve {host}: it has no address"));
    }
    first_that_answers(in_turn(found), PER_ADDRESS).await
}

async fn first_that_answers(addresses: Vec<SocketAddr>, each: Duration) -> Result<(TcpStream, SocketAddr), String> {
    let mut last = String::new();
    for address in addresses {
        match timeout(each, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Acknowledgements are small and must not wait for more; without it they only come later.
                let _ = stream.set_nodelay(true);
                return Ok((stream, address));
            }
            Ok(Err(e)) => last = format!("cannot connect to {address}: {}", plain(&e)),
            Err(_) => last = format!("cannot connect to {address}: no answer within {} s", each.as_secs()),
        }
    }
    Err(last)
}

/// The resolver's order, but with the families in turn.
fn in_turn(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (a, b): (Vec<_>, Vec<_>) = found.into_iter().partition(|x| x.is_ipv6() == first_is_v6);
    let longest = a.len().max(b.len());
    (0..longest).flat_map(|i| [a.get(i).copied(), b.get(i).copied()]).flatten().collect()
}

/// Wraps the connection in TLS if the broker wants it.
///
/// # Errors
/// A sentence.
pub async fn secure(tcp: TcpStream, host: &str, config: Option<Arc<ClientConfig>>) -> Result<Box<dyn Stream>, String> {
    let Some(config) = config else { return Ok(Box::new(tcp)) };
    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(name).map_err(|_| format!("TLS: {host} is not a name that a certificate can have"))?;
    match TlsConnector::from(config).connect(name, tcp).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(e) => Err(tls::words(&e, host).unwrap_or_else(|| format!("TLS: the broker broke off the handshake: {}", plain(&e)))),
    }
}

/// The error without Rust's ` (os error N)`.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A port whose queue is full: Linux drops each SYN, as a black hole does.
    fn black_hole() -> (std::os::fd::OwnedFd, Vec<std::net::TcpStream>, SocketAddr) {
        use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket};
        use std::os::fd::AsRawFd;
        let full = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(full.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        listen(&full, Backlog::new(0).unwrap()).unwrap();
        let port = getsockname::<SockaddrIn>(full.as_raw_fd()).unwrap().port();
        let address = SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), port);
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
        let queued = std::iter::from_fn(connect).collect();
        (full, queued, address)
    }

    #[test]
    fn an_address_without_an_answer_leaves_time_for_the_next_one() {
        let (_full, _queued, dead) = black_hole();
        let alive = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = alive.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
        let (_, used) = runtime.block_on(first_that_answers(vec![dead, address], Duration::from_secs(1))).unwrap();
        assert_eq!(used, address);
        let error = runtime.block_on(first_that_answers(vec![dead], Duration::from_secs(1))).unwrap_err();
        assert_eq!(error, format!("cannot connect to {dead}: no answer within 1 s"));
    }

    #[test]
    fn families_take_turns() {
        let v6 = |n: u16| SocketAddr::new(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n).into(), 1883);
        let v4 = |n: u8| SocketAddr::new(std::net::Ipv4Addr::new(192, 0, 2, n).into(), 1883);
        let table = [
            (vec![v6(1), v6(2), v6(3), v4(1)], vec![v6(1), v4(1), v6(2), v6(3)]),
            (vec![v4(1), v4(2), v6(1)], vec![v4(1), v6(1), v4(2)]),
            (vec![v4(1)], vec![v4(1)]),
            (vec![], vec![]),
        ];
        for (found, tried) in table {
            assert_eq!(in_turn(found), tried);
        }
    }
}

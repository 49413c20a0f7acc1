//! The address of the client.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

/// Who is at the other end of the connection; on every request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// The client's address: the peer's or, as long as that is a trusted proxy, the one that it says it has the request from,
/// which is the right-most in `X-Forwarded-For`. What stands left of the first address that is not trusted was written by
/// that client, and means nothing.
pub fn address(Peer(peer): Peer, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut address = peer.ip().to_canonical();
    let values = headers.get_all("x-forwarded-for").iter().rev();
    let hops = values.flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
    for hop in hops {
        if !trusted.iter().any(|network| network.contains(&address)) {
            break;
        }
        let Some(before) = parse(hop.trim()) else { break };
        address = before.to_canonical();
    }
    address
}

/// An address, perhaps with a port.
fn parse(hop: &str) -> Option<IpAddr> {
    let bracketed = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = bracketed.unwrap_or(hop).parse();
    address
        .ok()
        .or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_what_trusted_proxies_say_is_believed() {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        for (peer, forwarded, client) in [
            ("192.0.2.1:1", &[][..], "192.0.2.1"),
            ("192.0.2.1:1", &["198.51.100.1"], "192.0.2.1"),
            ("10.0.0.1:1", &[], "10.0.0.1"),
            ("10.0.0.1:1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1:1", &["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1:1", &["6.6.6.6", "198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1:1", &["6.6.6.6, 198.51.100.1, 10.9.9.9"], "198.51.100.1"),
            ("10.0.0.1:1", &["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
            ("10.0.0.1:1", &["198.51.100.1, nonsense"], "10.0.0.1"),
            ("10.0.0.1:1", &["nonsense, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1:1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("[fd00::1]:1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("[fd00::1]:1", &["[2001:db8::1]"], "2001:db8::1"),
            ("[::ffff:10.0.0.1]:1", &["2001:db8::1"], "2001:db8::1"),
        ] {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append("x-forwarded-for", HeaderValue::from_static(value));
            }
            let found = address(Peer(peer.parse().unwrap()), &headers, &trusted);
            assert_eq!(found.to_string(), client, "{peer} {forwarded:?}");
        }
    }
}

//! The PROXY protocol, versions 1 and 2: a header in front of a connection that names the client's address
//! (<https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt>).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::addresses::Addresses;
use crate::message::ProxyProtocol;
use crate::socket::Socket;

/// What version 2 begins with (section 2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest line of version 1, its line end included (section 2.1).
const LONGEST_V1: usize = 107;

/// The most bytes of addresses and options that are accepted in version 2 (section 2.2 asks for 520 at
/// least).
const LONGEST_V2: usize = 4096;

/// How long a client may take for its header (section 3: at least 3 seconds).
const TIME: Duration = Duration::from_secs(10);

/// The header for a connection.
pub(crate) fn header(version: ProxyProtocol, client: &Addresses) -> Vec<u8> {
    let pair = match (client.source, client.destination) {
        (Some(source), Some(destination)) if source.is_ipv4() == destination.is_ipv4() => {
            Some((source, destination))
        }
        (Some(_), _) | (None, _) => None,
    };
    match version {
        ProxyProtocol::V1 => match pair {
            None => b"PROXY UNKNOWN\r\n".to_vec(),
            Some((source, destination)) => {
                let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
                let (from, to) = (source.ip(), destination.ip());
                format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port())
                    .into_bytes()
            }
        },
        ProxyProtocol::V2 => {
            let mut header = SIGNATURE.to_vec();
            let Some((source, destination)) = pair else {
                header.extend([0x20, 0, 0, 0]); // LOCAL: the receiver uses the connection's own addresses
                return header;
            };
            let addresses = [source, destination].map(|address| match address.ip() {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            });
            let family = if source.is_ipv4() { 0x11 } else { 0x21 };
            let length = 2 * (addresses[0].len() as u16) + 4;
            header.extend([0x21, family]);
            header.extend(length.to_be_bytes());
            header.extend(addresses.concat());
            header.extend(source.port().to_be_bytes());
            header.extend(destination.port().to_be_bytes());
            header
        }
    }
}

/// Reads the header of a connection. Returns the addresses that it names (`None`: those of the connection
/// itself count) and the bytes after it.
///
/// # Errors
/// `InvalidData`: it is no header. `TimedOut`. Those of recv(2).
pub(crate) async fn read(client: &Socket) -> io::Result<(Option<Addresses>, Bytes)> {
    tokio::time::timeout(TIME, read_header(client)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

async fn read_header(client: &Socket) -> io::Result<(Option<Addresses>, Bytes)> {
    let mut got = BytesMut::new();
    let mut buffer = [0; 512];
    loop {
        match client.read(&mut buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => got.extend_from_slice(&buffer[..length]),
        }
        if let Some((addresses, length)) = parse(&got)? {
            return Ok((addresses, got.split_off(length).freeze()));
        }
    }
}

/// The addresses and the length of the header at the beginning of `bytes`; `None`: more is needed.
///
/// # Errors
/// `InvalidData`.
fn parse(bytes: &[u8]) -> io::Result<Option<(Option<Addresses>, usize)>> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "no PROXY protocol header");
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    if begins(SIGNATURE) && bytes.len() < SIGNATURE.len() + 4 {
        return Ok(None);
    }
    if begins(SIGNATURE) {
        let (kind, family) = (bytes[12], bytes[13]);
        let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
        if kind >> 4 != 2 || kind & 0xf > 1 || length > LONGEST_V2 {
            return Err(invalid());
        }
        let Some(rest) = bytes.get(16..16 + length) else { return Ok(None) };
        let addresses = match (kind & 0xf, family) {
            (1, 0x11) => Some(v2_addresses(4, rest).ok_or_else(invalid)?),
            (1, 0x21) => Some(v2_addresses(16, rest).ok_or_else(invalid)?),
            _ => None, // of another family than TCP's: the connection's own addresses count
        };
        return Ok(Some((addresses, 16 + length)));
    }
    if !begins(b"PROXY ") {
        return Err(invalid());
    }
    let Some(end) = bytes.windows(2).take(LONGEST_V1 - 1).position(|pair| pair == b"\r\n") else {
        return if bytes.len() >= LONGEST_V1 { Err(invalid()) } else { Ok(None) };
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| invalid())?;
    let addresses = v1_addresses(line).ok_or_else(invalid)?;
    Ok(Some((addresses, end + 2)))
}

/// The addresses in a line of version 1, without its line end; `None` outside: it is invalid.
fn v1_addresses(line: &str) -> Option<Option<Addresses>> {
    let mut words = line.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let [from, to, from_port, to_port] = [words.next()?, words.next()?, words.next()?, words.next()?];
    if words.next().is_some() {
        return None;
    }
    let ip = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let source = SocketAddr::new(ip(from)?, from_port.parse().ok()?);
    let destination = SocketAddr::new(ip(to)?, to_port.parse().ok()?);
    Some(Some(Addresses { source: Some(source), destination: Some(destination) }))
}

/// The addresses of version 2, each `width` bytes long; `None`: there are too few bytes.
fn v2_addresses(width: usize, bytes: &[u8]) -> Option<Addresses> {
    let port = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let ip = |at: usize| -> Option<IpAddr> {
        let octets = bytes.get(at..at + width)?;
        match <[u8; 4]>::try_from(octets) {
            Ok(v4) => Some(Ipv4Addr::from(v4).into()),
            Err(_) => Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into()),
        }
    };
    let source = SocketAddr::new(ip(0)?, port(2 * width)?);
    let destination = SocketAddr::new(ip(width)?, port(2 * width + 2)?);
    Some(Addresses { source: Some(source), destination: Some(destination) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(source: &str, destination: &str) -> Addresses {
        Addresses { source: source.parse().ok(), destination: destination.parse().ok() }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let pairs = [("192.0.2.1:4711", "192.0.2.2:80"), ("[2001:db8::1]:4711", "[2001:db8::2]:80")];
        for (source, destination) in pairs {
            let client = addresses(source, destination);
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let mut bytes = header(version, &client);
                let length = bytes.len();
                bytes.extend(b"GET /");
                for cut in 0..length {
                    assert_eq!(parse(&bytes[..cut]).unwrap(), None, "{version:?} {cut}");
                }
                assert_eq!(parse(&bytes).unwrap(), Some((Some(client.clone()), length)));
            }
        }
    }

    #[test]
    fn a_connection_without_addresses_is_marked_as_unknown() {
        assert_eq!(header(ProxyProtocol::V1, &Addresses::default()), b"PROXY UNKNOWN\r\n");
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            let bytes = header(version, &Addresses::default());
            assert_eq!(parse(&bytes).unwrap(), Some((None, bytes.len())), "{version:?}");
        }
    }

    #[test]
    fn the_bytes_of_version_2_are_those_of_its_specification() {
        let client = addresses("1.2.3.4:258", "5.6.7.8:772");
        let bytes = header(ProxyProtocol::V2, &client);
        assert_eq!(bytes[12..], [0x21, 0x11, 0, 12, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4]);
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let too_long = format!("PROXY TCP4 {}\r\n", "1".repeat(100));
        let bad = [
            "GET / HTTP/1.1\r\n\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 80\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 80 99999\r\n",
            "PROXY TCP4 ::1 ::1 80 81\r\n",
            "PROXY TCP5 192.0.2.1 192.0.2.2 80 81\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 80 81 82\r\n",
            &too_long,
        ];
        for text in bad {
            assert_eq!(parse(text.as_bytes()).unwrap_err().kind(), io::ErrorKind::InvalidData, "{text}");
        }
        let mut version_3 = header(ProxyProtocol::V2, &Addresses::default());
        version_3[12] = 0x31;
        parse(&version_3).unwrap_err();
        let mut too_short = header(ProxyProtocol::V2, &addresses("1.2.3.4:258", "5.6.7.8:772"));
        too_short[15] -= 1;
        parse(&too_short).unwrap_err();
    }
}

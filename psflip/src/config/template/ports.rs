//! `free_port(range)`: a TCP port for the child of one generation.
//!
//! Generations that follow each other never get the same port, whether or not their children listen at this
//! moment: generation N takes only ports that leave the remainder N when divided by [`CLASSES`]. Ports of
//! other processes, also of a child that has been draining for longer, are recognized by a trial bind(2).

use std::collections::BTreeMap;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, setsockopt, socket, sockopt,
};

use super::fault::Fault;
use crate::config::error::quoted;

/// As many generations as can exist at a time (`upgrade.draining`, contract D3).
const CLASSES: u32 = 8;

const EXAMPLE: &str = "write the first and the last port: `free_port('20000-29999')`";

/// The ports of one rendering.
#[derive(Clone, Debug, Default)]
pub(in crate::config) struct Ports {
    /// Where the search begins: the same for all generations of a service, different for most services.
    pub(in crate::config) seed: u64,
    /// Whether to look for a port that is free. A client command looks only for the control socket, and must
    /// not fail because all ports are in use.
    pub(in crate::config) is_tested: bool,
    /// The ports by their ranges.
    chosen: BTreeMap<(u16, u16), u16>,
}

impl Ports {
    /// For a service with this name.
    pub(in crate::config) fn of(service: &str, is_tested: bool) -> Self {
        // FNV-1a: any hash that stays the same across versions of psflip.
        let seed = service.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self { seed, is_tested, chosen: BTreeMap::new() }
    }

    /// The port of a range for this generation. The same call gives the same port.
    pub(super) fn free(&mut self, range: &str, generation: u64) -> Result<u16, Fault> {
        let (first, last) = parse(range)?;
        if let Some(port) = self.chosen.get(&(first, last)) {
            return Ok(*port);
        }
        let candidates = self.candidates(first, last, generation);
        let mut failed = None;
        let found = candidates.into_iter().find(|port| match self.is_tested.then(|| is_free(*port)) {
            None | Some(Ok(true)) => true,
            Some(Ok(false)) => false,
            Some(Err(errno)) => {
                failed = Some(errno);
                false
            }
        });
        let Some(port) = found else {
            let fault =
                Fault::new(format!("no port from {first} to {last} is free for generation {generation}"));
            return Err(match failed {
                Some(errno) => fault.help(format!("bind(2) failed: {}", errno.desc())),
                None => fault.help(
                    "each generation uses every 8th port of the range, those of a smaller range in turn; use a larger range",
                ),
            });
        };
        self.chosen.insert((first, last), port);
        Ok(port)
    }

    /// The ports that this generation may take, in the order of trying.
    fn candidates(&self, first: u16, last: u16, generation: u64) -> Vec<u16> {
        let classes = CLASSES.min(u32::from(last - first) + 1);
        let is_own = |port: &u16| u64::from(u32::from(*port) % classes) == generation % u64::from(classes);
        let is_taken = |port: &u16| self.chosen.values().any(|chosen| chosen == port);
        let mut candidates: Vec<u16> = (first..=last).filter(is_own).filter(|port| !is_taken(port)).collect();
        if !candidates.is_empty() {
            let start = self.seed.wrapping_add(generation) % candidates.len() as u64;
            candidates.rotate_left(start as usize);
        }
        candidates
    }
}

fn parse(range: &str) -> Result<(u16, u16), Fault> {
    let port = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| is_number && *port > 0)
    };
    let invalid = || Fault::new(format!("{} is no range of ports", quoted(range)));
    let Some((first, last)) = range.split_once('-') else { return Err(invalid().help(EXAMPLE)) };
    let (Some(first), Some(last)) = (port(first.trim()), port(last.trim())) else {
        return Err(invalid().help(format!("ports are numbers from 1 to 65535; {EXAMPLE}")));
    };
    if first > last {
        return Err(invalid().help(format!("did you mean `{last}-{first}`?")));
    }
    if first == last {
        return Err(Fault::new(format!("the range {} has only one port", quoted(range))).help(
            "the old and the new child need one each; 8 ports for each call are better, because others may be in use",
        ));
    }
    Ok((first, last))
}

/// Whether nobody listens on the port, on any address. The sockets never listen, so they can't disturb a
/// process that is about to listen there.
fn is_free(port: u16) -> Result<bool, Errno> {
    let v4 = SockaddrIn::new(0, 0, 0, 0, port);
    let v6 = SockaddrIn6::from(std::net::SocketAddrV6::new(std::net::Ipv6Addr::UNSPECIFIED, port, 0, 0));
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let socket = match socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None) {
            Err(Errno::EAFNOSUPPORT) => continue, // the host has no IPv6, or no IPv4
            socket => socket?,
        };
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        let bound = if family == AddressFamily::Inet {
            bind(socket.as_raw_fd(), &v4)
        } else {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
            bind(socket.as_raw_fd(), &v6)
        };
        match bound {
            Ok(()) | Err(Errno::EADDRNOTAVAIL) => {}
            Err(Errno::EADDRINUSE) => return Ok(false),
            Err(errno) => return Err(errno),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn untested(seed: u64) -> Ports {
        Ports { seed, is_tested: false, chosen: BTreeMap::new() }
    }

    #[test]
    fn a_listener_on_any_address_makes_a_port_unavailable() {
        let addresses = ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"];
        for address in addresses {
            let listener = match std::net::TcpListener::bind(address) {
                Ok(listener) => listener,
                // No IPv6 here.
                Err(_) if address.starts_with('[') => continue,
                Err(error) => panic!("{address}: {error}"),
            };
            let port = listener.local_addr().unwrap().port();
            assert_eq!(is_free(port), Ok(false), "{address}");
            // Its own generation steps over it.
            let mut ports = Ports { seed: 0, is_tested: true, chosen: BTreeMap::new() };
            let (first, last) = (port.saturating_sub(64).max(1024), port.saturating_add(63).min(65534));
            let chosen = ports.free(&format!("{first}-{last}"), u64::from(port % 8));
            assert!(chosen.as_ref().is_ok_and(|chosen| *chosen != port), "{port}: {chosen:?}");
        }
    }

    #[test]
    fn a_range_without_a_free_port_is_an_error() {
        // Two listeners on ports side by side: the kernel's choice, and the next one that is free.
        let (one, other) = (0..100)
            .find_map(|_| {
                let one = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                let next = one.local_addr().unwrap().port().checked_add(1)?;
                Some((one, std::net::TcpListener::bind(("127.0.0.1", next)).ok()?))
            })
            .unwrap();
        let (first, last) = (one.local_addr().unwrap().port(), other.local_addr().unwrap().port());
        for generation in 0..4 {
            let mut ports = Ports { seed: 0, is_tested: true, chosen: BTreeMap::new() };
            let fault = ports.free(&format!("{first}-{last}"), generation).unwrap_err();
            let expected = format!("no port from {first} to {last} is free for generation {generation}");
            assert_eq!(fault.message, expected);
            // A client command gets along without.
            assert!(untested(0).free(&format!("{first}-{last}"), generation).is_ok());
        }
    }

    #[test]
    fn services_begin_at_different_places() {
        let port = |service: &str| Ports::of(service, false).free("20000-29999", 1).unwrap();
        assert_eq!(port("/etc/one.toml"), port("/etc/one.toml"));
        assert_ne!(port("/etc/one.toml"), port("/etc/two.toml"));
    }

    proptest! {
        #[test]
        fn neighbours_never_share_a_port(
            seed in any::<u64>(), generation in 1..u64::MAX - 8, first in 1..65000_u16, more in 1..500_u16,
        ) {
            let range = format!("{first}-{}", first + more);
            let own = |generation| untested(seed).candidates(first, first + more, generation);
            let classes = u64::from(more + 1).min(8);
            for near in 1..classes {
                let (one, other) = (own(generation), own(generation + near));
                prop_assert!(one.iter().all(|port| !other.contains(port)), "{range}: {one:?} {other:?}");
            }
            let chosen = untested(seed).free(&range, generation).unwrap();
            prop_assert!((first..=first + more).contains(&chosen));
        }

        #[test]
        fn two_ranges_have_two_ports(seed in any::<u64>(), generation in 1..100_u64, shift in 1..200_u16) {
            let mut ports = untested(seed);
            let one = ports.free("20000-20199", generation).unwrap();
            let other = ports.free(&format!("{}-20399", 20000 + shift), generation).unwrap();
            prop_assert_ne!(one, other);
            prop_assert_eq!(ports.free("20000-20199", generation).unwrap(), one);
            // Not even with the other range of a neighbour.
            let mut next = untested(seed);
            next.free("20000-20199", generation + 1).unwrap();
            let next = next.free(&format!("{}-20399", 20000 + shift), generation + 1).unwrap();
            prop_assert!(next != one && next != other);
        }
    }
}

//! The network of the sandbox: the loopback interface alone. The host's addresses are added to it, so that a
//! service can bind to them. Nothing leaves the sandbox.

use std::fs;
use std::io;
use std::net::IpAddr;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

use super::{Result, SandboxError};

/// Messages of rtnetlink(7), from linux/rtnetlink.h.
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
/// NLM_F_REQUEST | NLM_F_ACK.
const REQUEST: u16 = 1 | 4;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// A new network namespace's loopback interface is its first one.
const LOOPBACK: u32 = 1;
/// No duplicate address detection: IPv6 addresses can be used at once (linux/if_addr.h).
const IFA_F_NODAD: u8 = 2;

/// The addresses of this host, without those that every sandbox has.
pub(super) fn addresses() -> Vec<IpAddr> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let mut found: Vec<IpAddr> = all
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        })
        .filter(|address| !address.is_loopback() && !is_link_local(address))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Starts the loopback interface and adds the addresses.
pub(super) fn set_up(addresses: &[IpAddr]) -> Result<()> {
    let error =
        |error: io::Error| SandboxError::new("the sandbox's loopback interface can't be started", error);
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .map_err(|errno| error(errno.into()))?;
    let up = [&[0; 4][..], &LOOPBACK.to_ne_bytes(), &IFF_UP.to_ne_bytes(), &IFF_UP.to_ne_bytes()].concat();
    request(&socket, RTM_NEWLINK, &up).map_err(error)?;
    for address in addresses {
        // A service that binds to it will say that it can't; there is nothing else to do.
        let _ = request(&socket, RTM_NEWADDR, &new_address(address));
    }
    // As outside, where the real service may be started by root or systemd.
    let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    Ok(())
}

/// struct ifaddrmsg and its attributes.
fn new_address(address: &IpAddr) -> Vec<u8> {
    let (family, bytes) = match address {
        IpAddr::V4(v4) => (AddressFamily::INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AddressFamily::INET6, v6.octets().to_vec()),
    };
    let prefix = bytes.len() as u8 * 8;
    let family = u8::try_from(family.as_raw()).unwrap_or_default();
    let mut message = vec![family, prefix, IFA_F_NODAD, 0];
    message.extend_from_slice(&LOOPBACK.to_ne_bytes());
    for attribute in [IFA_LOCAL, IFA_ADDRESS] {
        message.extend_from_slice(&(4 + bytes.len() as u16).to_ne_bytes());
        message.extend_from_slice(&attribute.to_ne_bytes());
        message.extend_from_slice(&bytes);
    }
    message
}

/// Sends one request, and waits for its acknowledgement (struct nlmsgerr).
fn request(socket: &std::os::fd::OwnedFd, kind: u16, payload: &[u8]) -> io::Result<()> {
    let length = 16 + payload.len() as u32;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&REQUEST.to_ne_bytes());
    message.extend_from_slice(&[0; 8]); // sequence number and port: there is one request at a time
    message.extend_from_slice(payload);
    sendto(socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 4096];
    let (count, _) = recv(socket, &mut answer, RecvFlags::empty())?;
    let code = answer[..count].get(16..20).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

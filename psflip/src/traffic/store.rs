//! The names under which systemd stores the sockets of `[[listen]]` (`FDSTORE=1` of sd_notify(3)), so that
//! they survive psflip itself.
//!
//! After a crash, a socket comes back with its name only. So the name contains the address as in the
//! configuration, and the identity of the socket's file.

use super::FileId;

/// The prefix of the names that psflip gives.
const PREFIX: &str = "psflip-";
/// The longest name that systemd accepts.
const LONGEST: usize = 255;

/// The name of a socket: `psflip-` with `DEVICE.INODE-` of its file, if it has one, and its address.
/// Characters that a name can't have (all but printable ASCII, and the colon) are written as `%` and two
/// hexadecimal digits. `None`: the name would be too long.
#[must_use]
pub fn name(address: &str, file: Option<FileId>) -> Option<String> {
    let file = file.map_or_else(String::new, |FileId { device, inode }| format!("{device}.{inode}"));
    let mut name = format!("{PREFIX}{file}-");
    for byte in address.bytes() {
        if byte.is_ascii_graphic() && !b":%".contains(&byte) {
            name.push(char::from(byte));
        } else {
            name += &format!("%{byte:02X}");
        }
    }
    (name.len() <= LONGEST).then_some(name)
}

/// Decodes [`name`]. `None`: psflip did not give this name.
#[must_use]
pub fn parse(name: &str) -> Option<(String, Option<FileId>)> {
    let (file, escaped) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let file = match file.split_once('.') {
        Some((device, inode)) => Some(FileId { device: device.parse().ok()?, inode: inode.parse().ok()? }),
        None if file.is_empty() => None,
        None => return None,
    };
    let mut address = Vec::new();
    let mut bytes = escaped.bytes();
    while let Some(byte) = bytes.next() {
        address.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    Some((String::from_utf8(address).ok()?, file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stored_names_hold_the_address_and_the_file() {
        let file = Some(FileId { device: 26, inode: 4711 });
        assert_eq!(name("tcp://[::1]:80", None).unwrap(), "psflip--tcp%3A//[%3A%3A1]%3A80");
        assert_eq!(name("unix:///run/ä b", file).unwrap(), "psflip-26.4711-unix%3A///run/%C3%A4%20b");
        assert_eq!(name(&"x".repeat(248), None), None);
        assert!(name(&"x".repeat(247), None).is_some());
    }

    #[test]
    fn foreign_names_are_not_parsed() {
        // Contract: X2
        for name in [
            "",
            "web",
            "psflip",
            "psflip-",
            "psflip-x-y",
            "psflip-1.x-y",
            "psflip--%",
            "psflip--%4",
            "psflip--%GG",
            "psflip--%FF",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_stored_name_round_trips(address: String, file: Option<(u64, u64)>) {
            let file = file.map(|(device, inode)| FileId { device, inode });
            if let Some(name) = name(&address, file) {
                prop_assert!(name.len() <= LONGEST && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'));
                prop_assert_eq!(parse(&name), Some((address, file)));
            }
        }

        #[test]
        fn no_stored_name_causes_a_panic(name: String) {
            // Contract: X2
            let _ = parse(&format!("{PREFIX}{name}"));
        }
    }
}

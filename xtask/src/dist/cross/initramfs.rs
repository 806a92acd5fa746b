//! The first file system of a kernel, in the format newc of cpio(5), which Linux unpacks into memory at its start
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

/// An archive that is being made.
#[derive(Default)]
pub(super) struct Initramfs(Vec<u8>);

impl Initramfs {
    /// Adds a folder, which must come before the files in it.
    pub(super) fn folder(mut self, path: &str) -> Self {
        self.entry(path, 0o040_755, &[]);
        self
    }

    /// Adds a program.
    pub(super) fn program(mut self, path: &str, content: &[u8]) -> Self {
        self.entry(path, 0o100_755, content);
        self
    }

    /// The finished archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.0
    }

    fn entry(&mut self, path: &str, mode: usize, content: &[u8]) {
        // Inode, mode, owner, group, links, time, size, device, device of the file, length of the name, checksum.
        let fields = [0, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, path.len() + 1, 0];
        self.0.extend(b"070701");
        for field in fields {
            self.0.extend(format!("{field:08X}").bytes());
        }
        self.0.extend(path.bytes());
        self.0.push(0);
        self.pad();
        self.0.extend(content);
        self.pad();
    }

    /// Names and contents begin at multiples of four.
    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entries of an archive: path, mode and content.
    fn entries(archive: &[u8]) -> Vec<(String, usize, Vec<u8>)> {
        let (mut entries, mut at) = (Vec::new(), 0);
        while at < archive.len() {
            let field = |number: usize| {
                let start = at + 6 + 8 * number;
                usize::from_str_radix(std::str::from_utf8(&archive[start..start + 8]).unwrap(), 16).unwrap()
            };
            assert_eq!(&archive[at..at + 6], b"070701");
            let (name, size) = (at + 110, field(6));
            let content = (name + field(11)).next_multiple_of(4);
            assert_eq!(archive[name + field(11) - 1], 0);
            let path = String::from_utf8(archive[name..name + field(11) - 1].to_vec()).unwrap();
            entries.push((path, field(1), archive[content..content + size].to_vec()));
            at = (content + size).next_multiple_of(4);
        }
        entries
    }

    #[test]
    fn an_archive_has_folders_and_programs() {
        let archive =
            Initramfs::default().folder("bin").program("bin/a", b"xyz").program("init", b"").finish();
        let entry = |path: &str, mode, content: &[u8]| (path.to_owned(), mode, content.to_vec());
        assert_eq!(
            entries(&archive),
            [
                entry("bin", 0o40755, b""),
                entry("bin/a", 0o100_755, b"xyz"),
                entry("init", 0o100_755, b""),
                entry("TRAILER!!!", 0, b"")
            ]
        );
    }
}

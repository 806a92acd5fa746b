//! Memory that a process needs only for its start, and stack that it will need later.

use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollTimeout};

/// What happens to the pages of code and constants while a process waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// They stay mapped.
    Stays,
    /// They are given back, and come from the page cache again when they are needed, one fault for 16 pages.
    IsDropped,
}

/// poll(2). With [`Code::IsDropped`], what this process has loaded for its work does not count as its memory
/// while it waits, perhaps for months.
///
/// # Errors
/// Those of poll(2): EINTR only from a debugger, since psflip blocks all signals; ENOMEM.
pub fn poll(fds: &mut [PollFd<'_>], timeout: PollTimeout, code: Code) -> nix::Result<libc::c_int> {
    match code {
        Code::Stays => nix::poll::poll(fds, timeout),
        Code::IsDropped => poll_without_code(fds, timeout),
    }
}

/// It gives back the pages (madvise(2), MADV_DONTNEED) and waits in one function, since any other code
/// between the two would be loaded again: 200 to 400 KiB, measured.
fn poll_without_code(fds: &mut [PollFd<'_>], timeout: PollTimeout) -> nix::Result<libc::c_int> {
    let mut code = Segments::default();
    code.find(page_size());
    // Not `as_millis`, which panics without a time.
    let left = u32::try_from(i32::from(timeout)).ok();
    let mut timeout = left.map(|left| libc::timespec {
        tv_sec: libc::time_t::from(left / 1000),
        tv_nsec: libc::c_long::from(left % 1000 * 1_000_000),
    });
    let timeout = timeout.as_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut);
    let ready = drop_and_poll(code.found(), fds.as_mut_ptr().cast(), fds.len(), timeout);
    Errno::result(ready).map(|ready| libc::c_int::try_from(ready).unwrap_or(libc::c_int::MAX))
}

/// What is left in memory while a process waits is this function and `syscall(3)`.
#[inline(never)]
fn drop_and_poll(
    code: &[Segment],
    fds: *mut libc::pollfd,
    count: usize,
    timeout: *mut libc::timespec,
) -> libc::c_long {
    for segment in code {
        // SAFETY: the range is a read-only file mapping that nobody has written to, so its pages are read
        // again from the file whenever they are touched, this function's own included.
        unsafe { libc::syscall(libc::SYS_madvise, segment.start, segment.length, libc::MADV_DONTNEED) };
    }
    let no_mask: *const libc::sigset_t = std::ptr::null();
    // SAFETY: `fds` points to `count` elements that the caller lends, `timeout` is NULL or points to a value
    // that the caller lends and the kernel writes to (ppoll(2), "C library/kernel differences"), and without
    // a mask its size is ignored.
    unsafe { libc::syscall(libc::SYS_ppoll, fds, count, timeout, no_mask, 0_usize) }
}

/// A part of this process's memory, in bytes.
#[derive(Clone, Copy, Default)]
struct Segment {
    start: usize,
    length: usize,
}

/// The code and constants of the program and its libraries. There are three such segments an object, and
/// three objects in a dynamic build; what is beyond the room stays in memory.
#[derive(Default)]
struct Segments {
    room: [Segment; 24],
    count: usize,
    /// The size of a page, a power of two.
    page: usize,
}

impl Segments {
    fn found(&self) -> &[Segment] {
        &self.room[..self.count]
    }

    fn find(&mut self, page: usize) {
        extern "C" fn each_object(
            info: *mut libc::dl_phdr_info,
            _size: libc::size_t,
            segments: *mut libc::c_void,
        ) -> libc::c_int {
            // SAFETY: dl_iterate_phdr(3) passes a valid pointer.
            let info = unsafe { &*info };
            // SAFETY: it passes on what `find` gave it, which nothing else uses meanwhile.
            let segments = unsafe { &mut *segments.cast::<Segments>() };
            for index in 0..info.dlpi_phnum {
                // SAFETY: the array has dlpi_phnum elements.
                let header = unsafe { info.dlpi_phdr.add(usize::from(index)) };
                // SAFETY: as above, and nobody writes to them.
                segments.add(info.dlpi_addr as usize, unsafe { &*header });
            }
            0
        }
        self.page = page;
        // SAFETY: the callback fits, and reads and writes only what it is given.
        unsafe { libc::dl_iterate_phdr(Some(each_object), (&raw mut *self).cast()) };
    }

    fn add(&mut self, base: usize, header: &libc::Elf64_Phdr) {
        // Writable segments hold what the dynamic linker has filled in; dropping them would undo that.
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            return;
        }
        let address = base + header.p_vaddr as usize;
        // A segment begins anywhere in its first page. No other segment is in that page: a linker
        // places them for the largest pages of the architecture.
        let start = address & !(self.page - 1);
        if let Some(free) = self.room.get_mut(self.count) {
            *free = Segment { start, length: address + header.p_memsz as usize - start };
            self.count += 1;
        }
    }
}

/// Returns the free part of the heap to the kernel (malloc_trim(3)), for a process that
/// needs little of it from now on.
pub fn release_startup_heap() {
    // SAFETY: malloc_trim(3) has no preconditions.
    unsafe { libc::malloc_trim(0) };
}

/// How long nothing must have happened before a process counts as idle, and gives back the code of its start
/// or of its last work. Earlier, it would have to load the code again at once.
pub const QUIET: Duration = Duration::from_millis(100);

/// How much stack a long-running process may need after its start, in bytes.
const STACK: usize = 64 * 1024;

/// Makes room for `STACK` more bytes of stack.
///
/// The kernel extends a stack down to the address that is touched. If that is forbidden (RLIMIT_STACK,
/// getrlimit(2)), it kills the process by SIGSEGV. Here that happens early, before another process depends on
/// this one. One touch at the far end is enough: it reserves all pages up to there, and costs one page fault
/// instead of 16. The room stays reserved, but the pages are returned, including those that the start has
/// used.
#[inline(never)]
pub fn reserve_stack() {
    let mut here = 0_u8;
    let here = (&raw mut here).cast::<u8>();
    let end = here.wrapping_sub(STACK);
    // SAFETY: the stack grows down to this address, which is below the frames of all functions. Nothing is
    // there: no other thread uses this stack, and no signal handler is ever installed.
    unsafe { end.write_volatile(0) };
    // The functions that are called here need less than a page.
    let (first, length) = spare(here as usize, end as usize, page_size());
    // SAFETY: these are whole pages below the frames of all functions, as above.
    unsafe { libc::madvise(first as *mut libc::c_void, length, libc::MADV_DONTNEED) };
}

/// The whole pages from that of `end` up to a page below `here`: where they begin, and their length. There
/// are none if a page is as large as the reserved stack.
fn spare(here: usize, end: usize, page: usize) -> (usize, usize) {
    let (first, last) = (end & !(page - 1), here.wrapping_sub(page) & !(page - 1));
    (first, last.saturating_sub(first))
}

/// The size of a page: 4 KiB on x86_64; 4, 16 or 64 KiB on aarch64, as its kernel is configured.
fn page_size() -> usize {
    // SAFETY: sysconf(3) has no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096) // it does not fail for this name
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    use nix::poll::PollFlags;

    #[test]
    fn stack_space_can_be_reserved_repeatedly() {
        for _ in 0..3 {
            reserve_stack();
        }
    }

    /// If a constant or function did not come back, this process would crash.
    #[test]
    fn released_pages_are_read_again_on_use() {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        let before = format!("{:?}", std::env::args().collect::<Vec<_>>());
        assert_eq!(poll_without_code(&mut fds, PollTimeout::from(1_u8)), Ok(0));
        assert_eq!(before, format!("{:?}", std::env::args().collect::<Vec<_>>()));
        drop(writer);
        assert_eq!(poll_without_code(&mut fds, PollTimeout::NONE), Ok(1));
        assert_eq!(fds[0].revents(), Some(PollFlags::POLLHUP));
    }

    #[test]
    fn code_is_found_in_every_object() {
        let mut code = Segments::default();
        code.find(page_size());
        let is_in = |address: usize| {
            code.found().iter().any(|one| (one.start..one.start + one.length).contains(&address))
        };
        assert!(is_in(drop_and_poll as *const () as usize) && is_in(libc::syscall as *const () as usize));
        assert!(!is_in(&raw const code as usize) && code.count < code.room.len());
    }

    /// As lld places code for aarch64: not at the start of a page.
    #[test]
    fn segments_begin_with_a_page_of_any_size() {
        for (page, start) in [(0x1000, 0x40_f000), (0x4000, 0x40_c000), (0x1_0000, 0x40_0000)] {
            let mut code = Segments { page, ..Segments::default() };
            // SAFETY: all zeros is a valid header.
            let mut header: libc::Elf64_Phdr = unsafe { std::mem::zeroed() };
            (header.p_type, header.p_flags) = (libc::PT_LOAD, libc::PF_R | libc::PF_X);
            (header.p_vaddr, header.p_memsz) = (0x40_f5c8, 0x1234);
            code.add(0, &header);
            header.p_flags = libc::PF_R | libc::PF_W;
            code.add(0, &header);
            let found =
                code.found().iter().map(|one| (one.start, one.start + one.length)).collect::<Vec<_>>();
            assert_eq!(found, [(start, 0x40_f5c8 + 0x1234)]);
        }
    }

    /// What is given back is below the frames of the functions that are called meanwhile.
    #[test]
    fn only_pages_below_all_frames_are_given_back() {
        for page in [0x1000, 0x4000, 0x1_0000, 0x4_0000] {
            for here in (0x7fff_0000_0000..0x7fff_0008_0000).step_by(0x230) {
                let end = here - STACK;
                let (first, length) = spare(here, end, page);
                assert!(first % page == 0 && length % page == 0 && length <= STACK);
                assert!(
                    length == 0 || first <= end && first + length <= here + 1 - page,
                    "{here:x} {page:x}"
                );
                assert!(page > 0x4000 || length >= STACK - page, "{here:x} {page:x}");
            }
        }
        assert_eq!(spare(0x7fff_0001_8000, 0x7fff_0000_8000, 0x1_0000), (0x7fff_0000_0000, 0));
    }
}

//! Memory that a process needs only for its start, and stack that it will need later.

use std::time::Duration;

/// Drops the pages of code and constants that are mapped now (madvise(2), MADV_DONTNEED).
///
/// Pages that are still needed come back from the page cache, one fault for 16 pages. Pages
/// that only the start needed (the configuration's parser, the command line's help) no
/// longer count as memory of this process.
pub fn release_startup_code() {
    extern "C" fn each_object(
        info: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        _data: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: dl_iterate_phdr(3) passes a valid pointer.
        let info = unsafe { &*info };
        for index in 0..info.dlpi_phnum {
            // SAFETY: the array has dlpi_phnum elements.
            let segment = unsafe { info.dlpi_phdr.add(usize::from(index)) };
            // SAFETY: as above, and nobody writes to them.
            let segment = unsafe { &*segment };
            // Writable segments hold what the dynamic linker has filled in; dropping them would undo that.
            if segment.p_type != libc::PT_LOAD || segment.p_flags & libc::PF_W != 0 {
                continue;
            }
            let start = (info.dlpi_addr as usize + segment.p_vaddr as usize) & !(PAGE - 1);
            let end = info.dlpi_addr as usize + segment.p_vaddr as usize + segment.p_memsz as usize;
            // SAFETY: the range is a read-only file mapping that nobody has written to, so its pages are read
            // again from the file whenever they are touched, this function's own included.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        }
        0
    }
    // SAFETY: the callback fits and reads only what it is given.
    unsafe { libc::dl_iterate_phdr(Some(each_object), std::ptr::null_mut()) };
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
    // SAFETY: sysconf(3) has no preconditions.
    if unsafe { libc::sysconf(libc::_SC_PAGESIZE) } != PAGE as libc::c_long {
        return; // larger pages: the range below would reach into the frames of this function
    }
    // The functions that are called here need less than a page.
    let (first, last) = ((end as usize) & !(PAGE - 1), (here as usize - PAGE) & !(PAGE - 1));
    // SAFETY: these are whole pages below the frames of all functions, as above.
    unsafe { libc::madvise(first as *mut libc::c_void, last - first, libc::MADV_DONTNEED) };
}

/// The smallest page size. Segments are aligned to the real page size, so aligning down
/// to this one is correct for them.
const PAGE: usize = 4096;

#[cfg(test)]
mod tests {
    #[test]
    fn stack_space_can_be_reserved_repeatedly() {
        for _ in 0..3 {
            super::reserve_stack();
        }
    }

    /// If a constant or function did not come back, this process would crash.
    #[test]
    fn released_pages_are_read_again_on_use() {
        let before = format!("{:?}", std::env::args().collect::<Vec<_>>());
        super::release_startup_code();
        assert_eq!(before, format!("{:?}", std::env::args().collect::<Vec<_>>()));
    }
}

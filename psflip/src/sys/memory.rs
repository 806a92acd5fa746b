//! Memory that a process needed for its start only, and stack that it will need.

use std::mem::MaybeUninit;

/// Unmaps the pages of code and constants that are mapped at the moment. What is still needed comes back from the page cache
/// by itself, one fault for 16 pages; what only the start needed (the configuration's parser, the command line's help) does
/// not, and no longer counts as this process's memory. madvise(2), MADV_DONTNEED.
pub fn let_go_of_startup_code() {
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
            // Segments that can be written to hold what the dynamic linker has filled in: dropping them would undo that.
            if segment.p_type != libc::PT_LOAD || segment.p_flags & libc::PF_W != 0 {
                continue;
            }
            let start = (info.dlpi_addr as usize + segment.p_vaddr as usize) & !(PAGE - 1);
            let end = info.dlpi_addr as usize + segment.p_vaddr as usize + segment.p_memsz as usize;
            // SAFETY: the range is a read-only file mapping that nobody has written to, so its pages are read again from the
            // file whenever they are touched, this function's own included.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        }
        0
    }
    // SAFETY: the callback fits and reads only what it is given.
    unsafe { libc::dl_iterate_phdr(Some(each_object), std::ptr::null_mut()) };
}

/// Gives the kernel back what of the heap is free (malloc_trim(3)): for a process that needs nearly none of it any more.
pub fn let_go_of_startup_heap() {
    // SAFETY: malloc_trim(3) has no preconditions.
    unsafe { libc::malloc_trim(0) };
}

/// How much stack a process may need that stays, in bytes, from where it begins to do what it is there for.
const STACK: usize = 64 * 1024;

/// Makes room for `STACK` more bytes of stack. The kernel extends a stack when it is touched, and ends a process by SIGSEGV for which that
/// is forbidden (RLIMIT_STACK, getrlimit(2)): one that can't have what it will need ends here, before anybody relies on it. The room is
/// never taken back; the pages are, and with them those that the start has used.
#[inline(never)]
pub fn reserve_stack() {
    let mut room = MaybeUninit::<[u8; STACK]>::uninit();
    let start = room.as_mut_ptr().cast::<u8>();
    for offset in (0..STACK).step_by(PAGE) {
        let byte = start.wrapping_add(STACK - 1 - offset);
        // SAFETY: it is one of the array, of which nobody else knows.
        unsafe { byte.write_volatile(0) };
    }
    let first = (start as usize).next_multiple_of(PAGE);
    let length = ((start as usize + STACK) & !(PAGE - 1)) - first;
    // SAFETY: these are whole pages of the array, which holds nothing and is never read.
    unsafe { libc::madvise(first as *mut libc::c_void, length, libc::MADV_DONTNEED) };
}

/// The smallest page there is: aligning down to it is right wherever segments are aligned to a larger one.
const PAGE: usize = 4096;

#[cfg(test)]
mod tests {
    #[test]
    fn room_for_the_stack_can_be_made_again_and_again() {
        for _ in 0..3 {
            super::reserve_stack();
        }
    }

    /// A process in which a constant or a function had not come back would not get to its end.
    #[test]
    fn everything_comes_back_when_it_is_used() {
        let before = format!("{:?}", std::env::args().collect::<Vec<_>>());
        super::let_go_of_startup_code();
        assert_eq!(before, format!("{:?}", std::env::args().collect::<Vec<_>>()));
    }
}

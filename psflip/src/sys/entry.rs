//! The entry point of the binary: C's `main`, without Rust's runtime around it.
//!
//! Rust's runtime would ignore SIGPIPE, open closed standard descriptors, install handlers for SIGSEGV and
//! SIGBUS, and read `/proc/self/maps` to find the stack. A supervisor must undo these things for its child
//! (contract C1, C2), and they take a sixth of the time of a start. `std::env::args` works without it: the C
//! library passes the arguments to `.init_array`.

/// Defines `main` as a call of this function, which returns the exit code.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        // SAFETY: this is the one `main` of the binary, with the signature that the C library calls.
        #[unsafe(no_mangle)]
        extern "C" fn main(
            _argc: ::core::ffi::c_int,
            _argv: *const *const ::core::ffi::c_char,
        ) -> ::core::ffi::c_int {
            ::core::ffi::c_int::from($main())
        }
    };
}

//! Random numbers of the kernel.

/// A random number from 0 to less than 1. While the kernel has no randomness yet (early at boot, see
/// getrandom(2)), it depends on the pid alone.
#[must_use]
pub fn fraction() -> f64 {
    let mut bytes = [0_u8; 4];
    // SAFETY: the kernel writes at most `len` bytes to `bytes`.
    let read = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    let number = match read {
        4 => u32::from_ne_bytes(bytes),
        _ => std::process::id().wrapping_mul(0x9e37_79b9),
    };
    f64::from(number) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::fraction;

    #[test]
    fn fractions_differ_and_are_below_one() {
        let found: Vec<f64> = (0..16).map(|_| fraction()).collect();
        assert!(found.iter().all(|one| (0.0..1.0).contains(one)), "{found:?}");
        assert!(found.iter().any(|one| (one - found[0]).abs() > f64::EPSILON), "{found:?}");
    }
}

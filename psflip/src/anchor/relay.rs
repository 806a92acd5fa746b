//! How a generation distinguishes a signal that the anchor forwards from a signal that was
//! sent to the generation itself.
//!
//! The anchor marks it by a `si_code` (sigaction(2)) of its own, from which the original one can be restored.
//! The kernel lets a process pass on only negative codes. Without the mark, a hang-up of the terminal, which
//! the kernel reports to the session leader alone, would look like an upgrade request (contract S4).

use crate::sys::signal::Received;

/// Added to the code of a forwarded signal. No code of the kernel is near the result.
const OFFSET: i32 = -0x2000;
/// All existing codes are between these: from SI_ASYNCNL (-60) to SI_KERNEL (0x80).
const CODES: std::ops::RangeInclusive<i32> = -0xff..=0xff;

/// The signal as the anchor forwards it.
#[must_use]
pub(super) fn wrap(received: &Received) -> Received {
    let code = received.code.clamp(*CODES.start(), *CODES.end());
    Received { code: code + OFFSET, ..*received }
}

/// The signal as the anchor received it. `None`: the anchor did not forward it.
#[must_use]
pub(super) fn unwrap(received: &Received) -> Option<Received> {
    let code = received.code.checked_sub(OFFSET).filter(|code| CODES.contains(code))?;
    Some(Received { code, ..*received })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::Signal;

    #[test]
    fn a_relayed_signal_is_unchanged() {
        // Contract: S1, S4
        for code in
            [libc::SI_USER, libc::SI_KERNEL, libc::SI_QUEUE, libc::SI_TIMER, libc::SI_TKILL, -60, 5, 0x80]
        {
            let received = Received { signal: Signal::HUP, code, pid: 7, uid: 8, value: 9 };
            let wrapped = wrap(&received);
            assert!(wrapped.code < 0 && wrapped.code != libc::SI_TKILL, "{code}: the kernel would refuse it");
            assert_eq!(unwrap(&wrapped), Some(received));
            assert_eq!(unwrap(&received), None);
        }
        let odd = Received { signal: Signal::HUP, code: i32::MIN, pid: 7, uid: 8, value: 9 };
        assert_eq!(unwrap(&odd), None);
        assert!(unwrap(&wrap(&odd)).is_some_and(|out| out.code < 0));
    }
}

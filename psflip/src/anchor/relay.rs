//! How a generation tells a signal that the anchor forwards from one that was sent to it: by a code of its own (`si_code` of
//! sigaction(2)), from which the original one can be had back. The kernel lets a process pass on only negative codes, so without this
//! a hang-up of the terminal, which it tells to the leader of the session alone, would look like an upgrade request (contract S4).

use crate::sys::signal::Received;

/// What is added to a code on the way. No code of the kernel's is anywhere near.
const OFFSET: i32 = -0x2000;
/// The codes there are lie between these: SI_ASYNCNL (-60) and SI_KERNEL (0x80).
const CODES: std::ops::RangeInclusive<i32> = -0xff..=0xff;

/// The signal as the anchor forwards it.
#[must_use]
pub(super) fn wrap(received: &Received) -> Received {
    let code = received.code.clamp(*CODES.start(), *CODES.end());
    Received { code: code + OFFSET, ..*received }
}

/// The signal as the anchor got it; `None`: the anchor did not forward it.
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
    fn a_signal_comes_out_as_it_went_in() {
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

//! The speed of the processor's time stamp counter, measured against the system's clock. Reads both.

use std::time::{Duration, Instant};

/// How long is measured. The two clocks are read within a microsecond of each other, so the error is some 50 millionth,
/// a tenth of what a guest's time synchronisation corrects.
const SPAN: Duration = Duration::from_millis(20);

/// The counter's speed in kHz; `None` where there is no such counter.
pub fn khz() -> Option<u64> {
    let (begun, first) = read()?;
    crate::wait::pause_for(SPAN);
    let (ended, last) = read()?;
    let nanos = (ended - begun).as_nanos();
    u64::try_from(u128::from(last.checked_sub(first)?) * 1_000_000 / nanos).ok().filter(|khz| *khz > 0)
}

/// Both clocks at the same moment: of some tries the one that the machine interrupted least.
fn read() -> Option<(Instant, u64)> {
    (0..10)
        .filter_map(|_| {
            let before = counter()?;
            let now = Instant::now();
            let after = counter()?;
            Some((after.checked_sub(before)?, now, before))
        })
        .min_by_key(|(width, ..)| *width)
        .map(|(width, now, before)| (now, before + width / 2))
}

#[cfg(target_arch = "x86_64")]
#[expect(clippy::unnecessary_wraps, reason = "other machines have no counter")]
fn counter() -> Option<u64> {
    // SAFETY: every x86_64 processor has the instruction; it reads a register and touches no memory.
    Some(unsafe { std::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> Option<u64> {
    None
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (one, other) = (khz().unwrap(), khz().unwrap());
        assert!((100_000..20_000_000).contains(&one), "{one}");
        // A thousandth is far more than the error and far less than any mistake.
        assert!(one.abs_diff(other) < one / 1000, "{one} {other}");
    }
}

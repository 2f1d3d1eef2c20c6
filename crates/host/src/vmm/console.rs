//! What a guest's console tells of the end of its VM. Touches nothing.
//!
//! Firecracker has no switch for a guest to turn it off: a guest that restarts ends it with exit code 0, and so does one
//! that is powered off (a hook in the guest resets the machine then). Under QEMU only a power-off ends the VMM, and a
//! restart stays inside. So the exit code does not tell the two apart, and the kernel's own last words do, for every guest.

/// How much of the end of a console is to be looked at, in bytes: the kernel's last words and what the VMM says after them.
pub const END: usize = 4 << 10;

/// What a kernel says last when it restarts: because it was told to, or after a panic, whose own last line does not always get
/// out. All are printed whatever the kernel was told to be quiet about. The last is Firecracker's own, of a processor that stopped
/// as none does on purpose, a triple fault, after which it also ends with exit code 0: `run_arch_emulation` in its `arch/x86_64/vcpu.rs`.
const RESTARTS: [&str; 4] = [
    "reboot: Restarting system",
    "Rebooting in ",
    "Kernel panic - not syncing",
    "Unexpected exit reason on vcpu run",
];

/// Whether the end of a console is that of a guest which restarts.
pub fn restarts(end: &str) -> bool {
    RESTARTS.iter().any(|words| end.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_told_from_a_power_off() {
        let after = "2026-11-22T06:00:00.1 [my-ubot--1:main] Firecracker exiting successfully. exit_code=0\n";
        assert!(restarts(&format!("[   99.120471] reboot: Restarting system\n{after}")));
        assert!(restarts("[    3.1] Kernel panic - not syncing: x\n[    3.2] Rebooting in 1 seconds..\n"));
        // What a panic in an interrupt says after this is lost with the machine.
        assert!(restarts(&format!(
            "[    3.1] Kernel panic - not syncing: x\n[    3.2] Kernel Offset: disabled\n{after}"
        )));
        assert!(restarts(
            "2026-11-22T19:28:49.735687624 [a:fc_vcpu 1:ERROR] Unexpected exit reason on vcpu run: Shutdown\n"
        ));
        for end in ["", after, "[   99.1] reboot: Power down\n", "[   99.1] reboot: System halted\n"] {
            assert!(!restarts(end), "{end}");
        }
    }
}

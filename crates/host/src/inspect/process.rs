//! The text of `status`, `stat` and `limits` in `/proc/PID`: `proc_pid_status(5)`, `proc_pid_stat(5)`, `proc_pid_limits(5)`.
//! Touches nothing.

/// `PF_USER_WORKER` of the kernel's `sched.h`: a thread that the kernel made inside a process, which never leaves the kernel.
const USER_WORKER: u64 = 0x4000;

/// The value of a line.
pub(super) fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

/// The least of real, effective, saved and filesystem user: root among them is root.
pub(super) fn least_uid(status: &str) -> Option<u32> {
    field(status, "Uid")?.split_whitespace().filter_map(|uid| uid.parse().ok()).min()
}

/// The effective capabilities; all where they cannot be read.
pub(super) fn capabilities(status: &str) -> u64 {
    field(status, "CapEff").and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(u64::MAX)
}

/// Whether a thread is one of the kernel's. The flags are the ninth field; the second, a name, may have anything in it but ends
/// with the last `)`.
pub(super) fn is_kernels(stat: &str) -> bool {
    let flags =
        stat.rsplit_once(')').and_then(|(_, after)| after.split_whitespace().nth(6)?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & USER_WORKER != 0)
}

/// Whether a crash may leave a core. Of limits that cannot be read it is said that it may.
pub(super) fn dumps_core(limits: &str) -> bool {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    soft != Some("0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_by_their_whole_name() {
        let status = "Name:\tx\nUid:\t64000\t64000\t0\t64000\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        assert_eq!((field(status, "Seccomp"), least_uid(status)), (Some("2"), Some(0)));
        assert_eq!((field(status, "Sec"), least_uid("")), (None, None));
    }

    #[test]
    fn a_core_is_left_unless_the_limit_says_no() {
        let limits = |soft: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units     \nMax core file size        {soft}                    unlimited            bytes     \n"
            )
        };
        assert!(!dumps_core(&limits("0")));
        assert!(dumps_core(&limits("unlimited")) && dumps_core(&limits("1")) && dumps_core(""));
    }
}

//! Versions with known problems. Small on purpose: an entry is here when a document of its maker names the versions. A problem
//! that fireclaw's way of running the program does not meet is left in with little weight. Touches nothing.

use super::{Program, Weight};

/// A problem and the versions that have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// Which program.
    pub program: Program,
    /// The name of the advisory.
    pub name: &'static str,
    /// What it lets somebody do.
    pub what: &'static str,
    /// How much it weighs for one of our VMs.
    pub weight: Weight,
    /// Ranges of versions: the first that has it and the first that has it no more.
    ranges: &'static [(Version, Version)],
}

type Version = (u32, u32, u32);

const PROBLEMS: [Problem; 6] = [
    // aws.amazon.com/security/security-bulletins/2026-015-aws, GHSA-776c-mpj7-jm3r: 1.13.0 to 1.14.3 and 1.15.0, where
    // PCI is enabled, which we do not do.
    Problem {
        program: Program::Firecracker,
        name: "CVE-2026-5747",
        what: "a guest's root writes beyond its queues where virtio-pci is enabled; fireclaw leaves it off",
        weight: Weight::Low,
        ranges: &[((1, 13, 0), (1, 14, 4)), ((1, 15, 0), (1, 15, 1))],
    },
    // NVD, from Amazon: 1.13.1 and earlier, and 1.14.0. Needs write access to the jail's folder before the jailer starts, which
    // nobody but root has below FC_ROOT/ID.
    Problem {
        program: Program::Firecracker,
        name: "CVE-2026-1386",
        what: "the jailer follows symbolic links of whoever can write to the jail's folder; only root can",
        weight: Weight::Low,
        ranges: &[((0, 0, 0), (1, 13, 2)), ((1, 14, 0), (1, 14, 1))],
    },
    // github.com/advisories/GHSA-rqpp-rjj8-7wv8: up to 2026.3.11, fixed in 2026.3.12.
    Problem {
        program: Program::OpenClaw,
        name: "GHSA-rqpp-rjj8-7wv8",
        what: "who has the gateway's token takes an operator's rights beyond it",
        weight: Weight::Medium,
        ranges: &[((0, 0, 0), (2026, 3, 12))],
    },
    // GHSA-4jpw-hj22-2xmc: up to 2026.3.8, fixed in 2026.3.11.
    Problem {
        program: Program::OpenClaw,
        name: "GHSA-4jpw-hj22-2xmc",
        what: "who may pair devices makes itself an administrator",
        weight: Weight::Medium,
        ranges: &[((0, 0, 0), (2026, 3, 11))],
    },
    // CVE-2026-28472: up to 2026.2.1, fixed in 2026.2.2.
    Problem {
        program: Program::OpenClaw,
        name: "CVE-2026-28472",
        what: "the gateway skips the check of a device when a token is shown, valid or not",
        weight: Weight::Medium,
        ranges: &[((0, 0, 0), (2026, 2, 2))],
    },
    // github.com/openclaw/openclaw/issues/98550, GHSA-cf2p-f286-mphf: fixed in 2026.6.5.
    Problem {
        program: Program::OpenClaw,
        name: "GHSA-cf2p-f286-mphf",
        what: "callers over HTTP reach tools of administrators",
        weight: Weight::Medium,
        ranges: &[((0, 0, 0), (2026, 6, 5))],
    },
    // None of QEMU: distributions mend it without a new number, so the number says nothing.
];

/// What is known of a version. A text that is no version has no known problem.
pub fn problems(program: Program, version: &str) -> impl Iterator<Item = &'static Problem> {
    let version = parse(version);
    PROBLEMS.iter().filter(move |problem| {
        problem.program == program
            && version.is_some_and(|it| {
                problem.ranges.iter().any(|(first, mended)| (*first..*mended).contains(&it))
            })
    })
}

/// `1.16.1`, `v2026.9.6`, `2026.3.13-1`: three numbers, of which the last ends where its digits end.
fn parse(text: &str) -> Option<Version> {
    let mut numbers = text.trim().trim_start_matches('v').splitn(3, '.').map(|part| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).map_or(part, |end| &part[..end]);
        digits.parse().ok()
    });
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(program: Program, version: &str) -> Vec<&'static str> {
        problems(program, version).map(|problem| problem.name).collect()
    }

    #[test]
    fn versions_are_matched_at_the_ends_of_their_ranges() {
        use Program::{Firecracker, OpenClaw, Qemu};
        for (version, wanted) in [
            ("1.12.0", &["CVE-2026-1386"][..]),
            ("1.13.1", &["CVE-2026-5747", "CVE-2026-1386"]),
            ("1.13.2", &["CVE-2026-5747"]),
            ("v1.14.0", &["CVE-2026-5747", "CVE-2026-1386"]),
            ("1.14.3", &["CVE-2026-5747"]),
            ("1.14.4", &[]),
            ("1.15.0", &["CVE-2026-5747"]),
            ("1.15.1", &[]),
            ("1.17.0-dev-81b38b9", &[]),
            ("latest", &[]),
        ] {
            assert_eq!(names(Firecracker, version), wanted, "{version}");
        }
        assert_eq!(names(OpenClaw, "2026.3.11"), ["GHSA-rqpp-rjj8-7wv8", "GHSA-cf2p-f286-mphf"]);
        assert_eq!(names(OpenClaw, "2026.3.13-1"), ["GHSA-cf2p-f286-mphf"]);
        assert_eq!(names(OpenClaw, "2025.12.1").len(), 4);
        assert_eq!(names(Qemu, "2.0.0"), Vec::<&str>::new());
    }

    #[test]
    fn what_this_fireclaw_installs_has_none() {
        assert_eq!(names(Program::Firecracker, crate::spec::release::VERSION), Vec::<&str>::new());
    }
}

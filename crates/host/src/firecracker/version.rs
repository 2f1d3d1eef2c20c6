//! Versions as `firecracker --version` and `jailer --version` print them. Touches nothing.

use std::fmt;

/// A released version. What follows a third number (`-dev`, a build's hash) does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
    /// The third.
    pub patch: u32,
}

impl Version {
    /// The first word of the text that looks like `v1.16.1`.
    pub fn in_text(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(|word| {
            let mut numbers = word.strip_prefix('v')?.splitn(3, '.').map(|part| {
                let digits = part.find(|c: char| !c.is_ascii_digit()).map_or(part, |end| &part[..end]);
                digits.parse().ok()
            });
            Some(Self { major: numbers.next()??, minor: numbers.next()??, patch: numbers.next()?? })
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_and_ordered_by_number() {
        let version = |text| Version::in_text(text);
        assert_eq!(version("Firecracker v1.16.1\n\n").unwrap().to_string(), "1.16.1");
        assert_eq!(version("Jailer v1.17.0-dev-81b38b9").unwrap().to_string(), "1.17.0");
        assert!(version("v1.9.0") < version("v1.16.0"));
        for none in ["", "Firecracker", "v1.2", "version 1.2.3", "vX.Y.Z"] {
            assert_eq!(version(none), None, "{none:?}");
        }
    }
}

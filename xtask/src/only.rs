//! Parts of names, by which people choose scenarios and cases. Touches nothing.

use fireclaw_core::error::{Error, Kind, Result};

/// Fails on the first of these parts that no name contains: a run of nothing would look like one that passed.
pub fn each_is_known(parts: &[String], names: &[&str]) -> Result<()> {
    match parts.iter().find(|part| !names.iter().any(|name| name.contains(part.as_str()))) {
        None => Ok(()),
        Some(part) => Err(Error::new("find", format!("`{part}`"))
            .kind(Kind::Refused)
            .because("no name contains it")
            .hint(format!("there are: {}", names.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_must_be_of_a_name() {
        let names = ["reboot and power cut", "the units"];
        let known = |parts: &[&str]| {
            each_is_known(&parts.iter().map(ToString::to_string).collect::<Vec<_>>(), &names)
        };
        known(&[]).unwrap();
        known(&["reboot", "units"]).unwrap();
        let error = known(&["units", "list"]).unwrap_err().to_string();
        assert!(error.contains("`list`"), "{error}");
    }
}

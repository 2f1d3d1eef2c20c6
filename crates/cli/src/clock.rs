//! The time of day, for records. Reads the system's clock.

use std::time::SystemTime;

/// Now as RFC 3339 in UTC, to the second.
pub fn now_rfc3339() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

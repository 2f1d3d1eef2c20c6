//! Secrets and other changes from flags, files and the environment, in this order. Reads the named files.

use std::path::{Path, PathBuf};

use fireclaw_core::{
    error::{Error, Kind, Result},
    spec::RawChanges,
};

use crate::args::ChangeFlags;

/// The largest file that a secret is read from.
const LARGEST: u64 = 64 << 10;

/// Puts the changes together.
pub fn raw_changes(flags: &ChangeFlags, env: &dyn Fn(&str) -> Option<String>) -> Result<RawChanges> {
    let secret = |name: &str, value: &Option<String>, file: &Option<PathBuf>| -> Result<Option<String>> {
        if let Some(value) = value {
            return Ok(Some(value.clone()));
        }
        if let Some(file) = file {
            let flag = format!("--{}-file", name.to_lowercase().replace('_', "-"));
            return read(&flag, file).map(Some);
        }
        Ok(env(name).filter(|value| !value.is_empty()))
    };
    Ok(RawChanges {
        telegram_token: secret("TELEGRAM_TOKEN", &flags.telegram_token, &flags.telegram_token_file)?,
        telegram_users: flags.telegram_users.clone(),
        model: flags.model.clone(),
        skills: flags.skills.clone(),
        openclaw_image: flags.openclaw_image.clone(),
        anthropic_api_key: secret(
            "ANTHROPIC_API_KEY",
            &flags.anthropic_api_key,
            &flags.anthropic_api_key_file,
        )?,
        openai_api_key: secret("OPENAI_API_KEY", &flags.openai_api_key, &flags.openai_api_key_file)?,
        minimax_api_key: secret("MINIMAX_API_KEY", &flags.minimax_api_key, &flags.minimax_api_key_file)?,
        skip_browser_install: flags.skip_browser_install,
        egress: flags.egress,
        allow: flags.allow.clone(),
        key_mode: flags.keys,
        budget: flags.budget_requests_per_hour,
        net_mbit: flags.net_mbit.clone(),
        disk_iops: flags.disk_iops.clone(),
        disk_mbyte: flags.disk_mbyte.clone(),
        idle_after: flags.idle_after.clone(),
        idle_even_with_channels: flags.idle_even_with_channels,
    })
}

/// The text of a secret's file without the newline at its end, which editors put there.
pub(crate) fn read(flag: &str, path: &Path) -> Result<String> {
    let refused = |why: String| {
        Error::refused(flag, path.display(), why)
            .kind(Kind::Refused)
            .hint("the file holds the secret and nothing else")
    };
    let size = std::fs::metadata(path).map_err(|error| refused(error.to_string()))?.len();
    if size > LARGEST {
        return Err(refused(format!("has {size} bytes, which is no secret")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(refused("is empty".to_owned()));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_then_file_then_environment() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, "from-file\n").unwrap();
        let env = |name: &str| (name == "ANTHROPIC_API_KEY").then(|| "from-env".to_owned());
        let mut flags = ChangeFlags::default();
        assert_eq!(raw_changes(&flags, &env).unwrap().anthropic_api_key.as_deref(), Some("from-env"));
        flags.anthropic_api_key_file = Some(file);
        assert_eq!(raw_changes(&flags, &env).unwrap().anthropic_api_key.as_deref(), Some("from-file"));
        flags.anthropic_api_key = Some("from-flag".into());
        assert_eq!(raw_changes(&flags, &env).unwrap().anthropic_api_key.as_deref(), Some("from-flag"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_refused_by_flag_and_path() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        std::fs::write(&empty, "\n").unwrap();
        let binary = dir.path().join("binary");
        std::fs::write(&binary, b"\xff\xfe").unwrap();
        for path in [dir.path().join("missing"), dir.path().to_owned(), empty, binary] {
            let flags = ChangeFlags { openai_api_key_file: Some(path), ..ChangeFlags::default() };
            let error = raw_changes(&flags, &|_| None).unwrap_err();
            assert_eq!(error.get_kind(), Kind::Refused);
            assert!(error.to_string().contains("--openai-api-key-file"), "{error}");
        }
    }
}

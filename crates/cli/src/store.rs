//! Records on disk: the state folders of all instances. Touches `STATE_ROOT`.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use fireclaw_core::{
    alloc::Taken,
    error::{Context, Error, Kind, Result},
    id::{InstanceId, TapName},
    layout::{InstancePaths, Layout},
    render::systemd::{CREDENTIAL_KEYS, CREDENTIAL_RECORD},
    secret::Secret,
    spec::{KeyMode, Settings},
    state::{InstanceRecord, ProviderKeys, RESTORE},
};
use fireclaw_host::fs;

/// What lies under a name in `STATE_ROOT`.
#[derive(Debug)]
pub enum Found {
    /// A readable instance.
    Instance(Box<InstanceRecord>),
    /// A folder whose record cannot be read. It still holds its addresses.
    Damaged {
        /// The text behind `.vm-`.
        name: String,
        /// Why.
        error: Error,
    },
}

/// The records of a host.
#[derive(Debug, Clone, Copy)]
pub struct Store<'a> {
    settings: &'a Settings,
}

impl<'a> Store<'a> {
    /// The records under these settings.
    pub const fn new(settings: &'a Settings) -> Self {
        Self { settings }
    }

    /// The paths of an instance.
    pub fn paths(self, id: &InstanceId) -> Result<InstancePaths> {
        self.settings.layout.instance(id)
    }

    /// Whether anything of an instance is on the disk: a record, a folder, a journal.
    pub fn exists(self, id: &InstanceId) -> Result<bool> {
        let paths = self.paths(id)?;
        Ok([paths.state_dir, paths.dir, paths.journal].iter().any(|path| path.exists()))
    }

    /// Reads a record.
    pub fn load(self, id: &InstanceId) -> Result<InstanceRecord> {
        let paths = self.paths(id)?;
        let unreadable = |error: Error| match error.get_hint() {
            Some(_) => error,
            None => rehint(error.hint(RESTORE), id.as_str()),
        };
        let Some(env) = fs::read_if_there(&paths.env).map_err(unreadable)? else {
            return Err(if self.exists(id)? {
                Error::new("read", format!("the record of instance `{id}`"))
                    .because(format!("{} is missing", paths.env.display()))
                    .hint(format!("clear what is left with `fireclaw destroy {id} --force`"))
            } else {
                no_such(id.as_str())
            });
        };
        let vars = fs::read_if_there(&paths.provision_vars)?;
        let what = paths.env.display().to_string();
        let record = InstanceRecord::parse(&what, &env, vars.as_deref(), &self.settings.network)
            .map_err(|error| rehint(error, id.as_str()))?;
        let mut record = Self::with_keys(record, &paths.keys)?;
        if record.gateway_token.expose().is_empty()
            && let Some(token) = fs::read_if_there(&paths.token)?
        {
            record.gateway_token = Secret::new(token.trim());
        }
        if record.id != *id {
            return Err(Error::new("read", what)
                .because(format!("it is the record of `{}`", record.id))
                .hint(format!("clear the folder with `fireclaw destroy {id} --force`")));
        }
        Ok(record)
    }

    /// Reads a record and its keys out of a folder of credentials, for a user who may not enter `STATE_ROOT`.
    pub fn handed_over(self, id: &InstanceId, folder: &Path) -> Result<InstanceRecord> {
        let path = folder.join(CREDENTIAL_RECORD);
        let what = path.display().to_string();
        let text = fs::read_if_there(&path)?.ok_or_else(|| {
            Error::new("read", &what)
                .because("the unit hands over no record")
                .hint("`fireclaw doctor --fix` writes the units anew")
        })?;
        let record = InstanceRecord::parse(&what, &text, None, &self.settings.network)
            .map_err(|error| rehint(error, id.as_str()))?;
        Self::with_keys(record, &folder.join(CREDENTIAL_KEYS))
    }

    /// Every instance, readable or not, by name.
    pub fn all(self) -> Result<Vec<Found>> {
        let mut names: BTreeSet<String> = fs::names(&self.settings.layout.state_root)?
            .iter()
            .filter_map(|name| Layout::instance_of_state_dir(name).map(str::to_owned))
            .collect();
        // A crash before the first record leaves a journal alone.
        names.extend(
            fs::names(&self.settings.layout.journals())?
                .iter()
                .filter_map(|n| n.strip_suffix(".jsonl"))
                .map(str::to_owned),
        );
        Ok(names
            .into_iter()
            .map(|name| match name.parse::<InstanceId>().and_then(|id| self.load(&id)) {
                Ok(record) => Found::Instance(Box::new(record)),
                Err(error) => Found::Damaged { name, error },
            })
            .collect())
    }

    /// The readable instances.
    pub fn records(self) -> Result<Vec<InstanceRecord>> {
        Ok(self
            .all()?
            .into_iter()
            .filter_map(|found| match found {
                Found::Instance(record) => Some(*record),
                Found::Damaged { .. } => None,
            })
            .collect())
    }

    /// Writes a record: token and settings first, `.env` last, so that a record that can be read is whole.
    pub fn save(self, record: &InstanceRecord) -> Result<()> {
        let paths = self.paths(&record.id)?;
        fs::make_private_dir(&self.settings.layout.state_root)?;
        fs::ensure_private_dir(&paths.state_dir)?;
        fs::write(&paths.token, format!("{}\n", record.gateway_token.expose()).as_bytes(), 0o600)?;
        // The keys before the record that leaves them out; away after the record that holds them again.
        let keys = record.render_keys()?;
        if let Some(keys) = &keys {
            fs::write(&paths.keys, keys.as_bytes(), 0o600)?;
        }
        fs::write(&paths.provision_vars, record.render_provision_vars()?.as_bytes(), 0o600)?;
        fs::write(&paths.env, record.render_env()?.as_bytes(), 0o600)?;
        if keys.is_none() { fs::remove_file(&paths.keys) } else { Ok(()) }
    }

    /// The record with the keys of their own file, where that is where they are.
    fn with_keys(mut record: InstanceRecord, keys: &Path) -> Result<InstanceRecord> {
        if record.containment.keys == KeyMode::Broker
            && let Some(text) = fs::read_if_there(keys)?
        {
            record.keys = ProviderKeys::parse(&keys.display().to_string(), &text)
                .map_err(|error| rehint(error, record.id.as_str()))?;
        }
        Ok(record)
    }

    /// Writes changed settings beside the record.
    pub fn stage(self, record: &InstanceRecord) -> Result<()> {
        let [env, vars, keys] = self.staged(&record.id)?;
        // Empty: there is to be none.
        fs::write(&keys, record.render_keys()?.unwrap_or_default().as_bytes(), 0o600)?;
        fs::write(&vars, record.render_provision_vars()?.as_bytes(), 0o600)?;
        fs::write(&env, record.render_env()?.as_bytes(), 0o600)
    }

    /// Puts staged settings into the record; none is fine.
    pub fn commit_staged(self, id: &InstanceId) -> Result<()> {
        let paths = self.paths(id)?;
        let [env, vars, keys] = self.staged(id)?;
        let rename = |from: &PathBuf, to: &PathBuf| {
            if from.exists() { std::fs::rename(from, to).context("write", to.display()) } else { Ok(()) }
        };
        // The keys before the record that leaves them out; away after the record that holds them again.
        let none_left = std::fs::metadata(&keys).is_ok_and(|keys| keys.len() == 0);
        if !none_left {
            rename(&keys, &paths.keys)?;
        }
        rename(&vars, &paths.provision_vars)?;
        rename(&env, &paths.env)?;
        if none_left {
            fs::remove_file(&paths.keys)?;
            fs::remove_file(&keys)?;
        }
        fs::sync_dir(&paths.state_dir)
    }

    /// Drops staged settings; none is fine.
    pub fn drop_staged(self, id: &InstanceId) -> Result<()> {
        self.staged(id)?.iter().try_for_each(|path| fs::remove_file(path))
    }

    fn staged(self, id: &InstanceId) -> Result<[PathBuf; 3]> {
        let dir = self.paths(id)?.state_dir;
        Ok([dir.join(".env.next"), dir.join("provision.vars.next"), dir.join("keys.next")])
    }

    /// The tap of an instance whose record cannot be read, when its line can be made out.
    pub fn taps_of(self, name: &str) -> Option<TapName> {
        self.salvage(name, "VM_TAP")?.parse().ok()
    }

    /// The value of a key in a record that as a whole cannot be read.
    fn salvage(self, name: &str, key: &str) -> Option<String> {
        let bytes = std::fs::read(self.settings.layout.record_named(name)).ok()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
    }

    /// What instances have, the damaged ones included as far as their lines can be made out.
    pub fn taken(self) -> Result<Taken> {
        let mut taken = Taken::default();
        for found in self.all()? {
            match found {
                Found::Instance(record) => {
                    taken.ports.insert(record.host_port);
                    taken.ips.insert(record.vm_ip);
                    taken.links.insert(record.vm_tap.to_string());
                }
                Found::Damaged { name, .. } => {
                    taken
                        .ports
                        .extend(self.salvage(&name, "HOST_PORT").and_then(|port| port.parse::<u16>().ok()));
                    taken.ips.extend(self.salvage(&name, "VM_IP").and_then(|ip| ip.parse::<Ipv4Addr>().ok()));
                    taken.links.extend(self.salvage(&name, "VM_TAP"));
                }
            }
        }
        Ok(taken)
    }
}

/// The error for an id that nothing is known of.
pub fn no_such(id: &str) -> Error {
    Error::new("find", format!("instance `{id}`"))
        .kind(Kind::NotFound)
        .because("there is no such instance")
        .hint("`fireclaw list` shows the instances that there are")
}

fn rehint(error: Error, id: &str) -> Error {
    let hint = error.get_hint().map(|hint| hint.replace("destroy ID", &format!("destroy {id}")));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(root: &Path) -> Settings {
        let root = root.display().to_string();
        Settings::resolve(
            &|name| match name {
                "STATE_ROOT" => Some(format!("{root}/state")),
                "FC_ROOT" => Some(format!("{root}/fc")),
                _ => None,
            },
            None,
        )
        .unwrap()
    }

    fn record(id: &str, octet: u8) -> InstanceRecord {
        let text = format!(
            "FIRECLAW_STATE_FORMAT=plain-v1\nINSTANCE_ID={id}\nHOST_PORT={}\nVM_IP=172.16.0.{octet}\nVM_TAP=t{id}{octet}\n",
            18890 + u16::from(octet)
        );
        InstanceRecord::parse("x", &text, None, &fireclaw_core::spec::NetworkSpec::default()).unwrap()
    }

    #[test]
    fn a_corrupt_record_is_told_and_still_holds_its_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let store = Store::new(&settings);
        store.save(&record("good", 2)).unwrap();
        let bad = settings.layout.instance(&"bad".parse().unwrap()).unwrap();
        fs::make_private_dir(&bad.state_dir).unwrap();
        std::fs::write(&bad.env, b"HOST_PORT=18893\nVM_IP=172.16.0.3\n\xff\xfegarbage").unwrap();
        let all = store.all().unwrap();
        assert!(matches!(&all[0], Found::Damaged { name, .. } if name == "bad"));
        assert!(matches!(&all[1], Found::Instance(record) if record.id.as_str() == "good"));
        let taken = store.taken().unwrap();
        assert_eq!(taken.ports, [18892, 18893].into());
        assert_eq!(taken.ips.len(), 2);
    }

    #[test]
    fn nothing_there_is_another_error_than_something_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let store = Store::new(&settings);
        let id: InstanceId = "a".parse().unwrap();
        assert_eq!(store.load(&id).unwrap_err().get_kind(), Kind::NotFound);
        fs::make_private_dir(&settings.layout.instance(&id).unwrap().dir).unwrap();
        let error = store.load(&id).unwrap_err();
        assert_eq!(error.get_kind(), Kind::Failed);
        assert!(error.get_hint().unwrap().contains("destroy a --force"));
    }

    #[test]
    fn staged_settings_are_committed_or_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let store = Store::new(&settings);
        let old = record("a", 2);
        store.save(&old).unwrap();
        let new = InstanceRecord { model: "openai/x".into(), ..old.clone() };
        store.stage(&new).unwrap();
        store.drop_staged(&old.id).unwrap();
        store.commit_staged(&old.id).unwrap();
        assert_eq!(store.load(&old.id).unwrap().model, old.model);
        store.stage(&new).unwrap();
        store.commit_staged(&old.id).unwrap();
        assert_eq!(store.load(&old.id).unwrap().model, "openai/x");
    }

    #[test]
    fn keys_are_in_one_place_and_move_with_their_mode() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let store = Store::new(&settings);
        let mut guest = record("a", 2);
        guest.keys.openai = Some(Secret::new("sk-once"));
        let mut broker = guest.clone();
        broker.containment.keys = KeyMode::Broker;
        broker.containment.broker_token = Some(Secret::new("t"));
        let places = || {
            let paths = store.paths(&guest.id).unwrap();
            let holds =
                |path: &PathBuf| std::fs::read_to_string(path).is_ok_and(|text| text.contains("sk-once"));
            [holds(&paths.env), holds(&paths.provision_vars), holds(&paths.keys)]
        };
        let (in_record, in_file) = ([true, true, false], [false, false, true]);
        store.save(&guest).unwrap();
        assert_eq!(places(), in_record);
        for (next, expected) in [(&broker, in_file), (&guest, in_record), (&broker, in_file)] {
            store.stage(next).unwrap();
            store.commit_staged(&guest.id).unwrap();
            assert_eq!(places(), expected);
            assert_eq!(store.load(&guest.id).unwrap().keys, guest.keys);
        }
        store.save(&guest).unwrap();
        assert_eq!(places(), in_record);
        store.save(&broker).unwrap();
        assert_eq!(places(), in_file);
        let names = fs::names(&store.paths(&guest.id).unwrap().state_dir).unwrap();
        assert!(!names.iter().any(|name| name.contains(".next")), "{names:?}");
    }
}

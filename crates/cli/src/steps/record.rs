//! Steps on the record and the folders of an instance. Touches `STATE_ROOT` and `FC_ROOT`.

use std::path::Path;

use fireclaw_core::error::Result;
use fireclaw_host::{
    fs,
    supervisor::{Service, State},
};

use super::{Steps, services::write_scripts};
use crate::{containment, fleet, rates};

impl Steps<'_> {
    pub(super) fn save_record(&mut self) -> Result<()> {
        self.app.store().save(self.known()?)?;
        // From here on the addresses are taken for everybody to see.
        self.allocation = None;
        Ok(())
    }

    pub(super) fn remove_record(&mut self) -> Result<()> {
        let paths = self.paths()?;
        self.leave_for_good(|| fs::remove_for_good(&paths.state_dir))
    }

    pub(super) fn mark_provisioned(&mut self) -> Result<()> {
        let mut record = self.known()?.clone();
        record.provisioned = true;
        self.app.store().save(&record)?;
        self.record = Some(record);
        Ok(())
    }

    pub(super) fn make_folders(&self) -> Result<()> {
        let paths = self.paths()?;
        fs::make_private_dir(&self.app.settings.layout.fc_root)?;
        for dir in [&paths.dir, &paths.images_dir, &paths.config_dir, &paths.logs_dir] {
            fs::ensure_private_dir(dir)?;
        }
        write_scripts(self.app, &self.id)
    }

    pub(super) fn remove_folders(&self) -> Result<()> {
        let paths = self.paths()?;
        // An API socket that the user placed elsewhere is ours all the same.
        if let Some(record) = &self.record
            && !record.api_sock.as_os_str().is_empty()
        {
            fs::remove_file(&record.api_sock)?;
        }
        // A base that could not be linked into the instance's folder. Where the images' folder was another at setup, its link
        // leads there.
        fs::remove_file(&paths.base_pin)?;
        if let (Ok(target), Some(name)) = (std::fs::read_link(&paths.base), paths.base_pin.file_name())
            && target.file_name() == Some(name)
            && target.parent().and_then(Path::file_name) == paths.base_pin.parent().and_then(Path::file_name)
        {
            fs::remove_file(&target)?;
        }
        // It may be on another disk than the record: one that came back without its record would be nobody's.
        fs::remove_for_good(&paths.dir)
    }

    pub(super) fn stage_settings(&self) -> Result<()> {
        match &self.changed {
            Some(changed) => self.app.store().stage(changed),
            None => Ok(()),
        }
    }

    pub(super) fn commit_settings(&mut self) -> Result<()> {
        self.app.store().commit_staged(&self.id)?;
        let resumed = self.changed.is_none();
        if resumed {
            // What was read before is the record of before.
            self.record = Some(self.app.store().load(&self.id)?);
        }
        // After a crash nobody knows what was in force: then it is put into force again.
        let (mut contained, mut rated, mut idled) = (true, true, true);
        if let Some(changed) = self.changed.take()
            && let Some(before) = self.record.replace(changed.clone())
        {
            rated = before.rates != changed.rates;
            idled = before.idle != changed.idle;
            contained = (before.containment, before.keys) != (changed.containment, changed.keys);
        }
        if idled {
            // The proxy learns it when it starts, which is the next step; its units come and go with it. There is no next step where
            // an earlier run's change is only finished.
            let served = resumed
                && fleet::service_status(self.app, self.known()?, Service::Proxy).state == State::Active;
            self.stop_proxy()?;
            self.install_services()?;
            if served {
                self.start_proxy()?;
            }
        }
        if contained {
            containment::apply(self.app, self.known()?)?;
        }
        if rated { rates::apply(self.app, self.known()?) } else { Ok(()) }
    }
}

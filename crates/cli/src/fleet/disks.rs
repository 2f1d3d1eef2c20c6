//! What `status` shows of an instance's disks. Reads their sizes.

use std::path::Path;

use fireclaw_core::{
    layout::InstancePaths,
    report::{BaseReport, DiskReport},
    spec::DiskKind,
    state::InstanceRecord,
};
use fireclaw_host::disk::same_file;

use crate::app::App;

/// What the instance's disks are and take.
pub(super) fn report(app: &App, record: &InstanceRecord, paths: &InstancePaths) -> Option<DiskReport> {
    let size = |path: &Path| std::fs::metadata(path).map(|facts| facts.len()).ok();
    let allocated = |path: &Path| app.host.disks.allocated_bytes(path).unwrap_or(0);
    let written = paths.written_disk(record.disks);
    let base = (record.disks == DiskKind::Shared).then(|| BaseReport {
        size_bytes: size(&paths.base),
        allocated_bytes: allocated(&paths.base),
        current: runs_from_image(app, record),
    });
    Some(DiskReport {
        kind: record.disks.to_string(),
        size_bytes: size(written)?,
        allocated_bytes: allocated(written),
        base,
    })
}

/// Whether the base of an instance still is its image's: not after the image was rebuilt or removed.
pub fn runs_from_image(app: &App, record: &InstanceRecord) -> bool {
    let layout = &app.settings.layout;
    let (Ok(paths), Ok(image)) = (layout.instance(&record.id), record.image.parse()) else { return false };
    record.disks == DiskKind::Shared && same_file(&paths.base, &layout.image(&image).rootfs)
}

//! Images on disk: listed, shown, removed, imported, published. Touches `BASE_IMAGES_DIR`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use fireclaw_core::{
    error::{Context, Error, Kind, Result},
    id::ImageName,
    layout::{ImagePaths, Layout},
    state::record_defaults,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    check::{check_ext4, check_kernel},
    kernel,
    manifest::{self, Boot, ImageFile, Manifest},
};
use crate::{disk::space, interrupt::Interrupt, lock};

/// One row of `image list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The image's name.
    pub name: String,
    /// The distribution's release.
    pub system: Option<String>,
    /// OpenClaw's version.
    pub openclaw: Option<String>,
    /// When it was made.
    pub built_at: Option<String>,
    /// What it takes on the disk.
    pub allocated_bytes: u64,
    /// Why it cannot be read.
    pub error: Option<String>,
}

/// All images by name. A damaged one is a row that says so, and so is what an unfinished build of one left.
pub fn list(layout: &Layout) -> Result<Vec<Listed>> {
    let mut rows = Vec::new();
    for name in crate::fs::names(&layout.images_root)? {
        if let Some(image) = layout.image_of_work(&name).filter(|image| !layout.image(image).dir.exists()) {
            let hint = format!(
                "it is being made, or that was cut off: `fireclaw image build {image}` goes on, `fireclaw image remove {image}` clears it"
            );
            rows.push(Listed {
                name: image.to_string(),
                system: None,
                openclaw: None,
                built_at: None,
                allocated_bytes: space::allocated_below(&layout.images_root.join(&name)).unwrap_or(0),
                error: Some(hint),
            });
            continue;
        }
        let Ok(image) = name.parse::<ImageName>() else { continue };
        let paths = layout.image(&image);
        if !paths.dir.is_dir() || paths.dir.is_symlink() {
            continue;
        }
        let allocated_bytes = crate::fs::names(&paths.dir)?
            .iter()
            .map(|file| space::allocated_bytes(&paths.dir.join(file)).unwrap_or(0))
            .sum();
        let mut row =
            Listed { name, system: None, openclaw: None, built_at: None, allocated_bytes, error: None };
        match manifest::read(&paths.manifest) {
            Ok(manifest) => {
                row.system = Some(manifest.system);
                row.openclaw = manifest.openclaw;
                row.built_at = Some(manifest.built_at);
            }
            Err(error) => row.error = Some(error.one_line()),
        }
        rows.push(row);
    }
    Ok(rows)
}

fn must_exist(layout: &Layout, name: &ImageName) -> Result<ImagePaths> {
    let paths = layout.image(name);
    if paths.dir.is_dir() {
        return Ok(paths);
    }
    Err(Error::new("find", format!("image `{name}`"))
        .kind(Kind::NotFound)
        .because("there is no such image")
        .hint("`fireclaw image list` shows what there is, `fireclaw image build` makes one"))
}

/// The manifest of an image.
pub fn inspect(layout: &Layout, name: &ImageName) -> Result<Manifest> {
    manifest::read(&must_exist(layout, name)?.manifest)
}

/// Removes an image. Instances have copies and links of their own.
pub fn remove(layout: &Layout, name: &ImageName) -> Result<()> {
    let work = layout.image_work(name);
    let paths = if work.exists() { layout.image(name) } else { must_exist(layout, name)? };
    let _lock = hold(layout, name)?;
    // What a build or an import that did not end has left.
    crate::fs::remove_tree(&work)?;
    if name.is_default() {
        for link in top_links(layout, &paths).iter().filter(|link| link.is_ours()) {
            crate::fs::remove_file(&link.top)?;
        }
    }
    crate::fs::remove_tree(&paths.dir)?;
    crate::fs::sync_dir(&layout.images_root)
}

/// Nobody else builds, imports or removes this image meanwhile.
pub fn hold(layout: &Layout, name: &ImageName) -> Result<lock::Lock> {
    crate::fs::make_private_dir(&layout.state_root)?;
    lock::take(&layout.locks().join(format!("image-{name}")), &format!("image `{name}`"))
}

/// Files of somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportRequest {
    /// The image's name.
    pub name: ImageName,
    /// ELF or bzImage.
    pub kernel: PathBuf,
    /// ext4.
    pub rootfs: PathBuf,
    /// Initial ramdisk.
    pub initrd: Option<PathBuf>,
}

/// Makes an image of files that somebody else built. `built_at` is now, RFC 3339. When it is asked to stop nothing is left.
pub fn import(
    layout: &Layout,
    request: &ImportRequest,
    built_at: &str,
    interrupt: &Interrupt,
) -> Result<Manifest> {
    check_kernel(&request.kernel)?;
    check_ext4(&request.rootfs)?;
    if let Some(initrd) = request.initrd.as_ref().filter(|path| !path.is_file()) {
        return Err(Error::refused("--initrd", initrd.display(), "is not a file"));
    }
    let _lock = hold(layout, &request.name)?;
    let work = layout.image_work(&request.name);
    crate::fs::remove_tree(&work)?;
    fs::create_dir_all(&work).context("create folder", work.display())?;
    let paths = Layout::image_in(work.clone());
    let filled = fill(request, &paths, built_at, interrupt)
        .and_then(|manifest| publish(layout, &request.name, &work, &manifest).map(|()| manifest));
    if filled.is_err() {
        crate::fs::remove_tree(&work)?;
    }
    filled
}

fn fill(
    request: &ImportRequest,
    paths: &ImagePaths,
    built_at: &str,
    interrupt: &Interrupt,
) -> Result<Manifest> {
    let needed = space::allocated_bytes(&request.rootfs)?;
    let free = space::free_bytes(&paths.dir)?;
    if needed > free {
        return Err(Error::new("import", request.rootfs.display().to_string())
            .kind(Kind::HostNotReady)
            .because(format!(
                "{} MiB are needed under {} and {} are free",
                needed >> 20,
                paths.dir.display(),
                free >> 20
            )));
    }
    let mut from = vec![(&request.kernel, &paths.vmlinuz), (&request.rootfs, &paths.rootfs)];
    if let Some(initrd) = &request.initrd {
        from.push((initrd, &paths.initrd));
    }
    for (source, target) in from {
        crate::disk::copy_sparse(source, target, interrupt)?;
    }
    unpack_kernel(&paths.vmlinuz, &paths.vmlinux)?;
    Ok(Manifest {
        format: manifest::COPIED,
        name: request.name.to_string(),
        built_at: built_at.to_owned(),
        system: "imported".to_owned(),
        mirror: None,
        openclaw: None,
        node: None,
        docker: false,
        browser: false,
        boot: Boot {
            kernel: "vmlinuz".to_owned(),
            kernel_elf: Some("vmlinux".to_owned()),
            initrd: request.initrd.as_ref().map(|_| "initrd.img".to_owned()),
            cmdline: record_defaults::CMDLINE.to_owned(),
        },
        files: checksums(&paths.dir, interrupt)?,
        packages: BTreeMap::new(),
        npm: BTreeMap::new(),
    })
}

/// Writes what every VMM starts: the kernel inside of one that was packed, readable by every VM's user.
pub fn unpack_kernel(packed: &Path, to: &Path) -> Result<()> {
    let kernel = fs::read(packed).context("read", packed.display())?;
    let plain = kernel::unpack(&kernel).map_err(|error| {
        Error::new("unpack kernel", packed.display().to_string())
            .source(error)
            .hint("give the ELF file `vmlinux` of that kernel instead")
    })?;
    crate::fs::write(to, &plain, 0o644)
}

/// How much is read between two looks at whether to stop: well under a second.
const PART: u64 = 64 << 20;

/// The checksums of an image's files.
pub fn checksums(dir: &Path, interrupt: &Interrupt) -> Result<BTreeMap<String, ImageFile>> {
    let mut files = BTreeMap::new();
    for name in ["initrd.img", "rootfs.ext4", "vmlinux", "vmlinuz"] {
        let path = dir.join(name);
        if !path.exists() {
            continue;
        }
        let mut hasher = Sha256::new();
        let mut file = File::open(&path).context("read", path.display())?;
        let mut bytes = 0;
        loop {
            interrupt.check()?;
            let more = io::copy(&mut (&mut file).take(PART), &mut hasher).context("read", path.display())?;
            bytes += more;
            if more < PART {
                break;
            }
        }
        let sha256 = format!("{:x}", hasher.finalize());
        files.insert(name.to_owned(), ImageFile { sha256, bytes });
    }
    Ok(files)
}

/// Makes a finished folder the image: one rename, so that there is the old image or the new one. Instances have copies
/// and links of their own.
pub fn publish(layout: &Layout, name: &ImageName, work: &Path, manifest: &Manifest) -> Result<()> {
    let text = serde_json::to_vec_pretty(manifest).context("render", "the manifest")?;
    crate::fs::write(&work.join("manifest.json"), &text, 0o644)?;
    for file in ["initrd.img", "rootfs.ext4", "vmlinux", "vmlinuz"].map(|file| work.join(file)) {
        if file.exists() {
            // The VMM's unprivileged user reads the kernel; nothing secret is in an image.
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644))
                .context("set the mode of", file.display())?;
            File::open(&file).and_then(|file| file.sync_all()).context("sync", file.display())?;
        }
    }
    let paths = layout.image(name);
    if paths.dir.exists() {
        // The old image goes where the new one was made, and from there away.
        crate::fs::exchange(work, &paths.dir)?;
    } else {
        fs::rename(work, &paths.dir).context("publish", paths.dir.display())?;
    }
    crate::fs::sync_dir(&layout.images_root)?;
    crate::fs::remove_tree(work)?;
    if name.is_default() {
        for link in top_links(layout, &paths) {
            // What somebody put there by hand is theirs, be it a file or a link.
            if link.top.symlink_metadata().is_ok() && !link.is_ours() {
                continue;
            }
            crate::fs::remove_file(&link.top)?;
            if link.file.exists() {
                symlink(link.target(), &link.top).context("link", link.top.display())?;
            }
        }
    }
    Ok(())
}

struct TopLink {
    name: &'static str,
    top: PathBuf,
    file: PathBuf,
}

impl TopLink {
    fn target(&self) -> PathBuf {
        Path::new(ImageName::DEFAULT).join(self.name)
    }

    fn is_ours(&self) -> bool {
        fs::read_link(&self.top).is_ok_and(|target| target == self.target())
    }
}

/// The default image's files at the top of the folder, where the Bash fireclaw looks.
fn top_links(layout: &Layout, paths: &ImagePaths) -> Vec<TopLink> {
    let top = layout.top_image();
    vec![
        TopLink { name: "vmlinux", top: top.vmlinux, file: paths.vmlinux.clone() },
        TopLink { name: "rootfs.ext4", top: top.rootfs, file: paths.rootfs.clone() },
        TopLink { name: "initrd.img", top: top.initrd, file: paths.initrd.clone() },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> (tempfile::TempDir, Layout, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            state_root: dir.path().join("state"),
            images_root: dir.path().join("images"),
            ..Layout::default()
        };
        let kernel = dir.path().join("kernel");
        let mut elf = b"\x7fELF".to_vec();
        elf.resize(4096, 7);
        fs::write(&kernel, elf).unwrap();
        let rootfs = dir.path().join("rootfs");
        File::create(&rootfs).unwrap().set_len(8 << 20).unwrap();
        crate::exec::Exec::check(
            &crate::exec::SystemExec::default(),
            crate::exec::Cmd::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(&rootfs),
        )
        .unwrap();
        (dir, layout, kernel, rootfs)
    }

    #[test]
    fn an_image_is_imported_listed_replaced_and_removed() {
        let (_dir, layout, kernel, rootfs) = world();
        let request = ImportRequest { name: ImageName::default(), kernel, rootfs, initrd: None };
        for _ in 0..2 {
            let manifest = import(&layout, &request, "2026-01-01T00:00:00Z", &Interrupt::default()).unwrap();
            assert_eq!(manifest.files.len(), 3);
        }
        let rows = list(&layout).unwrap();
        assert_eq!((rows.len(), rows[0].name.as_str(), &rows[0].error), (1, "default", &None));
        assert_eq!(fs::read_link(layout.top_image().vmlinux).unwrap(), Path::new("default/vmlinux"));
        assert_eq!(inspect(&layout, &request.name).unwrap().boot.kernel_elf.as_deref(), Some("vmlinux"));
        remove(&layout, &request.name).unwrap();
        assert_eq!(crate::fs::names(&layout.images_root).unwrap(), Vec::<String>::new());
        assert_eq!(remove(&layout, &request.name).unwrap_err().get_kind(), Kind::NotFound);
    }

    #[test]
    fn an_import_that_is_asked_to_stop_leaves_nothing() {
        let (_dir, layout, kernel, rootfs) = world();
        let request = ImportRequest { name: ImageName::default(), kernel, rootfs, initrd: None };
        let interrupt = Interrupt::default();
        interrupt.ask();
        assert_eq!(import(&layout, &request, "now", &interrupt).unwrap_err().get_kind(), Kind::Interrupted);
        assert_eq!(crate::fs::names(&layout.images_root).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn links_of_somebody_else_stay_where_they_are() {
        let (_dir, layout, kernel, rootfs) = world();
        let theirs = layout.top_image().vmlinux;
        fs::create_dir_all(&layout.images_root).unwrap();
        symlink("vmlinux-6.1", &theirs).unwrap();
        let request = ImportRequest { name: ImageName::default(), kernel, rootfs, initrd: None };
        import(&layout, &request, "now", &Interrupt::default()).unwrap();
        remove(&layout, &request.name).unwrap();
        assert_eq!(fs::read_link(theirs).unwrap(), Path::new("vmlinux-6.1"));
        assert_eq!(crate::fs::names(&layout.images_root).unwrap(), ["vmlinux"]);
    }

    #[test]
    fn what_an_unfinished_build_left_is_a_row_and_can_be_removed() {
        let (_dir, layout, ..) = world();
        let name: ImageName = "mine".parse().unwrap();
        fs::create_dir_all(layout.image_work(&name).join("tree")).unwrap();
        fs::write(layout.image_work(&name).join("tree/file"), vec![7; 8192]).unwrap();
        let rows = list(&layout).unwrap();
        assert_eq!((rows.len(), rows[0].name.as_str()), (1, "mine"));
        assert!(rows[0].allocated_bytes >= 8192 && rows[0].error.as_deref().unwrap().contains("remove mine"));
        remove(&layout, &name).unwrap();
        assert!(list(&layout).unwrap().is_empty());
        assert_eq!(remove(&layout, &name).unwrap_err().get_kind(), Kind::NotFound);
    }

    #[test]
    fn a_root_filesystem_that_is_cut_short_is_refused() {
        let (_dir, layout, kernel, rootfs) = world();
        File::options().write(true).open(&rootfs).unwrap().set_len(4 << 20).unwrap();
        let request = ImportRequest { name: ImageName::default(), kernel, rootfs, initrd: None };
        let error = import(&layout, &request, "now", &Interrupt::default()).unwrap_err();
        assert_eq!(error.get_kind(), Kind::Refused);
        assert!(error.one_line().contains("cut short"), "{}", error.one_line());
    }

    #[test]
    fn a_refused_import_leaves_nothing() {
        let (_dir, layout, kernel, rootfs) = world();
        for (kernel, rootfs) in [(&rootfs, &rootfs), (&kernel, &kernel)] {
            let request = ImportRequest {
                name: ImageName::default(),
                kernel: kernel.clone(),
                rootfs: rootfs.clone(),
                initrd: None,
            };
            assert_eq!(
                import(&layout, &request, "now", &Interrupt::default()).unwrap_err().get_kind(),
                Kind::Refused
            );
        }
        assert!(!layout.images_root.exists());
    }

    #[test]
    fn a_damaged_image_is_a_row() {
        let (_dir, layout, ..) = world();
        fs::create_dir_all(layout.images_root.join("broken")).unwrap();
        fs::write(layout.images_root.join("broken/manifest.json"), "{").unwrap();
        assert!(list(&layout).unwrap()[0].error.is_some());
    }
}

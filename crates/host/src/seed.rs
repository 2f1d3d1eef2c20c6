//! The `NoCloud` seed as a guest finds it: a small vfat disk labelled CIDATA, or, for kernels that know no vfat, files
//! inside the root filesystem. Touches the seed file or the disk it is given; runs `debugfs`.

pub mod reader;

use std::{
    fs::Permissions,
    io::{Cursor, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use fatfs::{Date, DateTime, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider, format_volume};
use fireclaw_core::{
    error::{Context, Error, Result},
    render::cloud_init::SeedFiles,
};

use crate::{
    disk::ext4,
    exec::{Cmd, Exec},
    fs,
};

/// The size of a seed disk: what the files need many times over, and small enough for FAT12.
const SIZE: usize = 2 << 20;
/// The label that cloud-init looks for, padded to FAT's eleven bytes.
const LABEL: [u8; 11] = *b"CIDATA     ";
/// Any number will do, and the same one makes the same image.
const VOLUME_ID: u32 = 0x00f1_7ec1;
/// Where cloud-init looks for a seed in the root filesystem, component by component.
const FOLDER: [&str; 5] = ["var", "lib", "cloud", "seed", "nocloud"];

/// Writes a seed disk, mode 0600. The same files give the same bytes.
pub fn write(path: &Path, files: &SeedFiles) -> Result<()> {
    let image = image(files).context("make seed", path.display())?;
    fs::write(path, &image, 0o600)
}

/// A disk without files.
fn formatted() -> std::io::Result<Cursor<Vec<u8>>> {
    let mut disk = Cursor::new(vec![0; SIZE]);
    format_volume(&mut disk, FormatVolumeOptions::new().volume_id(VOLUME_ID).volume_label(LABEL))?;
    Ok(disk)
}

fn image(files: &SeedFiles) -> std::io::Result<Vec<u8>> {
    let mut disk = formatted()?;
    {
        let volume = FileSystem::new(&mut disk, FsOptions::new().time_provider(&FIXED_TIME))?;
        for (name, content) in files.named() {
            let mut file = volume.root_dir().create_file(name)?;
            file.write_all(content.as_bytes())?;
            file.flush()?;
        }
        volume.unmount()?;
    }
    Ok(disk.into_inner())
}

/// The first moment that FAT knows, for every file: two seeds differ only where their files do.
#[derive(Debug)]
struct FixedTime;

static FIXED_TIME: FixedTime = FixedTime;

impl TimeProvider for FixedTime {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

/// Puts the files under /var/lib/cloud/seed/nocloud of an ext4 filesystem that nothing has mounted, for kernels with
/// neither vfat nor iso9660. Files that are there are replaced; what was put in is read back and compared.
pub fn put_into_rootfs(exec: &dyn Exec, disk: &Path, files: &SeedFiles) -> Result<()> {
    if ext4::inspect(disk)?.needs_recovery {
        // Replayed later, the journal could undo what is written now.
        ext4::repair(exec, disk)?;
    }
    // The copies hold the host key: they lie beside the disk, in a folder of their own, as private as the disk.
    let folder = tempfile::Builder::new()
        .prefix(".seed-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(disk.parent().unwrap_or_else(|| Path::new(".")))
        .context("make seed", disk.display())?;
    for (name, content) in files.named() {
        fs::write(&folder.path().join(name), content.as_bytes(), 0o600)?;
    }
    let disk_path = std::path::absolute(disk).context("find", disk.display())?;
    let debugfs = || Cmd::new("debugfs").cwd(folder.path()).about(disk.display());
    // Folders that are there are not made again: debugfs 1.47 refuses, and loses an inode over it.
    let mut present = 0;
    while present < FOLDER.len() {
        let request = format!("stat {}", folder_at(present + 1));
        if exec.check(debugfs().args(["-R", &request]).arg(&disk_path))?.stdout.is_empty() {
            break;
        }
        present += 1;
    }
    fs::write(&folder.path().join("commands"), commands(files, present).as_bytes(), 0o600)?;
    // debugfs exits with 0 whatever happens: what counts is what can be read afterwards.
    let said = exec.check(debugfs().args(["-w", "-f", "commands"]).arg(&disk_path))?.last_words();
    for (name, content) in files.named() {
        let request = format!("cat {}/{name}", folder_at(FOLDER.len()));
        if exec.check(debugfs().args(["-R", &request]).arg(&disk_path))?.stdout != content.as_bytes() {
            return Err(Error::new("put", format!("{name} into {}", disk.display()))
                .because(format!("debugfs said: {said}"))
                .hint(format!("look at the filesystem with `e2fsck -f -n {}`", disk.display())));
        }
    }
    Ok(())
}

/// The first components of the folder.
fn folder_at(depth: usize) -> String {
    format!("/{}", FOLDER[..depth].join("/"))
}

/// Commands of debugfs, of constants only, for a filesystem that has the first `present` folders.
fn commands(files: &SeedFiles, present: usize) -> String {
    let mut lines: Vec<String> =
        (present + 1..=FOLDER.len()).map(|depth| format!("mkdir {}", folder_at(depth))).collect();
    lines.push(format!("cd {}", folder_at(FOLDER.len())));
    for (name, _) in files.named() {
        // A file that is there is not overwritten; removing one that is not there does no harm.
        lines.push(format!("rm {name}"));
        lines.push(format!("write {name} {name}"));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use fireclaw_core::secret::Secret;

    use super::*;
    use crate::exec::SystemExec;

    fn files() -> SeedFiles {
        SeedFiles {
            user_data: Secret::new(format!("#cloud-config\n{{\"x\": \"🦀 '\\\" {}\"}}\n", "y".repeat(9000))),
            meta_data: "{}\n".into(),
            network_config: "{\"version\": 2}\n".into(),
        }
    }

    fn run(program: &str, args: &[&str]) -> Vec<u8> {
        SystemExec::default().check(Cmd::new(program).args(args)).unwrap().stdout
    }

    #[test]
    fn other_programs_find_the_label_and_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed.img");
        write(&path, &files()).unwrap();
        let name = path.to_str().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let facts = String::from_utf8(run("blkid", &["-p", "-o", "export", name])).unwrap();
        assert!(facts.contains("\nLABEL=CIDATA\n") && facts.contains("\nTYPE=vfat\n"), "{facts}");
        run("fsck.fat", &["-n", name]);
        let listed = String::from_utf8(run("mdir", &["-b", "-i", name, "::"])).unwrap();
        assert_eq!(listed, "::/user-data\n::/meta-data\n::/network-config\n");
        for (file, content) in files().named() {
            let read = run("mcopy", &["-n", "-i", name, &format!("::{file}"), "-"]);
            assert_eq!(String::from_utf8(read).unwrap(), content);
        }
    }

    #[test]
    fn the_same_files_make_the_same_image() {
        assert!(image(&files()).unwrap() == image(&files()).unwrap());
        assert_eq!(image(&files()).unwrap().len(), SIZE);
    }

    #[test]
    fn files_that_do_not_fit_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let huge = SeedFiles { meta_data: "x".repeat(SIZE), ..files() };
        assert!(write(&dir.path().join("seed.img"), &huge).is_err());
        assert!(fs::names(dir.path()).unwrap().is_empty());
    }

    fn rootfs(dir: &Path, size: &str) -> std::path::PathBuf {
        let disk = dir.join("root fs.ext4");
        run("mke2fs", &["-q", "-t", "ext4", disk.to_str().unwrap(), size]);
        disk
    }

    #[test]
    fn a_root_filesystem_takes_the_files_and_new_ones_after_them() {
        let dir = tempfile::tempdir().unwrap();
        let disk = rootfs(dir.path(), "16M");
        let exec = SystemExec::default();
        put_into_rootfs(&exec, &disk, &SeedFiles { meta_data: "old, and longer".into(), ..files() }).unwrap();
        put_into_rootfs(&exec, &disk, &files()).unwrap();
        let name = disk.to_str().unwrap();
        run("e2fsck", &["-f", "-n", name]);
        for (file, content) in files().named() {
            let path = format!("/var/lib/cloud/seed/nocloud/{file}");
            assert!(run("debugfs", &["-R", &format!("cat {path}"), name]) == content.as_bytes());
            let facts = String::from_utf8(run("debugfs", &["-R", &format!("stat {path}"), name])).unwrap();
            assert!(facts.contains("Mode:  0600") && facts.contains("User:     0"), "{facts}");
        }
        assert_eq!(fs::names(dir.path()).unwrap(), ["root fs.ext4"]);
    }

    #[test]
    fn a_full_root_filesystem_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let disk = rootfs(dir.path(), "1M");
        let huge = SeedFiles { meta_data: "x".repeat(SIZE), ..files() };
        let error = put_into_rootfs(&SystemExec::default(), &disk, &huge).unwrap_err();
        assert!(error.one_line().contains("put meta-data into"), "{}", error.one_line());
    }
}

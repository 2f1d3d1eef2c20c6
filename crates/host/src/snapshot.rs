//! The files of a snapshot on the disk: what they are tied to, whether they are whole, and their sparse form. Reads the files
//! of a VM and /proc/cpuinfo; writes only the files that it is given.

use std::{
    fs::File,
    hash::Hasher as _,
    num::NonZero,
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use fireclaw_core::{
    error::{Context, Error, Result},
    snapshot::{FileMark, Machine, Sum, Ties},
};
use nix::errno::Errno;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use sha2::{Digest, Sha256};
use twox_hash::XxHash64;

use crate::vmm::VmSpec;

/// The unit in which memory is looked at: a run of zeros of this size, at such a place, takes no room.
const BLOCK: usize = 64 << 10;
/// Nothing.
static ZEROS: [u8; BLOCK] = [0; BLOCK];
/// What one reader takes at a time: whole blocks. The sum depends on it.
const PIECE: usize = 16 << 20;
/// As many as keep a fast disk busy.
const READERS: usize = 4;

/// What a snapshot of this VM is tied to, as it is now. `version` is that of its VMM.
pub fn ties(spec: &VmSpec, version: String) -> Result<Ties> {
    let optional = [("initrd", &spec.initrd), ("base", &spec.base)];
    let files = [("kernel", &spec.kernel), ("disk", &spec.disk), ("seed", &spec.seed)]
        .into_iter()
        .chain(optional.into_iter().filter_map(|(name, path)| Some((name, path.as_ref()?))))
        .map(|(name, path)| Ok((name.to_owned(), mark(path)?)))
        .collect::<Result<_>>()?;
    let uname = rustix::system::uname();
    Ok(Ties {
        vmm_version: version,
        cpu: cpu(Path::new("/proc/cpuinfo"))?,
        host_kernel: uname.release().to_string_lossy().into_owned(),
        files,
        machine: Machine {
            vcpu: spec.vcpu,
            mem_mib: spec.mem_mib,
            mac: spec.mac,
            ip: spec.ip,
            tap: spec.tap.clone(),
            uid: spec.uid,
        },
    })
}

fn mark(path: &Path) -> Result<FileMark> {
    let facts = std::fs::metadata(path).context("look at", path.display())?;
    let modified_ns = facts.mtime().saturating_mul(1_000_000_000).saturating_add(facts.mtime_nsec());
    Ok(FileMark { size: facts.size(), modified_ns, inode: facts.ino() })
}

/// The lines of `/proc/cpuinfo` that tell one model of processor from another, on `x86_64` and `aarch64`.
const CPU: [&str; 12] = [
    "vendor_id",
    "cpu family",
    "model",
    "model name",
    "stepping",
    "flags",
    "CPU implementer",
    "CPU architecture",
    "CPU variant",
    "CPU part",
    "CPU revision",
    "Features",
];

/// A digest of the first processor's model and features.
fn cpu(cpuinfo: &Path) -> Result<String> {
    let text = std::fs::read_to_string(cpuinfo).context("read", cpuinfo.display())?;
    let mut hasher = Sha256::new();
    for line in text.lines().take_while(|line| !line.trim().is_empty()) {
        if line.split_once(':').is_some_and(|(name, _)| CPU.contains(&name.trim())) {
            hasher.update(line.as_bytes());
            hasher.update(b"\n");
        }
    }
    Ok(hasher.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

/// Makes a file sparse and durable, and gives its sum.
pub fn seal(path: &Path) -> Result<Sum> {
    let file = File::options().read(true).write(true).open(path).context("open", path.display())?;
    let sum = walk(&file, true).context("read", path.display())?;
    file.sync_all().context("sync", path.display())?;
    Ok(sum)
}

/// Fails unless a file is as it was when it was sealed.
pub fn check(path: &Path, sealed: Sum) -> Result<()> {
    let damaged = |why: &str| Err(Error::new("use", path.display().to_string()).because(why.to_owned()));
    let file = File::open(path).context("open", path.display())?;
    if file.metadata().context("look at", path.display())?.len() != sealed.size {
        return damaged("its size is another than when it was written");
    }
    if walk(&file, false).context("read", path.display())? != sealed {
        return damaged("its checksum does not match");
    }
    Ok(())
}

/// Sums the blocks that hold anything, each with its place, and skips holes without reading them. The sum is the same however
/// the filesystem keeps the zeros; with `punch` it keeps them no longer. Several read at once: one alone keeps no disk busy that is
/// made of flash, and somebody may be waiting. The sum is that of the pieces' sums.
fn walk(file: &File, punch: bool) -> std::io::Result<Sum> {
    let size = file.metadata()?.len();
    let pieces: Vec<Range<u64>> =
        (0..size).step_by(PIECE).map(|at| at..size.min(at.saturating_add(PIECE as u64))).collect();
    let next = AtomicUsize::new(0);
    let read = || -> std::io::Result<Vec<(usize, u64)>> {
        let mut sums = Vec::new();
        let mut block = vec![0; BLOCK];
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(number) else { return Ok(sums) };
            sums.push((number, walk_piece(file, piece, punch, &mut block)?));
        }
    };
    let readers = thread::available_parallelism().map_or(1, NonZero::get).min(READERS);
    let mut sums = thread::scope(|scope| {
        let others: Vec<_> = (1..readers).map(|_| scope.spawn(read)).collect();
        let mut sums = read()?;
        for other in others {
            sums.extend(other.join().map_err(|_| std::io::Error::other("a reader gave up"))??);
        }
        std::io::Result::Ok(sums)
    })?;
    sums.sort_unstable_by_key(|(number, _)| *number);
    let mut whole = XxHash64::with_seed(0);
    for (_, sum) in &sums {
        whole.write(&sum.to_le_bytes());
    }
    Ok(Sum { size, xxh64: whole.finish() })
}

/// One piece, which begins with a block.
fn walk_piece(file: &File, piece: &Range<u64>, punch: bool, block: &mut [u8]) -> std::io::Result<u64> {
    let mut sum = XxHash64::with_seed(0);
    let step = BLOCK as u64;
    let mut at = piece.start;
    while let Some(data) = next_data(file, at)?.filter(|data| *data < piece.end) {
        at = data / step * step;
        let length = usize::try_from((piece.end - at).min(step)).unwrap_or(BLOCK);
        let block = &mut block[..length];
        file.read_exact_at(block, at)?;
        // Compared as a whole: 4.1 GB/s and not 2.4.
        if *block != ZEROS[..length] {
            sum.write(&at.to_le_bytes());
            sum.write(block);
        } else if punch {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match fallocate(file, hole, at, length as u64) {
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        at += step;
        if at >= piece.end {
            break;
        }
    }
    Ok(sum.finish())
}

/// The first place from `from` on that is not a hole; `None` behind the last.
fn next_data(file: &File, from: u64) -> std::io::Result<Option<u64>> {
    match seek(file, SeekFrom::Data(from)) {
        Ok(at) => Ok(Some(at)),
        Err(error) if error.raw_os_error() == Errno::ENXIO as i32 => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;
    use crate::disk::space::allocated_bytes;

    /// A file of whole and half blocks, some of them zeros that were written.
    fn memory(dir: &Path) -> std::path::PathBuf {
        let path = dir.join("memory");
        let mut file = File::create(&path).unwrap();
        file.write_all(&vec![0; 8 * BLOCK]).unwrap();
        file.write_all(&vec![7; BLOCK]).unwrap();
        file.seek(std::io::SeekFrom::Start(32 * BLOCK as u64)).unwrap();
        file.write_all(b"end").unwrap();
        path
    }

    #[test]
    fn zeros_take_no_room_and_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = memory(dir.path());
        let before = allocated_bytes(&path).unwrap();
        let content = std::fs::read(&path).unwrap();
        let sum = seal(&path).unwrap();
        assert!(allocated_bytes(&path).unwrap() + 8 * BLOCK as u64 <= before, "{before}");
        assert_eq!(std::fs::read(&path).unwrap(), content);
        check(&path, sum).unwrap();
        // The same content with its zeros written out.
        std::fs::write(&path, &content).unwrap();
        check(&path, sum).unwrap();
    }

    /// A memory that was kept before an upgrade is still of use.
    #[test]
    fn the_sum_is_that_of_all_pieces_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        let file = File::create(&path).unwrap();
        let size = 3 * PIECE as u64 + 100;
        file.set_len(size).unwrap();
        let places = [0, BLOCK as u64 * 7, PIECE as u64 - 5, PIECE as u64, 2 * PIECE as u64 + 9, size - 50];
        for at in places {
            file.write_all_at(b"something that lies here", at).unwrap();
        }
        let content = std::fs::read(&path).unwrap();
        let mut expected = Vec::new();
        for (number, piece) in content.chunks(PIECE).enumerate() {
            let mut summed = Vec::new();
            for (block, bytes) in piece.chunks(BLOCK).enumerate() {
                if bytes.iter().any(|byte| *byte != 0) {
                    summed.extend(((number * PIECE + block * BLOCK) as u64).to_le_bytes());
                    summed.extend(bytes);
                }
            }
            expected.extend(XxHash64::oneshot(0, &summed).to_le_bytes());
        }
        assert_eq!(seal(&path).unwrap(), Sum { size, xxh64: XxHash64::oneshot(0, &expected) });
    }

    #[test]
    fn any_change_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = memory(dir.path());
        let sum = seal(&path).unwrap();
        let content = std::fs::read(&path).unwrap();
        for place in [0, 3 * BLOCK + 5, 8 * BLOCK, content.len() - 1] {
            let mut other = content.clone();
            other[place] ^= 1;
            std::fs::write(&path, other).unwrap();
            assert!(check(&path, sum).unwrap_err().one_line().contains("checksum"), "{place}");
        }
        // A block that has moved.
        let mut moved = content.clone();
        moved.swap(8 * BLOCK, 9 * BLOCK);
        moved[8 * BLOCK..9 * BLOCK].fill(0);
        moved[9 * BLOCK..10 * BLOCK].fill(7);
        std::fs::write(&path, moved).unwrap();
        assert!(check(&path, sum).is_err());
        std::fs::write(&path, &content[..content.len() - 1]).unwrap();
        assert!(check(&path, sum).unwrap_err().one_line().contains("size"));
        std::fs::remove_file(&path).unwrap();
        assert!(check(&path, sum).is_err());
    }

    #[test]
    fn a_processor_is_its_model_and_its_flags_and_not_its_speed() {
        let dir = tempfile::tempdir().unwrap();
        let digest = |text: &str| {
            std::fs::write(dir.path().join("cpuinfo"), text).unwrap();
            cpu(&dir.path().join("cpuinfo")).unwrap()
        };
        let text = "processor\t: 0\nmodel\t\t: 49\ncpu MHz\t\t: 2249\nflags\t\t: fpu svm\n\nprocessor\t: 1\n";
        let this = digest(text);
        assert_eq!(digest(&text.replace("2249", "3000")), this);
        assert_eq!(digest(text.split("\n\n").next().unwrap()), this);
        assert_ne!(digest(&text.replace("49", "50")), this);
        assert_ne!(digest(&text.replace(" svm", "")), this);
    }

    #[test]
    fn a_write_to_the_disk_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = VmSpec::example();
        for path in [&mut spec.kernel, &mut spec.disk, &mut spec.seed] {
            *path = dir.path().join(path.file_name().unwrap());
            std::fs::write(path, "x").unwrap();
        }
        spec.initrd = None;
        let then = ties(&spec, "1".into()).unwrap();
        then.hold(&ties(&spec, "1".into()).unwrap()).unwrap();
        // One byte in place: neither size nor inode tell.
        crate::wait::pause_for(std::time::Duration::from_millis(20));
        File::options().write(true).open(&spec.disk).unwrap().write_all(b"y").unwrap();
        let misfit = then.hold(&ties(&spec, "1".into()).unwrap()).unwrap_err();
        assert!(misfit.0.contains("the disk was written"), "{misfit}");
    }
}

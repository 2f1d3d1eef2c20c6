//! Whether an unpacked kernel can be entered as it is by QEMU: by PVH, which a note in its ELF file tells of. Reads it.
//!
//! Sources: elf(5) for header and notes; include/xen/interface/elfnote.h of Linux for the note's number.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

const PT_NOTE: u32 = 4;
const X86_64: u16 = 62;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const PHYS32_ENTRY: u32 = 18;
/// A kernel's notes are some hundred bytes.
const NOTES_MAX: usize = 64 << 10;

/// Whether the file is an ELF kernel for x86 with that note. False for what cannot be read.
pub fn has_pvh_entry(kernel: &Path) -> bool {
    entry(kernel).is_some()
}

fn entry(kernel: &Path) -> Option<()> {
    let file = File::open(kernel).ok()?;
    let read = |at: u64, length: usize| {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
    };
    let head = read(0, 64)?;
    if !head.starts_with(b"\x7fELF\x02\x01") || half(&head, 18)? != X86_64 {
        return None;
    }
    let (table, size, count) = (long(&head, 32)?, half(&head, 54)?, half(&head, 56)?);
    (0..u64::from(count)).find_map(|index| {
        let header = read(table.checked_add(index * u64::from(size))?, 56)?;
        let length = usize::try_from(long(&header, 32)?).ok().filter(|length| *length <= NOTES_MAX)?;
        (word(&header, 0)? == PT_NOTE)
            .then(|| read(long(&header, 8)?, length))
            .flatten()
            .and_then(|it| noted(&it))
    })
}

/// Notes: lengths of name and content, kind, name, content, each filled up to four bytes.
fn noted(mut notes: &[u8]) -> Option<()> {
    loop {
        let (name, content) = (word(notes, 0)? as usize, word(notes, 4)? as usize);
        if word(notes, 8)? == PHYS32_ENTRY && notes.get(12..16)? == b"Xen\0" {
            return Some(());
        }
        notes = notes.get(12 + name.next_multiple_of(4) + content.next_multiple_of(4)..)?;
    }
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..at + N)?.try_into().ok()
}

fn half(from: &[u8], at: usize) -> Option<u16> {
    bytes(from, at).map(u16::from_le_bytes)
}

fn word(from: &[u8], at: usize) -> Option<u32> {
    bytes(from, at).map(u32::from_le_bytes)
}

fn long(from: &[u8], at: usize) -> Option<u64> {
    bytes(from, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file with one segment of notes.
    fn elf(machine: u16, notes: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 120];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&machine.to_le_bytes());
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        file[64] = 4;
        file[72] = 120;
        file[96..104].copy_from_slice(&(notes.len() as u64).to_le_bytes());
        [&file, notes].concat()
    }

    fn note(name: [u8; 4], kind: u32, content: &[u8]) -> Vec<u8> {
        let mut note = [4, u32::try_from(content.len()).unwrap(), kind].map(u32::to_le_bytes).concat();
        note.extend(name);
        note.extend(content);
        note.resize(note.len().next_multiple_of(4), 0);
        note
    }

    fn asked(bytes: &[u8]) -> bool {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        has_pvh_entry(file.path())
    }

    #[test]
    fn only_an_x86_kernel_that_says_so_has_one() {
        let others = [note(*b"GNU\0", 18, b"x"), note(*b"Xen\0", 5, b"12345")].concat();
        let with = [others.clone(), note(*b"Xen\0", 18, &[0; 8])].concat();
        assert!(asked(&elf(62, &with)));
        assert!(!asked(&elf(62, &others)) && !asked(&elf(183, &with)) && !asked(&elf(62, &[])));
        assert!(!asked(&with) && !has_pvh_entry(Path::new("/missing")));
    }

    proptest! {
        #[test]
        fn no_file_makes_it_fail(mut notes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..200, at in 0usize..120, byte: u8) {
            notes.extend(note(*b"Xen\0", 18, &[0; 8]));
            let mut file = elf(62, &notes);
            file[at] = byte;
            file.truncate(file.len().saturating_sub(cut));
            asked(&file);
        }
    }
}

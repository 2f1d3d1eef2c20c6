//! Kernels: what kind of file one is, and how the ELF file that VMMs start comes out of what distributions pack. Reads
//! and writes the files it is given.
//!
//! Layouts: the x86 boot protocol (Documentation/arch/x86/boot.rst), the arm64 image header
//! (Documentation/arch/arm64/booting.rst), and the EFI zboot header (drivers/firmware/efi/libstub/zboot-header.S).

use std::{borrow::Cow, io::Read, path::Path};

use fireclaw_core::error::{Context, Error, Kind, Result};

/// What a file that boots is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelKind {
    /// An ELF file: every Firecracker starts it.
    Elf,
    /// A compressed x86 kernel: QEMU starts it, Firecracker from 1.17 on.
    BzImage,
    /// A plain arm64 kernel.
    ArmImage,
    /// A compressed arm64 kernel: an EFI program, or gzip as it is.
    ArmPacked,
}

impl KernelKind {
    /// The kind of a kernel by its first kilobyte.
    fn of(head: &[u8]) -> Option<Self> {
        if head.starts_with(b"\x7fELF") {
            Some(Self::Elf)
        } else if head.get(0x202..0x206) == Some(b"HdrS") && head.get(0x1fe..0x200) == Some(b"\x55\xaa") {
            Some(Self::BzImage)
        } else if head.get(56..60) == Some(b"ARM\x64") {
            Some(Self::ArmImage)
        } else if head.starts_with(b"\x1f\x8b") || (head.starts_with(b"MZ") && head.get(4..8) == Some(b"zimg")) {
            Some(Self::ArmPacked)
        } else {
            None
        }
    }
}

/// The largest kernel that is looked at: debug builds reach hundreds of mebibytes.
const LARGEST: u64 = 1 << 30;

/// Refuses a file that is no kernel.
pub fn check_kernel(path: &Path) -> Result<KernelKind> {
    let mut head = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(1024).read_to_end(&mut head))
        .context("read kernel", path.display())
        .map_err(|error| error.kind(Kind::Refused))?;
    KernelKind::of(&head).ok_or_else(|| not_a_kernel(path))
}

fn not_a_kernel(path: &Path) -> Error {
    Error::refused("kernel", path.display(), "is neither an ELF file (vmlinux) nor a Linux kernel image (bzImage)")
        .hint("kernels of a distribution are /boot/vmlinuz-*; `fireclaw image build` makes a whole image")
}

/// Reads a kernel and gives what VMMs start: ELF on x86, the plain image on arm64.
pub fn unpacked(path: &Path) -> Result<Vec<u8>> {
    let mut packed = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LARGEST).read_to_end(&mut packed))
        .context("read kernel", path.display())?;
    match unpack(&packed) {
        Ok(Cow::Owned(plain)) => Ok(plain),
        Ok(Cow::Borrowed(_)) => Ok(packed),
        Err(error) => Err(Error::new("unpack kernel", path.display().to_string()).source(error)),
    }
}

/// The plain kernel inside of `kernel`, or `kernel` when it is plain.
pub fn unpack(kernel: &[u8]) -> Result<Cow<'_, [u8]>> {
    let plain = match KernelKind::of(kernel) {
        Some(KernelKind::Elf | KernelKind::ArmImage) => return Ok(Cow::Borrowed(kernel)),
        Some(KernelKind::BzImage) => decompress(x86_payload(kernel)?)?,
        Some(KernelKind::ArmPacked) => decompress(arm_payload(kernel)?)?,
        None => return Err(malformed("it is no kernel image")),
    };
    match KernelKind::of(&plain) {
        Some(KernelKind::Elf | KernelKind::ArmImage) => Ok(Cow::Owned(plain)),
        _ => Err(malformed("what it holds is no kernel")),
    }
}

fn malformed(why: &str) -> Error {
    Error::new("understand", "the kernel's format").because(why)
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    usize::try_from(u32::from_le_bytes(four.try_into().ok()?)).ok()
}

fn slice(bytes: &[u8], from: usize, length: usize) -> Result<&[u8]> {
    from.checked_add(length)
        .and_then(|end| bytes.get(from..end))
        .ok_or_else(|| malformed("its payload lies beyond its end"))
}

/// The compressed part of a bzImage: after the real-mode sectors, where the header says.
fn x86_payload(kernel: &[u8]) -> Result<&[u8]> {
    let header = |at| number(kernel, at).ok_or_else(|| malformed("its header is cut short"));
    let protocol = header(0x206)? & 0xffff;
    if protocol < 0x208 {
        return Err(malformed("its boot protocol is older than 2.08"));
    }
    let sectors = match kernel.get(0x1f1) {
        None | Some(0) => 4,
        Some(&sectors) => usize::from(sectors),
    };
    let (offset, length) = (header(0x248)?, header(0x24c)?);
    slice(kernel, (sectors + 1) * 512 + offset, length)
}

fn arm_payload(kernel: &[u8]) -> Result<&[u8]> {
    if kernel.starts_with(b"\x1f\x8b") {
        return Ok(kernel);
    }
    let (offset, length) = (number(kernel, 8), number(kernel, 12));
    match (offset, length) {
        (Some(offset), Some(length)) => slice(kernel, offset, length),
        _ => Err(malformed("its header is cut short")),
    }
}

/// Decompresses by the data's own magic. What follows the compressed stream (the kernel build appends the size) is not
/// looked at.
pub(super) fn decompress(data: &[u8]) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    let done = if data.starts_with(b"\x28\xb5\x2f\xfd") {
        zstd::stream::read::Decoder::with_buffer(data)
            .map(zstd::stream::read::Decoder::single_frame)
            .and_then(|decoder| decoder.take(LARGEST).read_to_end(&mut plain))
    } else if data.starts_with(b"\xfd7zXZ\0") {
        xz2::bufread::XzDecoder::new(data).take(LARGEST).read_to_end(&mut plain)
    } else if data.starts_with(b"\x5d\0\0") {
        let stream = xz2::stream::Stream::new_lzma_decoder(u64::MAX).context("unpack", "LZMA data")?;
        xz2::bufread::XzDecoder::new_stream(data, stream).take(LARGEST).read_to_end(&mut plain)
    } else if data.starts_with(b"\x1f\x8b") {
        flate2::bufread::GzDecoder::new(data).take(LARGEST).read_to_end(&mut plain)
    } else if data.starts_with(&LZ4_LEGACY) {
        return lz4_legacy(&data[4..]);
    } else {
        return Err(malformed("it is compressed in a way that is not known here (known: zstd, xz, lzma, gzip, lz4)"));
    };
    done.context("decompress", "the kernel")?;
    Ok(plain)
}

/// The magic number of LZ4's legacy frames, which `lz4 -l` and the kernel build write.
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// The size of a block before compression, but for the last.
const LZ4_BLOCK: usize = 8 << 20;

/// Legacy frames are blocks, each after its length. A length that is none of a block ends them.
fn lz4_legacy(mut data: &[u8]) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    while let Some(length) = number(data, 0) {
        let Some(block) = data.get(4..4_usize.saturating_add(length)).filter(|block| !block.is_empty()) else { break };
        let part = lz4_flex::block::decompress(block, LZ4_BLOCK).context("decompress", "the kernel")?;
        let last = part.len() < LZ4_BLOCK;
        plain.extend_from_slice(&part);
        if last {
            break;
        }
        data = &data[4 + length..];
    }
    Ok(plain)
}

//! Kernels: what kind of file one is, and how what every VMM starts comes out of what distributions pack. Pure.
//!
//! Layouts: the x86 boot protocol (Documentation/arch/x86/boot.rst), the arm64 image header
//! (Documentation/arch/arm64/booting.rst), and the EFI zboot header (drivers/firmware/efi/libstub/zboot-header.S).

use std::{borrow::Cow, io::Read};

use fireclaw_core::error::{Context, Error, Result};

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
    /// The kind of a kernel by its first kilobyte; `None` for what is none.
    pub fn of(head: &[u8]) -> Option<Self> {
        if head.starts_with(b"\x7fELF") {
            Some(Self::Elf)
        } else if head.get(0x202..0x206) == Some(b"HdrS") {
            Some(Self::BzImage)
        } else if head.get(56..60) == Some(b"ARM\x64") {
            Some(Self::ArmImage)
        } else if head.starts_with(b"\x1f\x8b")
            || (head.starts_with(b"MZ") && head.get(4..8) == Some(b"zimg"))
        {
            Some(Self::ArmPacked)
        } else {
            None
        }
    }

    /// Whether the kernel lies packed in it, which not every VMM starts.
    pub const fn is_packed(self) -> bool {
        matches!(self, Self::BzImage | Self::ArmPacked)
    }
}

/// The largest kernel that is looked at: debug builds reach hundreds of mebibytes.
const LARGEST: u64 = 1 << 30;

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
        // The decoder takes what follows for a broken second stream. A stream ends in its footer's magic number.
        let stream = if data.ends_with(b"YZ") { data } else { &data[..data.len() - 4] };
        xz2::bufread::XzDecoder::new(stream).take(LARGEST).read_to_end(&mut plain)
    } else if data.starts_with(b"\x1f\x8b") {
        flate2::bufread::GzDecoder::new(data).take(LARGEST).read_to_end(&mut plain)
    } else if data.starts_with(&LZ4_LEGACY) {
        return lz4_legacy(&data[4..]);
    } else {
        return Err(malformed(
            "it is compressed in a way that is not known here (known: zstd, xz, gzip, lz4)",
        ));
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
        let Some(block) = data.get(4..4_usize.saturating_add(length)).filter(|block| !block.is_empty())
        else {
            break;
        };
        let part = lz4_flex::block::decompress(block, LZ4_BLOCK).context("decompress", "the kernel")?;
        let last = part.len() < LZ4_BLOCK;
        plain.extend_from_slice(&part);
        if plain.len() as u64 > LARGEST {
            return Err(malformed("what is in it is too large for a kernel"));
        }
        if last {
            break;
        }
        data = &data[4 + length..];
    }
    Ok(plain)
}

/// Kernels for tests.
#[cfg(any(test, feature = "fakes"))]
pub mod fake {
    /// An x86 kernel with this compressed payload, as far as the boot protocol says where it lies.
    pub fn bz_image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * 512];
        image[0x1f1] = 2;
        image[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        let length = u32::try_from(payload.len()).expect("a test's payload is small");
        image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        image.extend([0; 16]);
        image.extend(payload);
        image.extend([0; 64]);
        image
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{fake::bz_image, *};

    fn elf() -> Vec<u8> {
        let mut elf = b"\x7fELF".to_vec();
        elf.extend((0..100_000_u32).flat_map(u32::to_le_bytes));
        elf
    }

    fn arm_image() -> Vec<u8> {
        let mut image = vec![7; 5000];
        image[56..60].copy_from_slice(b"ARM\x64");
        image
    }

    fn zboot(payload: &[u8]) -> Vec<u8> {
        let mut image = b"MZ\0\0zimg".to_vec();
        image.extend(64_u32.to_le_bytes());
        image.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.resize(64, 0);
        image.extend(payload);
        image
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn xz(plain: &[u8]) -> Vec<u8> {
        let mut encoder = xz2::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn lz4(plain: &[u8]) -> Vec<u8> {
        let mut frames = LZ4_LEGACY.to_vec();
        for block in plain.chunks(LZ4_BLOCK) {
            let packed = lz4_flex::block::compress(block);
            frames.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
            frames.extend(packed);
        }
        frames
    }

    #[test]
    fn every_compression_of_distributions_is_unpacked() {
        let length = u32::try_from(elf().len()).unwrap().to_le_bytes();
        let zstd = zstd::encode_all(elf().as_slice(), 1).unwrap();
        for mut payload in [gzip(&elf()), xz(&elf()), lz4(&elf()), zstd] {
            assert_eq!(unpack(&bz_image(&payload)).unwrap(), elf());
            payload.extend(length);
            assert_eq!(unpack(&bz_image(&payload)).unwrap(), elf());
        }
    }

    #[test]
    fn blocks_of_lz4_are_joined() {
        let mut large = elf();
        large.resize(2 * LZ4_BLOCK + 5, 3);
        assert_eq!(unpack(&bz_image(&lz4(&large))).unwrap(), large);
        large.resize(2 * LZ4_BLOCK, 3);
        let mut payload = lz4(&large);
        payload.extend(u32::try_from(large.len()).unwrap().to_le_bytes());
        assert_eq!(unpack(&bz_image(&payload)).unwrap(), large);
    }

    #[test]
    fn arm_kernels_are_unpacked_from_gzip_and_from_efi_programs() {
        assert_eq!(unpack(&arm_image()).unwrap(), arm_image());
        assert_eq!(unpack(&gzip(&arm_image())).unwrap(), arm_image());
        assert_eq!(unpack(&zboot(&gzip(&arm_image()))).unwrap(), arm_image());
        assert_eq!(
            unpack(&zboot(&zstd::encode_all(arm_image().as_slice(), 1).unwrap())).unwrap(),
            arm_image()
        );
    }

    #[test]
    fn what_is_plain_stays_as_it_is() {
        assert!(matches!(unpack(&elf()), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn what_is_damaged_is_an_error() {
        assert!(unpack(b"text").is_err());
        assert!(unpack(b"").is_err());
        assert!(unpack(&bz_image(&[1, 2, 3, 4])).is_err());
        assert!(unpack(&bz_image(&gzip(b"no kernel"))).is_err());
        assert!(unpack(&gzip(b"no kernel")).is_err());
        let whole = bz_image(&gzip(&elf()));
        for cut in [0x1f0, 0x206, 0x24e, 700, 1600, whole.len() / 2] {
            assert!(unpack(&whole[..cut]).is_err(), "{cut}");
        }
        let mut beyond = whole.clone();
        beyond[0x248..0x24c].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(unpack(&beyond).is_err());
        let mut old = whole;
        old[0x206..0x208].copy_from_slice(&0x207_u16.to_le_bytes());
        assert!(unpack(&old).is_err());
    }
}

//! The ELF kernel inside a bzImage, for Firecrackers that take no bzImage. Pure but for the decompressors.
//!
//! The x86 boot protocol (Linux, Documentation/arch/x86/boot.rst): `setup_sects` at 0x1f1, the payload's offset and length at
//! 0x248 and 0x24c, counted from the end of the setup sectors. The payload is compressed and followed by its length.

use std::io::Read;

use fireclaw_core::error::{Context, Error, Result};

/// More than any kernel unpacks to.
const LARGEST: u64 = 512 << 20;

/// Unpacks a bzImage. An ELF kernel comes back as it is; `None` for what is neither (an arm64 image boots as it is).
pub fn to_elf(image: &[u8]) -> Result<Option<Vec<u8>>> {
    if image.starts_with(b"\x7fELF") {
        return Ok(Some(image.to_vec()));
    }
    if image.get(0x202..0x206) != Some(b"HdrS") {
        return Ok(None);
    }
    let damaged = || Error::new("unpack", "the kernel").because("its boot header points outside of it");
    let word = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).ok_or_else(damaged)?;
        usize::try_from(u32::from_le_bytes(bytes)).map_err(|_| damaged())
    };
    // 0 means 4, for the oldest kernels.
    let sectors = match image.get(0x1f1).copied().ok_or_else(damaged)? {
        0 => 4,
        count => usize::from(count),
    };
    let begin = (sectors + 1) * 512 + word(0x248)?;
    let payload = image.get(begin..begin + word(0x24c)?).ok_or_else(damaged)?;
    // The last four bytes are the length of what was packed; a decoder takes them for a broken second stream.
    let elf = decompress(&payload[..payload.len().saturating_sub(4)])?;
    if !elf.starts_with(b"\x7fELF") {
        return Err(Error::new("unpack", "the kernel").because("what was packed in it is no ELF file"));
    }
    Ok(Some(elf))
}

/// Unpacks by magic number.
fn decompress(payload: &[u8]) -> Result<Vec<u8>> {
    let reader: Box<dyn Read + '_> = match payload {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::GzDecoder::new(payload)),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Box::new(xz2::read::XzDecoder::new(payload)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(
            zstd::stream::read::Decoder::with_buffer(payload).context("unpack", "the kernel")?.single_frame(),
        ),
        [first, second, ..] => {
            return Err(Error::new("unpack", "the kernel").because(format!(
                "its compression begins with {first:02x} {second:02x}, which is not known here"
            )));
        }
        _ => return Err(Error::new("unpack", "the kernel").because("it is empty")),
    };
    let mut elf = Vec::new();
    reader.take(LARGEST).read_to_end(&mut elf).context("unpack", "the kernel")?;
    Ok(elf)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn bz_image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * 512];
        image[0x1f1] = 2;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.extend([0; 16]);
        image.extend(payload);
        image.extend([0; 64]);
        image
    }

    fn elf() -> Vec<u8> {
        let mut elf = b"\x7fELF".to_vec();
        elf.extend((0..100_000_u32).flat_map(u32::to_le_bytes));
        elf
    }

    #[test]
    fn every_compression_of_distributions_is_unpacked() {
        let length = u32::try_from(elf().len()).unwrap().to_le_bytes();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&elf()).unwrap();
        let mut xz = xz2::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&elf()).unwrap();
        for mut payload in
            [gzip.finish().unwrap(), xz.finish().unwrap(), zstd::encode_all(elf().as_slice(), 1).unwrap()]
        {
            payload.extend(length);
            assert_eq!(to_elf(&bz_image(&payload)).unwrap().unwrap(), elf());
        }
    }

    #[test]
    fn what_is_damaged_is_an_error_and_what_is_another_thing_is_none() {
        assert_eq!(to_elf(&elf()).unwrap().unwrap(), elf());
        assert_eq!(to_elf(b"text").unwrap(), None);
        let mut short = bz_image(b"xx");
        short.truncate(700);
        assert!(to_elf(&short).is_err());
        assert!(to_elf(&bz_image(&[1, 2, 3])).is_err());
        assert!(to_elf(&bz_image(&zstd::encode_all(&b"no elf"[..], 1).unwrap())).is_err());
    }
}

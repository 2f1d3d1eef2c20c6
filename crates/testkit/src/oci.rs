//! Container images in an OCI layout, from tarballs. Writes below the folder that it is given.
//!
//! The layout is the one of the image specification: `oci-layout`, `index.json`, `blobs/sha256/…`. [`crate::registry`] serves it.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What runs in the container.
#[derive(Debug, Clone, Default)]
pub struct Runs {
    /// A user of the image's own /etc/passwd, or `uid:gid`.
    pub user: String,
    /// Where it starts.
    pub workdir: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// What it starts when nothing is said.
    pub command: Vec<String>,
}

impl Runs {
    /// As OpenClaw's own image: user `node`, in /app, where `dist/index.js` is the command line.
    pub fn openclaw() -> Self {
        Self {
            user: "node".to_owned(),
            workdir: "/app".to_owned(),
            env: vec!["PATH=/usr/local/bin:/usr/bin:/bin".to_owned(), "HOME=/home/node".to_owned()],
            command: ["node", "dist/index.js", "gateway"].map(str::to_owned).to_vec(),
        }
    }
}

/// A layout in a folder.
#[derive(Debug, Clone)]
pub struct Layout {
    dir: PathBuf,
}

/// A layer that lies in a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    digest: String,
    size: u64,
    diff_id: String,
}

impl Layout {
    /// Begins an empty layout.
    pub fn create(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir.join("blobs/sha256"))?;
        fs::write(dir.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
        let layout = Self { dir: dir.to_owned() };
        layout.write_index(&[])?;
        Ok(layout)
    }

    /// Takes the layout that is there, else begins an empty one.
    pub fn open_or_create(dir: &Path) -> io::Result<Self> {
        if dir.join("index.json").exists() { Ok(Self { dir: dir.to_owned() }) } else { Self::create(dir) }
    }

    /// Adds a layer from an uncompressed tarball; later layers lie over earlier ones.
    pub fn layer(&self, tar: impl Read) -> io::Result<Layer> {
        let part = self.dir.join("blobs/.part");
        let compressed = Hashing::new(BufWriter::new(File::create(&part)?));
        let mut plain = Hashing::new(GzEncoder::new(compressed, Compression::fast()));
        io::copy(&mut BufReader::with_capacity(1 << 16, tar), &mut plain)?;
        let (encoder, diff_id, _) = plain.end();
        let (mut file, digest, size) = encoder.finish()?.end();
        file.flush()?;
        fs::rename(part, self.blob(&digest))?;
        Ok(Layer { digest, size, diff_id })
    }

    /// Adds an image under a tag; returns its digest.
    pub fn image(&self, tag: &str, layers: &[Layer], runs: &Runs) -> io::Result<String> {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = self.put(&json!({
            "architecture": architecture, "os": "linux",
            "config": {"User": runs.user, "WorkingDir": runs.workdir, "Env": runs.env, "Cmd": runs.command},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }))?;
        let layers: Vec<Value> = layers
            .iter()
            .map(|layer| json!({"mediaType": LAYER, "digest": layer.digest, "size": layer.size}))
            .collect();
        let manifest = self.put(&json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config.0, "size": config.1},
            "layers": layers,
        }))?;
        let mut manifests = self.manifests()?;
        manifests.retain(|known| tag_of(known) != Some(tag));
        manifests.push(json!({
            "mediaType": MANIFEST, "digest": manifest.0, "size": manifest.1,
            "annotations": {"org.opencontainers.image.ref.name": tag},
        }));
        self.write_index(&manifests)?;
        Ok(manifest.0)
    }

    /// The digest of the image with a tag.
    pub(crate) fn tagged(&self, tag: &str) -> io::Result<Option<String>> {
        let manifests = self.manifests()?;
        let found = manifests.iter().find(|known| tag_of(known) == Some(tag));
        Ok(found.and_then(|found| Some(found.get("digest")?.as_str()?.to_owned())))
    }

    /// The file of a blob. A digest is `sha256:` and 64 hexadecimal digits, whatever a client asks for.
    pub(crate) fn open(&self, digest: &str) -> io::Result<Option<(File, u64)>> {
        let good = digest
            .strip_prefix("sha256:")
            .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        if !good {
            return Ok(None);
        }
        match File::open(self.blob(digest)) {
            Ok(file) => {
                let length = file.metadata()?.len();
                Ok(Some((file, length)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn blob(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs").join(digest.replace(':', "/"))
    }

    fn put(&self, value: &Value) -> io::Result<(String, usize)> {
        let text = value.to_string();
        let digest = format!("sha256:{}", hex(&Sha256::digest(&text)));
        fs::write(self.blob(&digest), &text)?;
        Ok((digest, text.len()))
    }

    fn manifests(&self) -> io::Result<Vec<Value>> {
        let index: Value = serde_json::from_str(&fs::read_to_string(self.dir.join("index.json"))?)?;
        Ok(index.get("manifests").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    fn write_index(&self, manifests: &[Value]) -> io::Result<()> {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(self.dir.join("index.json"), index.to_string())
    }
}

fn tag_of(descriptor: &Value) -> Option<&str> {
    descriptor.get("annotations")?.get("org.opencontainers.image.ref.name")?.as_str()
}

/// A writer that knows the digest and the length of what went through it.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    length: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), length: 0 }
    }

    fn end(self) -> (W, String, u64) {
        (self.inner, format!("sha256:{}", hex(&self.hash.finalize())), self.length)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_of_what_lies_there() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let layer = layout.layer(&b"a tarball"[..]).unwrap();
        // sha256sum of "a tarball", by another program.
        assert_eq!(layer.diff_id, "sha256:2469d8880c5d140fa5774872d571fc600547eda0b1b29545ef8bf19b20aa3837");
        let (mut file, length) = layout.open(&layer.digest).unwrap().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!((bytes.len() as u64, length), (layer.size, layer.size));
        assert_eq!(format!("sha256:{}", hex(&Sha256::digest(&bytes))), layer.digest);
        let mut plain = String::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut plain).unwrap();
        assert_eq!(plain, "a tarball");
    }

    #[test]
    fn a_tag_moves_to_its_newest_image() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let layer = layout.layer(&b"x"[..]).unwrap();
        let first = layout.image("e2e", std::slice::from_ref(&layer), &Runs::openclaw()).unwrap();
        let second = layout.image("e2e", &[layer.clone(), layer], &Runs::default()).unwrap();
        assert_ne!(first, second);
        assert_eq!(layout.tagged("e2e").unwrap().as_ref(), Some(&second));
        assert_eq!(Layout::open_or_create(dir.path()).unwrap().tagged("e2e").unwrap(), Some(second));
        assert_eq!(layout.manifests().unwrap().len(), 1);
        assert_eq!(layout.tagged("other").unwrap(), None);
    }

    #[test]
    fn no_digest_leads_out_of_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        for bad in ["sha256:../../index.json", "index.json", "sha256:", "md5:00"] {
            assert!(layout.open(bad).unwrap().is_none(), "{bad}");
        }
    }
}

//! A stand-in of a container registry (the distribution API, version 2): it serves one OCI layout over plain HTTP, to pull from.
//! Listens where it is told, reads the layout.
//!
//! ```text
//! docker pull HOST:PORT/any/name:TAG      # with HOST:PORT among Docker's insecure-registries
//! ```

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
};

use serde_json::json;

use crate::{
    http::{Body, Received, Reply, Server},
    oci::Layout,
};

/// The server; it ends when it is dropped.
pub struct Registry {
    server: Server,
}

impl Registry {
    /// Serves a layout at `bind` (port 0 takes a free one). Every repository name has the layout's tags.
    pub fn start(bind: impl ToSocketAddrs, layout: Layout) -> io::Result<Self> {
        let server = Server::start(bind, move |request| {
            answer(&layout, request).unwrap_or_else(|error| {
                let error = json!({"errors": [{"code": "UNKNOWN", "message": error.to_string()}]});
                Reply::json("500 Internal Server Error", &error)
            })
        })?;
        Ok(Self { server })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.server.address()
    }
}

/// What a path of the API asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked<'a> {
    Version,
    Manifest(&'a str),
    Blob(&'a str),
}

fn asked(path: &str) -> Option<Asked<'_>> {
    let rest = path.split('?').next()?.strip_prefix("/v2/")?;
    if rest.is_empty() {
        return Some(Asked::Version);
    }
    // The repository's name has any number of parts.
    let (before, reference) = rest.rsplit_once('/')?;
    match before.rsplit_once('/')?.1 {
        "manifests" => Some(Asked::Manifest(reference)),
        "blobs" => Some(Asked::Blob(reference)),
        _ => None,
    }
}

fn answer(layout: &Layout, request: &Received) -> io::Result<Reply> {
    let missing = |code: &str| {
        Reply::json("404 Not Found", &json!({"errors": [{"code": code, "message": "it is not here"}]}))
    };
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        let error =
            json!({"errors": [{"code": "UNSUPPORTED", "message": "this registry is only pulled from"}]});
        return Ok(Reply::json("405 Method Not Allowed", &error));
    }
    let (digest, kind) = match asked(&request.path) {
        Some(Asked::Version) => {
            let mut reply = Reply::json("200 OK", &json!({}));
            reply.headers.push(("Docker-Distribution-Api-Version", "registry/2.0".to_owned()));
            return Ok(reply);
        }
        Some(Asked::Manifest(reference)) => {
            let digest = if reference.contains(':') {
                Some(reference.to_owned())
            } else {
                layout.tagged(reference)?
            };
            let Some(digest) = digest else { return Ok(missing("MANIFEST_UNKNOWN")) };
            (digest, "application/vnd.oci.image.manifest.v1+json")
        }
        Some(Asked::Blob(digest)) => (digest.to_owned(), "application/octet-stream"),
        None => return Ok(missing("NAME_UNKNOWN")),
    };
    let Some((file, length)) = layout.open(&digest)? else { return Ok(missing("BLOB_UNKNOWN")) };
    let headers = vec![("Content-Type", kind.to_owned()), ("Docker-Content-Digest", digest)];
    Ok(Reply { status: "200 OK", headers, body: Body::File(file, length) })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{
        oci::Runs,
        testing::{body, exchange},
    };

    fn get(registry: &Registry, method: &str, path: &str) -> String {
        exchange(registry.address(), &format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n\r\n"))
    }

    fn registry() -> (tempfile::TempDir, Registry, String) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let layer = layout.layer(&b"a tarball"[..]).unwrap();
        let digest = layout.image("e2e", &[layer], &Runs::openclaw()).unwrap();
        (dir, Registry::start("127.0.0.1:0", layout).unwrap(), digest)
    }

    #[test]
    fn an_image_is_found_from_its_tag_to_its_last_blob() {
        let (_dir, registry, digest) = registry();
        assert!(get(&registry, "GET", "/v2/").contains("Docker-Distribution-Api-Version: registry/2.0"));
        let by_tag = get(&registry, "GET", "/v2/openclaw/openclaw/manifests/e2e");
        assert!(by_tag.contains(&format!("Docker-Content-Digest: {digest}")), "{by_tag}");
        assert_eq!(by_tag, get(&registry, "GET", &format!("/v2/openclaw/manifests/{digest}")));
        let manifest: Value = serde_json::from_str(body(&by_tag)).unwrap();
        for part in [&manifest["config"], &manifest["layers"][0]] {
            let path = format!("/v2/x/blobs/{}", part["digest"].as_str().unwrap());
            let blob = get(&registry, "GET", &path);
            assert!(blob.contains(&format!("Content-Length: {}\r\n", part["size"])), "{blob}");
        }
        let config =
            get(&registry, "GET", &format!("/v2/x/blobs/{}", manifest["config"]["digest"].as_str().unwrap()));
        let config: Value = serde_json::from_str(body(&config)).unwrap();
        assert_eq!(
            (&config["config"]["User"], &config["config"]["WorkingDir"]),
            (&json!("node"), &json!("/app"))
        );
    }

    #[test]
    fn a_head_has_no_body() {
        let (_dir, registry, _) = registry();
        let head = get(&registry, "HEAD", "/v2/openclaw/manifests/e2e");
        assert!(
            head.starts_with("HTTP/1.1 200 OK")
                && head.contains("Content-Length: ")
                && body(&head).is_empty()
        );
    }

    #[test]
    fn what_is_not_there_is_said_so() {
        let (_dir, registry, _) = registry();
        let nothing = format!("/v2/x/blobs/sha256:{}", "0".repeat(64));
        for path in [
            "/v2/x/manifests/other",
            nothing.as_str(),
            "/v2/x/tags/list",
            "/",
            "/v2/x/blobs/sha256:../../index.json",
        ] {
            assert!(get(&registry, "GET", path).starts_with("HTTP/1.1 404 "), "{path}");
        }
        assert!(get(&registry, "POST", "/v2/x/blobs/uploads/").starts_with("HTTP/1.1 405 "));
    }
}

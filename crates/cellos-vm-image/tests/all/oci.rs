//! A base from an OCI image layout, also from hostile ones.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use cellos_vm_image::{
    BaseError, BaseSource, ImageError, MAX_NAMES_BYTES, OciError, OciImage, TreeError,
};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use crate::support::{bundle_of, image};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const TAR_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An archive being put together, without the checks that honest writers make.
#[derive(Default)]
struct Layer(Vec<u8>);

impl Layer {
    fn entry(mut self, kind: EntryType, path: &str, mode: u32, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1000);
        header.set_gid(100);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, path, 0o644, "", content.as_bytes())
    }

    fn directory(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, 0o755, "", b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, 0o777, target, b"")
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, 0o644, target, b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A layout being put together.
struct Layout {
    folder: TempDir,
}

impl Layout {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::create_dir_all(folder.path().join("layout/blobs/sha256")).unwrap();
        let layout = Self { folder };
        layout.write("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}));
        layout
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("layout").join(name)
    }

    fn write(&self, name: &str, document: &Value) {
        fs::write(self.path(name), document.to_string()).unwrap();
    }

    fn blob(&self, content: &[u8], media_type: &str) -> Value {
        let hex = hex(content);
        fs::write(self.path(&format!("blobs/sha256/{hex}")), content).unwrap();
        json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": content.len()})
    }

    fn document(&self, document: &Value, media_type: &str) -> Value {
        self.blob(document.to_string().as_bytes(), media_type)
    }

    /// The descriptor of an image from archives, each with its form.
    fn image(&self, layers: &[(&[u8], &str)]) -> Value {
        let descriptors: Vec<Value> = layers
            .iter()
            .map(|(archive, media_type)| match *media_type {
                TAR_GZIP => {
                    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
                    gzip.write_all(archive).unwrap();
                    self.blob(&gzip.finish().unwrap(), media_type)
                }
                TAR_ZSTD => {
                    let level = ruzstd::encoding::CompressionLevel::Fastest;
                    let zstd = ruzstd::encoding::compress_to_vec(*archive, level);
                    self.blob(&zstd, media_type)
                }
                _ => self.blob(archive, media_type),
            })
            .collect();
        let diff_ids: Vec<String> = layers
            .iter()
            .map(|(archive, _)| format!("sha256:{}", hex(archive)))
            .collect();
        let configuration = json!({
            "os": "linux", "architecture": "amd64", "created": "whenever",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.document(&configuration, "application/vnd.oci.image.config.v1+json");
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": descriptors});
        self.document(&manifest, MANIFEST)
    }

    fn index(&self, manifests: &[Value]) {
        self.write(
            "index.json",
            &json!({"schemaVersion": 2, "manifests": manifests}),
        );
    }

    fn build(&self, reference: Option<&str>) -> Result<BTreeMap<String, String>, ImageError> {
        let source = BaseSource::Oci(OciImage {
            layout: self.path(""),
            reference: reference.map(str::to_owned),
        });
        let bundle = self.folder.path().join("bundle");
        if bundle.exists() {
            fs::remove_dir_all(&bundle).unwrap();
        }
        bundle_of(&source, &bundle)?;
        Ok(image(&bundle))
    }

    fn refused(&self) -> OciError {
        match self.build(None).unwrap_err() {
            ImageError::Base(BaseError::Oci { source, .. }) => source,
            other => panic!("{other}"),
        }
    }
}

fn hex(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The files of an image of plain layers.
fn unpack(layers: Vec<Layer>) -> Result<BTreeMap<String, String>, ImageError> {
    let layout = Layout::new();
    let archives: Vec<Vec<u8>> = layers.into_iter().map(Layer::end).collect();
    let layers: Vec<(&[u8], &str)> = archives
        .iter()
        .map(|archive| (archive.as_slice(), TAR))
        .collect();
    layout.index(&[layout.image(&layers)]);
    layout.build(None)
}

/// Why an image of one layer is refused.
fn refused(layer: Layer) -> BaseError {
    match unpack(vec![layer]).unwrap_err() {
        ImageError::Base(BaseError::Oci {
            source: OciError::Layer { source, .. },
            ..
        }) => *source,
        ImageError::Base(other) => other,
        other => panic!("{other}"),
    }
}

#[test]
fn layers_of_every_form_lie_over_each_other() {
    let layout = Layout::new();
    let one = Layer::default().directory("a/").file("a/one", "1").end();
    let two = Layer::default()
        .file("./a/two", "2")
        .file("a/one", "1b")
        .end();
    let three = Layer::default().file("a/three", "3").end();
    layout.index(&[layout.image(&[(&one, TAR), (&two, TAR_GZIP), (&three, TAR_ZSTD)])]);
    let files = layout.build(None).unwrap();
    assert_eq!(files["/a"], "d755 1000:100");
    assert_eq!(files["/a/one"], "f644 1000:100 1b");
    assert_eq!(files["/a/two"], "f644 1000:100 2");
    assert_eq!(files["/a/three"], "f644 1000:100 3");
    assert_eq!(files["/proc"], "d555 0:0");
}

#[test]
fn whiteouts_remove_what_is_below_and_nothing_else() {
    let below = || {
        Layer::default()
            .file("a/gone", "")
            .file("a/kept", "below")
            .file("b/gone", "")
            .file("b/deep/gone", "")
            .directory("c")
            .file("c/gone", "")
    };
    let above = Layer::default()
        .file("a/.wh.gone", "")
        .file("b/new", "above")
        // After what the same layer adds, and still only about what is below.
        .file("b/.wh..wh..opq", "")
        .file("b/deep/new", "above")
        .file(".wh.c", "")
        .file("d/.wh.never", "")
        .file("a/back", "above")
        .file("a/.wh.back", "");
    let files = unpack(vec![below(), above]).unwrap();
    let names: Vec<&str> = files
        .keys()
        .map(String::as_str)
        .filter(|name| {
            ["/a", "/b", "/c", "/d"]
                .iter()
                .any(|top| name.starts_with(top))
        })
        .filter(|name| !name.starts_with("/dev"))
        .collect();
    assert_eq!(
        names,
        [
            "/a",
            "/a/back",
            "/a/kept",
            "/b",
            "/b/deep",
            "/b/deep/new",
            "/b/new"
        ]
    );
}

#[test]
fn hard_links_are_the_same_file_and_outlive_its_other_names() {
    let files = unpack(vec![
        Layer::default()
            .file("a", "content")
            .hard_link("b", "a")
            .hard_link("d/c", "./b"),
        Layer::default().file(".wh.a", ""),
    ])
    .unwrap();
    assert_eq!(files["/b"], "f644 1000:100 content");
    assert_eq!(files["/d/c"], "f644 1000:100 content");
    assert!(!files.contains_key("/a"));
}

#[test]
fn links_on_the_way_lead_inside_the_image() {
    let files = unpack(vec![
        Layer::default()
            .symlink("bin", "usr/bin")
            .symlink("out", "../../../usr/share")
            .symlink("absolute", "/usr/lib"),
        Layer::default()
            .file("bin/tool", "t")
            .file("out/text", "s")
            .file("absolute/lib", "l"),
    ])
    .unwrap();
    assert_eq!(files["/usr/bin/tool"], "f644 1000:100 t");
    assert_eq!(files["/usr/share/text"], "f644 1000:100 s");
    assert_eq!(files["/usr/lib/lib"], "f644 1000:100 l");
    assert_eq!(files["/bin"], "l777 1000:100 usr/bin");
}

#[test]
fn a_later_entry_replaces_an_earlier_one_of_another_kind() {
    let files = unpack(vec![
        Layer::default()
            .file("a/below", "")
            .symlink("b", "/etc")
            .directory("c")
            .file("c/kept", ""),
        Layer::default()
            .file("a", "now a file")
            .directory("b")
            .entry(EntryType::Directory, "c", 0o700, "", b""),
    ])
    .unwrap();
    assert_eq!(files["/a"], "f644 1000:100 now a file");
    assert!(!files.contains_key("/a/below"));
    assert_eq!(files["/b"], "d755 1000:100");
    assert_eq!(files["/c"], "d700 1000:100");
    assert!(files.contains_key("/c/kept"));
}

#[test]
fn long_names_and_extended_headers_are_read() {
    let long = format!("{}/name", "d".repeat(120));
    let mut gnu = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    gnu.append_data(&mut header, &long, &b"g"[..]).unwrap();
    let gnu = gnu.into_inner().unwrap();

    let member = |key: &str, value: &str| {
        let rest = format!(" {key}={value}\n");
        let length = (rest.len() + 2..)
            .find(|length| length.to_string().len() + rest.len() == *length)
            .unwrap();
        format!("{length}{rest}")
    };
    let extension = [
        member("path", "pax/renamed"),
        member("uid", "3000000"),
        member("SCHILY.xattr.user.x", "ignored"),
    ]
    .concat();
    let pax = Layer::default()
        .entry(EntryType::XHeader, "x", 0o644, "", extension.as_bytes())
        .file("short", "p")
        .file("plain", "q")
        .end();

    let layout = Layout::new();
    layout.index(&[layout.image(&[(&gnu, TAR), (&pax, TAR)])]);
    let files = layout.build(None).unwrap();
    assert_eq!(files[&format!("/{long}")], "f600 0:0 g");
    assert_eq!(files["/pax/renamed"], "f644 3000000:100 p");
    assert_eq!(files["/plain"], "f644 1000:100 q");
    assert!(!files.contains_key("/short"));
}

#[test]
fn hostile_entries_are_refused() {
    type Expected = fn(&BaseError) -> bool;
    let plain = Layer::default;
    let upwards: Expected = |error| matches!(error, BaseError::Tree(TreeError::Upwards { .. }));
    let absolute: Expected = |error| matches!(error, BaseError::Tree(TreeError::Absolute { .. }));
    let link: Expected = |error| matches!(error, BaseError::Tree(TreeError::HardLink { .. }));
    let special: Expected = |error| matches!(error, BaseError::Special { .. });
    let archive: Expected = |error| {
        matches!(
            error,
            BaseError::Oci {
                source: OciError::Archive(_) | OciError::EntryType { .. } | OciError::Header { .. },
                ..
            }
        )
    };
    let cases: Vec<(Layer, Expected)> = vec![
        (plain().file("../x", ""), upwards),
        (plain().file("a/../../x", ""), upwards),
        (plain().file("a/..", ""), upwards),
        (plain().file("/etc/shadow", ""), absolute),
        (plain().hard_link("a", "/etc/shadow"), absolute),
        (plain().hard_link("a", "../etc/shadow"), upwards),
        (plain().hard_link("a", "etc/shadow"), link),
        (plain().directory("d").hard_link("a", "d"), link),
        (plain().file("a/.wh...", ""), upwards),
        (plain().file("a/.wh.", ""), upwards),
        (plain().file("a/.wh..wh.aufs", ""), special),
        (
            plain().entry(EntryType::Char, "null", 0o666, "", b""),
            special,
        ),
        (
            plain().entry(EntryType::Block, "sda", 0o666, "", b""),
            special,
        ),
        (
            plain().entry(EntryType::Fifo, "pipe", 0o666, "", b""),
            special,
        ),
        (
            plain().entry(EntryType::new(b'S'), "s", 0o644, "", b""),
            archive,
        ),
        (
            plain().entry(EntryType::GNULongName, "n", 0, "", &[b'a'; 10_000]),
            archive,
        ),
        (
            plain()
                .entry(EntryType::XHeader, "x", 0, "", b"22 GNU.sparse.major=1\n")
                .file("sparse", ""),
            archive,
        ),
        (
            plain()
                .entry(EntryType::XHeader, "x", 0, "", b"20 uid=-1000000000\n\n")
                .file("owner", ""),
            archive,
        ),
        (plain().symlink("empty", ""), |error| {
            matches!(error, BaseError::Tree(TreeError::SymlinkTarget { .. }))
        }),
        (
            plain().symlink("a", "b").symlink("b", "a").file("a/x", ""),
            |error| matches!(error, BaseError::Tree(TreeError::Symlinks { .. })),
        ),
        (plain().file("f", "").file("f/x", ""), |error| {
            matches!(error, BaseError::Tree(TreeError::NotADirectory { .. }))
        }),
        (plain().file(".", ""), |error| {
            matches!(error, BaseError::Tree(TreeError::Root))
        }),
        (plain().symlink("proc", "/etc"), |error| {
            matches!(
                error,
                BaseError::Tree(TreeError::MountPoint { name: "proc" })
            )
        }),
    ];
    for (index, (layer, expected)) in cases.into_iter().enumerate() {
        let error = refused(layer);
        assert!(expected(&error), "case {index}: {error}");
    }
}

#[test]
fn a_path_that_is_too_long_is_refused() {
    let deep = format!("{}x", "d/".repeat(140));
    let wide = "n".repeat(256);
    for path in [deep, wide] {
        let mut name = path.into_bytes();
        name.push(0);
        let layer = Layer::default()
            .entry(EntryType::GNULongName, "n", 0, "", &name)
            .file("x", "");
        assert!(matches!(
            refused(layer),
            BaseError::Tree(TreeError::TooLong { .. })
        ));
    }
}

#[test]
fn names_that_would_fill_the_memory_are_refused() {
    let component = "n".repeat(126);
    let mut name = [component.as_str(); 32].join("/").into_bytes();
    name.push(0);
    let one = Layer::default()
        .entry(EntryType::GNULongName, "n", 0, "", &name)
        .file("x", "")
        .0;
    // The same path over and over: compressed it is next to nothing.
    let layer = Layer(one.repeat(MAX_NAMES_BYTES / name.len() + 100));
    assert!(matches!(
        refused(layer),
        BaseError::Tree(TreeError::TooLongTogether)
    ));
}

#[test]
fn nothing_is_taken_from_a_file_with_another_digest() {
    let archive = Layer::default().file("a", "content").end();
    for media_type in [TAR, TAR_GZIP, TAR_ZSTD] {
        let layout = Layout::new();
        layout.index(&[layout.image(&[(&archive, media_type)])]);
        layout.build(None).unwrap();
        let blobs: Vec<PathBuf> = fs::read_dir(layout.path("blobs/sha256"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(blobs.len(), 3);
        for blob in blobs {
            let original = fs::read(&blob).unwrap();
            let mut changed = original.clone();
            // The last byte: padding, a checksum, or the end of a document.
            *changed.last_mut().unwrap() ^= 1;
            fs::write(&blob, &changed).unwrap();
            layout.build(None).unwrap_err();
            fs::write(&blob, &original[..original.len() - 1]).unwrap();
            assert!(format!("{}", layout.build(None).unwrap_err()).contains("bytes"));
            fs::write(&blob, &original).unwrap();
        }
    }
}

#[test]
fn a_layer_that_is_not_the_one_of_the_configuration_is_refused() {
    let layout = Layout::new();
    let archive = Layer::default().file("a", "content").end();
    let layer = layout.blob(&archive, TAR);
    let configuration = json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(b"another"))]},
    });
    let config = layout.document(&configuration, "application/vnd.oci.image.config.v1+json");
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    layout.index(&[layout.document(&manifest, MANIFEST)]);
    let OciError::Layer { source, .. } = layout.refused() else {
        panic!("not about the layer");
    };
    assert!(matches!(
        *source,
        BaseError::Oci {
            source: OciError::DigestMismatch { .. },
            ..
        }
    ));
}

#[test]
fn the_image_is_the_one_for_this_system_and_with_the_name() {
    let layout = Layout::new();
    let image = |content: &str| layout.image(&[(&Layer::default().file("a", content).end(), TAR)]);
    let with = |mut descriptor: Value, key: &str, value: Value| {
        descriptor[key] = value;
        descriptor
    };
    let platform = |architecture: &str| json!({"os": "linux", "architecture": architecture});
    let inner = json!({"schemaVersion": 2, "manifests": [
        with(image("arm"), "platform", platform("arm64")),
        with(image("amd"), "platform", platform("amd64")),
        with(image("attestation"), "platform", json!({"os": "unknown", "architecture": "unknown"})),
    ]});
    let named = |descriptor: Value, name: &str| {
        with(
            descriptor,
            "annotations",
            json!({"org.opencontainers.image.ref.name": name}),
        )
    };
    layout.index(&[
        named(layout.document(&inner, INDEX), "nested"),
        named(image("direct"), "plain"),
    ]);
    for (name, content) in [("nested", "amd"), ("plain", "direct")] {
        let files = layout.build(Some(name)).unwrap();
        assert_eq!(files["/a"], format!("f644 1000:100 {content}"));
    }
    assert!(matches!(layout.refused(), OciError::Choice { .. }));
    assert!(layout.build(Some("absent")).is_err());
}

#[test]
fn documents_that_cannot_be_used_are_refused() {
    type Change = fn(&Layout, &Path);
    type Expected = fn(&OciError) -> bool;
    let cases: [(Change, Expected); 5] = [
        (
            |_, index| fs::write(index, "{").unwrap(),
            |error| matches!(error, OciError::Document { .. }),
        ),
        (
            |layout, _| layout.write("oci-layout", &json!({"imageLayoutVersion": "2"})),
            |error| matches!(error, OciError::Version { .. }),
        ),
        (
            |layout, _| {
                let descriptor = json!({"mediaType": MANIFEST, "digest": "sha256:../x", "size": 1});
                layout.index(&[descriptor]);
            },
            |error| matches!(error, OciError::Digest { .. }),
        ),
        (
            |layout, _| layout.index(&[layout.blob(b"x", "text/plain")]),
            |error| matches!(error, OciError::MediaType { .. }),
        ),
        (
            |layout, _| {
                let mut descriptor = layout.image(&[(&Layer::default().end(), TAR)]);
                for _ in 0..6 {
                    let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
                    descriptor = layout.document(&index, INDEX);
                }
                layout.index(&[descriptor]);
            },
            |error| matches!(error, OciError::TooDeep),
        ),
    ];
    for (number, (change, expected)) in cases.into_iter().enumerate() {
        let layout = Layout::new();
        layout.index(&[layout.image(&[(&Layer::default().end(), TAR)])]);
        change(&layout, &layout.path("index.json"));
        let error = layout.refused();
        assert!(expected(&error), "case {number}: {error}");
    }
}

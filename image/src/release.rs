//! `cargo appliance release`: a new signed version out of an image that was built, in seconds and without a compiler.
//!
//! ```text
//! FROM/initramfs.img --unpack--> tree + overlays --pack--> OUT/initramfs.img -+-> OUT/phase.efi -+-> OUT/rootfs.squashfs
//! FROM/vmlinuz or --kernel -------------------------------> OUT/vmlinuz -------+------------------'        |
//! FROM/manifest.json: channel, architecture, command line ---> sequence, version, signatures ---> OUT/manifest.json
//! ```
//! What the release does not name is byte for byte what the old one has. `OUT` is a folder as `cargo appliance build` leaves
//! it: `inspect`, the tests and `plasmd serve` take it as one. The old image is only read, never changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use boot_manifest::{Digest, Manifest, TrustRoot};

use crate::cpio::{self, Entry, Kind};
use crate::grub::Loader;
use crate::initramfs::{self, Effort};
use crate::paths::{self, Paths};
use crate::progress::Progress;
use crate::trust::{self, Carried, Signers};
use crate::{disk, facts, squashfs, stamp, uki};

/// Where the initramfs has the trust root; the release is signed for the one that it will carry.
const TRUST_ROOT: &str = "etc/phase/trust-root.json";

/// Where it has the root chain, when the keys were ever replaced.
const ROOTS: &str = "etc/phase/roots.json";
/// Where the initramfs has its own facts.
const IMAGE_INFO: &str = "etc/phase/image.json";

/// What can be chosen about a release.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Folder of the image to start from; that of the last build when left out
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// Folder for the new image
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Name of the version, for people
    #[arg(
        id = "release-version",
        long = "version",
        value_name = "TEXT",
        default_value = facts::VERSION
    )]
    pub release_version: String,
    /// Number of the version, which decides what is newer; the time in seconds since 1970 when left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub sequence: Option<u64>,
    /// Sign with this Ed25519 private key (PEM) instead of the image's development key; repeat for several
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// Use this kernel
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Use this program as PID 1
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
    /// Use this daemon
    #[arg(long, value_name = "FILE")]
    pub plasmd: Option<PathBuf>,
    /// Put a file into the initramfs, in the place of one that is there; repeat for several
    #[arg(long, value_name = "PATH=FILE")]
    pub overlay: Vec<Overlay>,
    /// Add words to the kernel's command line
    #[arg(long, value_name = "TEXT")]
    pub cmdline_append: Vec<String>,
    /// Compress in a second instead of ten; the image becomes larger
    #[arg(long)]
    pub fast: bool,
}

impl Options {
    /// The next version of the image in `from`, into `out`, changed in nothing but its name.
    pub fn new(from: impl Into<PathBuf>, out: impl Into<PathBuf>, version: &str) -> Self {
        Self {
            from: Some(from.into()),
            out: out.into(),
            release_version: version.into(),
            sequence: None,
            key: Vec::new(),
            kernel: None,
            init: None,
            plasmd: None,
            overlay: Vec::new(),
            cmdline_append: Vec::new(),
            fast: false,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// The number of the version.
    pub sequence: u64,
    /// The digest of its manifest, by which everybody calls it.
    pub digest: Digest,
}

/// Runs the command.
///
/// # Errors
/// See [`release`].
pub fn command(paths: &Paths, options: &Options, progress: &Progress) -> Result<ExitCode> {
    let started = Instant::now();
    let released = release(paths, options)?;
    progress.end("release", "complete", started.elapsed());
    let Released { sequence, digest } = released;
    let out = paths::shown(&options.out);
    println!(
        "{out} {} sequence {sequence} {digest}",
        options.release_version
    );
    Ok(ExitCode::SUCCESS)
}

/// Makes a release.
///
/// # Errors
/// When the old image is incomplete, a file cannot be read, or the keys cannot sign for its trust root.
pub fn release(paths: &Paths, options: &Options) -> Result<Released> {
    let from = match &options.from {
        Some(folder) => Paths::new(paths.root().to_owned(), folder.clone()),
        None => paths.clone(),
    };
    ensure!(
        !same_folder(from.out(), &options.out),
        "--out is the folder of the image that this release is made from"
    );
    let new = make(&Old::read(&from)?, &from, options)?;
    new.write(&options.out)?;
    Ok(Released {
        sequence: new.sequence,
        digest: Digest::of(&new.manifest),
    })
}

fn same_folder(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    let identity = |path: &Path| {
        let seen = std::fs::metadata(path).ok()?;
        Some((seen.dev(), seen.ino()))
    };
    identity(one).is_some_and(|one| Some(one) == identity(other))
}

/// The image that the release is made from.
struct Old {
    kernel: Vec<u8>,
    tree: Vec<Entry>,
    squashfs: Vec<squashfs::Listed>,
    manifest: Manifest,
}

impl Old {
    fn read(from: &Paths) -> Result<Self> {
        let read = |name: &str| read(&from.output(name));
        let tree = unpack(&read("initramfs.img")?).context("unpack initramfs.img")?;
        let root = carried(&tree)?.newest()?;
        let bytes = read("manifest.json")?;
        let manifest = trust::verify_ever(&bytes, &root).context("manifest.json")?;
        Ok(Self {
            kernel: read("vmlinuz")?,
            tree,
            squashfs: squashfs::read(&read("rootfs.squashfs")?).context("rootfs.squashfs")?,
            manifest,
        })
    }
}

/// A complete release.
struct New {
    files: BTreeMap<&'static str, Vec<u8>>,
    manifest: Vec<u8>,
    sequence: u64,
    squashfs: Vec<u8>,
    cmdline: String,
    /// The private key, when it is a development key that goes with the image.
    key: Option<PathBuf>,
}

fn make(old: &Old, from: &Paths, options: &Options) -> Result<New> {
    let tree = changed_tree(old, options)?;
    let carried = carried(&tree)?;
    let effort = if options.fast {
        Effort::Quick
    } else {
        Effort::Best
    };
    let initramfs = initramfs::pack(&tree, effort)?;
    let kernel = match &options.kernel {
        Some(file) => read(file)?,
        None => old.kernel.clone(),
    };
    let mut cmdline = old.manifest.cmdline.clone();
    for words in &options.cmdline_append {
        cmdline = format!("{cmdline} {words}");
    }
    let stub = read(Path::new(uki::STUB))?;
    let uki = uki::write(&uki::Recipe {
        stub: &stub,
        os_release: &facts::os_release(),
        cmdline: &cmdline,
        kernel: &kernel,
        initramfs: &initramfs,
    })?;
    let squashfs = changed_squashfs(old, &kernel, &initramfs, &uki)?;

    let signers = Signers::of_image(from, &options.key, carried)?;
    let now = facts::signing_time()?;
    let next = now.unix().max(1).unsigned_abs();
    let sequence = options
        .sequence
        .unwrap_or_else(|| next.max(old.manifest.sequence.saturating_add(1)));
    let mut artifacts = [
        ("kernel", "vmlinuz", kernel.as_slice()),
        ("initramfs", "initramfs.img", initramfs.as_slice()),
        ("uki", "phase.efi", uki.as_slice()),
        ("rootfs", "rootfs.squashfs", squashfs.as_slice()),
    ]
    .iter()
    .map(trust::artifact)
    .collect::<Result<Vec<_>>>()?;
    artifacts.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    let wanted = Manifest {
        generation: signers.root.generation(),
        sequence,
        version: options.release_version.clone(),
        created_at: now,
        expires_at: now.plus_days(facts::VALIDITY_DAYS),
        cmdline: cmdline.clone(),
        artifacts,
        ..old.manifest.clone()
    };
    let manifest = signers.sign(&wanted)?;
    let program = |path: &str| content(&tree, path).map(<[u8]>::to_vec);
    let mut files = BTreeMap::from([
        ("init", program("init")?),
        ("plasmd", program("bin/plasmd")?),
        ("trust-root.json", program(TRUST_ROOT)?),
        ("vmlinuz", kernel),
        ("initramfs.img", initramfs),
        ("phase.efi", uki),
    ]);
    if !signers.carried.roots.is_empty() {
        files.insert("roots.json", signers.carried.roots.clone());
    }
    let key = from.keys().join("dev.key");
    Ok(New {
        files,
        manifest,
        sequence,
        squashfs,
        cmdline,
        key: (options.key.is_empty() && key.exists()).then_some(key),
    })
}

impl New {
    /// Writes everything; the manifest last, so that a folder with a manifest is complete.
    fn write(&self, out: &Path) -> Result<()> {
        for (name, bytes) in &self.files {
            let mode = if matches!(*name, "init" | "plasmd") {
                0o755
            } else {
                0o644
            };
            stamp::write_with_mode(&out.join(name), bytes, mode)?;
        }
        stamp::write(&out.join("rootfs.squashfs"), &self.squashfs)?;
        if let Some(key) = &self.key {
            let public = key.with_extension("key.pub");
            stamp::write_with_mode(&out.join("keys/dev.key"), &read(key)?, 0o600)?;
            stamp::write(&out.join("keys/dev.key.pub"), &read(&public)?)?;
        }
        let image = out.join("phase.img");
        let _ = std::fs::remove_file(&image);
        let mut options = std::fs::OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(&image)
            .with_context(|| format!("write {}", image.display()))?;
        disk::write(
            &disk::Recipe {
                uki: &self.files["phase.efi"],
                kernel: &self.files["vmlinuz"],
                initramfs: &self.files["initramfs.img"],
                loader: &Loader::make(&self.cmdline, out)?,
                manifest: &self.manifest,
                squashfs: &self.squashfs,
            },
            file,
        )?;
        stamp::write(&out.join("manifest.json"), &self.manifest)
    }
}

/// The tree with the programs and files that were named in the place of the old ones, and with the new version's name.
fn changed_tree(old: &Old, options: &Options) -> Result<Vec<Entry>> {
    let mut tree = old.tree.clone();
    let info = content(&tree, IMAGE_INFO)?;
    let mut info: serde_json::Value = serde_json::from_slice(info).context(IMAGE_INFO)?;
    info["version"] = options.release_version.as_str().into();
    put(
        &mut tree,
        IMAGE_INFO,
        0o644,
        format!("{info}\n").into_bytes(),
    )?;
    let programs = [("init", &options.init), ("bin/plasmd", &options.plasmd)];
    for (path, file) in programs {
        if let Some(file) = file {
            put(&mut tree, path, 0o755, read(file)?)?;
        }
    }
    for overlay in &options.overlay {
        let mode = executable(&overlay.file)?;
        put(&mut tree, &overlay.path, mode, read(&overlay.file)?)?;
    }
    Ok(tree)
}

/// Puts a file into the tree, in the place of another or with the directories it needs.
fn put(tree: &mut Vec<Entry>, path: &str, mode: u32, bytes: Vec<u8>) -> Result<()> {
    let entry = Entry::file(path, mode, bytes);
    if let Some(there) = tree.iter_mut().find(|there| there.path == path) {
        ensure!(
            matches!(there.kind, Kind::File(_)),
            "/{path} of the initramfs is no file"
        );
        *there = entry;
        return Ok(());
    }
    for (end, _) in path.match_indices('/') {
        let parent = &path[..end];
        if !tree.iter().any(|there| there.path == parent) {
            tree.push(Entry::directory(parent, 0o755));
        }
    }
    tree.push(entry);
    Ok(())
}

/// The old squashfs with the new kernel, initramfs and head of the EFI program.
fn changed_squashfs(old: &Old, kernel: &[u8], initramfs: &[u8], uki: &[u8]) -> Result<Vec<u8>> {
    let folder = format!("{}/{}", old.manifest.channel, old.manifest.arch);
    let head = uki::head(uki, kernel, initramfs)?;
    let mut recipe: squashfs::Recipe<'_> = old
        .squashfs
        .iter()
        .map(|file| (file.path.clone(), file.content.as_slice()))
        .collect();
    let changed = [
        ("vmlinuz".to_owned(), kernel),
        ("initramfs.img".to_owned(), initramfs),
        (format!("phase.efi{}", uki::HEAD_SUFFIX), head),
    ];
    for (name, bytes) in changed {
        let path = format!("{folder}/{name}");
        ensure!(
            recipe.insert(path.clone(), bytes).is_some(),
            "the squashfs has no {path}: it was made by another version of this tool"
        );
    }
    let mut image = std::io::Cursor::new(Vec::new());
    squashfs::write(&recipe, &mut image)?;
    Ok(image.into_inner())
}

/// What the image believes by itself.
fn carried(tree: &[Entry]) -> Result<Carried> {
    let root = TrustRoot::parse(content(tree, TRUST_ROOT)?).context(TRUST_ROOT)?;
    let roots = match tree.iter().any(|entry| entry.path == ROOTS) {
        true => content(tree, ROOTS)?.to_vec(),
        false => Vec::new(),
    };
    Ok(Carried { root, roots })
}

fn content<'a>(tree: &'a [Entry], path: &str) -> Result<&'a [u8]> {
    match tree.iter().find(|entry| entry.path == path) {
        Some(Entry {
            kind: Kind::File(bytes),
            ..
        }) => Ok(bytes),
        Some(_) => bail!("/{path} of the initramfs is no file"),
        None => bail!("the initramfs has no /{path}"),
    }
}

/// The tree in an initramfs that this tool packed.
fn unpack(initramfs: &[u8]) -> Result<Vec<Entry>> {
    let frame = zstd::zstd_safe::find_frame_compressed_size(initramfs).map_err(|code| {
        let why = zstd::zstd_safe::get_error_name(code);
        anyhow::anyhow!("it is damaged: {why}")
    })?;
    let archive = zstd::decode_all(&initramfs[..frame])?;
    Ok(cpio::unpack(&archive)?)
}

fn executable(file: &Path) -> Result<u32> {
    use std::os::unix::fs::PermissionsExt;

    let seen = std::fs::metadata(file).with_context(|| format!("read {}", file.display()))?;
    Ok(match seen.permissions().mode() & 0o100 {
        0 => 0o644,
        _ => 0o755,
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// A file to lay over the initramfs, as it stands on the command line: `PATH=FILE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Where it goes, without a leading slash.
    pub path: String,
    /// What goes there.
    pub file: PathBuf,
}

impl std::str::FromStr for Overlay {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((path, file)) if !path.trim_matches('/').is_empty() && !file.is_empty() => {
                Ok(Self {
                    path: path.trim_matches('/').to_owned(),
                    file: file.into(),
                })
            }
            _ => Err("it is PATH=FILE: a path in the initramfs and the file that goes there"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_takes_the_place_of_another_or_brings_its_directories() {
        let mut tree = vec![
            Entry::directory("bin", 0o755),
            Entry::file("bin/plasmd", 0o755, "old"),
            Entry::symlink("link", "bin"),
        ];
        put(&mut tree, "bin/plasmd", 0o755, b"new".to_vec()).unwrap();
        put(&mut tree, "a/b/c", 0o644, b"deep".to_vec()).unwrap();
        assert_eq!(content(&tree, "bin/plasmd").unwrap(), b"new");
        assert!(put(&mut tree, "link", 0o644, Vec::new()).is_err());
        assert!(put(&mut tree, "bin", 0o644, Vec::new()).is_err());
        let packed = initramfs::pack(&tree, Effort::Quick).unwrap();
        let unpacked = unpack(&packed).unwrap();
        let paths: Vec<&str> = unpacked.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["a", "a/b", "a/b/c", "bin", "bin/plasmd", "link"]);
        assert_eq!(content(&unpacked, "a/b/c").unwrap(), b"deep");
        assert!(content(&unpacked, "a").is_err() && content(&unpacked, "x").is_err());
    }

    #[test]
    fn an_overlay_is_a_path_and_a_file() {
        let overlay: Overlay = "/etc/x=/tmp/a=b".parse().unwrap();
        assert_eq!(overlay.path, "etc/x");
        assert_eq!(overlay.file, Path::new("/tmp/a=b"));
        for bad in ["", "=", "x=", "/=file", "no sign"] {
            assert!(bad.parse::<Overlay>().is_err(), "{bad:?}");
        }
    }
}

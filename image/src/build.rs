//! `cargo appliance build`: from source to a bootable, signed image.
//!
//! ```text
//! init, plasmd -+
//! trust root   -+-> initramfs.img -+-> phase.efi -+-> rootfs.squashfs -+-> manifest.json -+-> phase.img
//! kernel ---------------------------+--------------+--------------------+------------------+
//! iPXE ------------------------------------------------^
//! ```
//! Every output is skipped when its inputs' contents are unchanged. The same source, key and SOURCE_DATE_EPOCH give the same
//! bytes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use boot_manifest::Digest;
use serde::Serialize;

use crate::grub::Loader;
use crate::packages::{self, Purpose};
use crate::paths::{self, Paths};
use crate::progress::{self, Outcome, Progress};
use crate::stamp::{self, Inputs};
use crate::trust::Signers;
use crate::{boot_files, cli, disk, facts, initramfs, kernel, programs, run, squashfs, uki};

/// What the unified kernel image may weigh: it has to be fetched, and to fit small EFI system partitions.
pub const UKI_BYTES_GOAL: u64 = 12 << 20;

/// What can be chosen about a build.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Sign with this Ed25519 private key (PEM) instead of the development key; repeat for several
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// Put this trust root into the image instead of one that trusts exactly the signing keys
    #[arg(long, value_name = "FILE")]
    pub trust_root: Option<PathBuf>,
    /// Put this root chain (`plasmd root append`) into the image; it leads from the trust root to the signing keys
    #[arg(long, value_name = "FILE")]
    pub roots: Option<PathBuf>,
    /// Use this kernel (bzImage) instead of building one
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// See [`build`].
pub fn command(paths: &Paths, arguments: &cli::Build, progress: &Progress) -> Result<ExitCode> {
    let started = Instant::now();
    let images = build(paths, &arguments.options, progress)?;
    progress.end("build", "complete", started.elapsed());
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&images)?);
    } else {
        images.print();
    }
    Ok(ExitCode::SUCCESS)
}

/// One file that was built.
#[derive(Debug, Clone, Serialize)]
pub struct Output {
    /// File name.
    pub name: &'static str,
    /// Where it lies.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Digest,
}

/// The files of a build.
#[derive(Debug, Clone, Serialize)]
pub struct Images {
    /// All outputs, in the order they are made.
    pub outputs: Vec<Output>,
    /// Whether the image trusts a development key.
    pub development: bool,
}

impl Images {
    /// Path of one of the outputs.
    ///
    /// # Panics
    /// When there is no output of that name: the names are constants of this crate.
    pub fn path(&self, name: &str) -> &Path {
        let output = self.outputs.iter().find(|output| output.name == name);
        &output
            .unwrap_or_else(|| panic!("{name} is no output of a build"))
            .path
    }

    /// Prints the outputs as a table.
    pub fn print(&self) {
        for output in &self.outputs {
            let size = progress::size(output.size);
            println!("{:<18} {size:>9}  {}", output.name, output.sha256);
        }
    }
}

/// The chain to publish beside the manifest, or none where an earlier build had one.
fn write_roots(path: &Path, roots: &[u8]) -> Result<()> {
    if !roots.is_empty() {
        return stamp::write(path, roots);
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Builds everything that changed.
///
/// # Errors
/// With the step that failed and why.
pub fn build(paths: &Paths, options: &Options, progress: &Progress) -> Result<Images> {
    packages::ensure_installed(&[Purpose::Build], progress)?;
    let signers = Signers::load(
        paths,
        &options.key,
        options.trust_root.as_deref(),
        options.roots.as_deref(),
    )?;
    if let Some(made) = &signers.made {
        progress.announce(
            "key",
            &format!("made the development key {}", paths::shown(made)),
        );
    }
    stamp::remove_leftovers(paths.out());
    let build = Build { paths, progress };
    let kernel = build.kernel(options)?;
    let init = build.program(programs::INIT)?;
    let plasmd = build.program(programs::PLASMD)?;
    run::link_tools(&paths.output("plasmd"))?;
    let trust_root = signers.carried.root.to_json();
    stamp::write(&paths.output("trust-root.json"), trust_root.as_bytes())?;
    write_roots(&paths.output("roots.json"), &signers.carried.roots)?;

    let image_info = facts::image_info(facts::built_at(paths.root())?);
    let initramfs = build.initramfs(&initramfs::Recipe {
        init: &init,
        plasmd: &plasmd,
        trust_root: trust_root.as_bytes(),
        roots: &signers.carried.roots,
        image_info: &image_info,
    })?;
    let uki = build.uki(&kernel, &initramfs)?;
    let parts = [
        ("kernel", "vmlinuz", kernel.as_slice()),
        ("initramfs", "initramfs.img", initramfs.as_slice()),
        ("uki", "phase.efi", uki.as_slice()),
    ];
    let squashfs = build.squashfs(&parts)?;
    let manifest = build.manifest(&signers, &parts, &squashfs)?;
    let loader = Loader::make(facts::CMDLINE, paths.out())?;
    build.disk(&disk::Recipe {
        uki: &uki,
        kernel: &kernel,
        initramfs: &initramfs,
        loader: &loader,
        manifest: &manifest,
        squashfs: &squashfs,
    })?;
    build.images(signers.root.is_development())
}

/// An artifact: its name in the manifest, its file name, its bytes.
type Part<'a> = (&'a str, &'a str, &'a [u8]);

struct Build<'a> {
    paths: &'a Paths,
    progress: &'a Progress,
}

impl Build<'_> {
    /// Makes one output when it is not what its inputs give already, and returns its bytes.
    fn output(
        &self,
        name: &'static str,
        inputs: &Inputs,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Vec<u8>> {
        let path = self.paths.output(name);
        self.progress.step(name, || {
            let outcome = stamp::unless_unchanged(&path, &self.paths.stamps(), inputs, make)?;
            Ok((read(&path)?, outcome))
        })
    }

    fn kernel(&self, options: &Options) -> Result<Vec<u8>> {
        let started = Instant::now();
        let source = match &options.kernel {
            Some(file) => file.clone(),
            None => kernel::build(self.paths, self.progress)?.bzimage,
        };
        let bytes = read(&source)?;
        ensure!(
            bytes.get(0x202..0x206) == Some(b"HdrS"),
            "{} is no bzImage",
            source.display()
        );
        self.copy("vmlinuz", &bytes, started)
    }

    fn program(&self, program: programs::Program) -> Result<Vec<u8>> {
        let started = Instant::now();
        let bytes = read(&programs::build(self.paths, program)?)?;
        self.copy(program.binary, &bytes, started)
    }

    /// Puts a copy beside the images, so that one folder holds everything that belongs together.
    fn copy(&self, name: &'static str, bytes: &[u8], started: Instant) -> Result<Vec<u8>> {
        let path = self.paths.output(name);
        let same = std::fs::read(&path).is_ok_and(|old| old == bytes);
        if !same {
            stamp::write_with_mode(&path, bytes, 0o755)?;
        }
        self.progress.end(
            name,
            if same { "unchanged" } else { "done" },
            started.elapsed(),
        );
        Ok(bytes.to_vec())
    }

    fn initramfs(&self, recipe: &initramfs::Recipe<'_>) -> Result<Vec<u8>> {
        let inputs = Inputs::new()
            .with("init", recipe.init)
            .with("plasmd", recipe.plasmd)
            .with("trust root", recipe.trust_root)
            .with("root chain", recipe.roots)
            .with("image info", recipe.image_info);
        self.output("initramfs.img", &inputs, |path| {
            Ok(std::fs::write(path, initramfs::write(recipe)?)?)
        })
    }

    /// What is listed in the manifest, and beside it what firmware may ask for and a signed squashfs vouches for.
    fn squashfs(&self, parts: &[Part<'_>; 3]) -> Result<Vec<u8>> {
        let folder = format!("{}/{}", facts::CHANNEL, facts::ARCH.as_str());
        let (programs, licences) = (boot_files::programs()?, boot_files::licences()?);
        let mut recipe = squashfs::Recipe::new();
        let [(_, _, kernel), (_, _, initramfs), (_, program, uki)] = parts;
        for (_, file, content) in &parts[..2] {
            recipe.insert(format!("{folder}/{file}"), content);
        }
        // init puts the rest of it together where it is served.
        let head = uki::head(uki, kernel, initramfs)?;
        recipe.insert(format!("{folder}/{program}{}", uki::HEAD_SUFFIX), head);
        for program in &programs {
            recipe.insert(format!("{folder}/{}", program.name), &program.content);
        }
        for licence in &licences {
            recipe.insert(licence.name.clone(), &licence.content);
        }
        let inputs = recipe
            .iter()
            .fold(Inputs::new(), |inputs, (path, content)| {
                inputs.with(path, content)
            });
        self.output("rootfs.squashfs", &inputs, |path| {
            Ok(squashfs::write(&recipe, std::fs::File::create(path)?)?)
        })
    }

    fn manifest(&self, signers: &Signers, parts: &[Part<'_>], squashfs: &[u8]) -> Result<Vec<u8>> {
        let path = self.paths.output("manifest.json");
        let existing = std::fs::read(&path).ok();
        self.progress.step("manifest.json", || {
            let rootfs = ("rootfs", "rootfs.squashfs", squashfs);
            let artifacts: Vec<Part<'_>> = parts.iter().copied().chain([rootfs]).collect();
            let signed = signers.manifest(&artifacts, existing.as_deref())?;
            if signed.reused {
                return Ok((signed.bytes, Outcome::Unchanged));
            }
            stamp::write(&path, &signed.bytes)?;
            Ok((signed.bytes, Outcome::Done))
        })
    }

    fn uki(&self, kernel: &[u8], initramfs: &[u8]) -> Result<Vec<u8>> {
        let stub = read(Path::new(uki::STUB))?;
        let os_release = facts::os_release();
        let recipe = uki::Recipe {
            stub: &stub,
            os_release: &os_release,
            cmdline: facts::CMDLINE,
            kernel,
            initramfs,
        };
        let inputs = Inputs::new()
            .with("stub", &stub)
            .with("os-release", os_release.as_bytes())
            .with("cmdline", facts::CMDLINE.as_bytes())
            .with("kernel", kernel)
            .with("initramfs", initramfs);
        let bytes = self.output("phase.efi", &inputs, |path| {
            Ok(std::fs::write(path, uki::write(&recipe)?)?)
        })?;
        if bytes.len() as u64 > UKI_BYTES_GOAL {
            let size = progress::size(bytes.len() as u64);
            self.progress.announce(
                "warning",
                &format!("phase.efi has {size}, more than the goal of 12 MiB"),
            );
        }
        Ok(bytes)
    }

    fn disk(&self, recipe: &disk::Recipe<'_>) -> Result<()> {
        let inputs = Inputs::new()
            .with("uki", recipe.uki)
            .with("kernel", recipe.kernel)
            .with("initramfs", recipe.initramfs)
            .with("boot sector", recipe.loader.parts()[0])
            .with("loader", recipe.loader.parts()[1])
            .with("manifest", recipe.manifest)
            .with("squashfs", recipe.squashfs)
            .with("room for upgrades", &disk::SLOT_BYTES.to_le_bytes());
        self.output("phase.img", &inputs, |path| {
            let mut options = std::fs::OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).open(path)?;
            disk::write(recipe, file)?;
            Ok(())
        })?;
        Ok(())
    }

    fn images(&self, development: bool) -> Result<Images> {
        const OUTPUTS: [&str; 9] = [
            "vmlinuz",
            "init",
            "plasmd",
            "trust-root.json",
            "initramfs.img",
            "phase.efi",
            "rootfs.squashfs",
            "manifest.json",
            "phase.img",
        ];
        let outputs = OUTPUTS.into_iter().map(|name| {
            let path = self.paths.output(name);
            let bytes = read(&path)?;
            Ok(Output {
                name,
                path,
                size: bytes.len() as u64,
                sha256: Digest::of(&bytes),
            })
        });
        Ok(Images {
            outputs: outputs.collect::<Result<_>>()?,
            development,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

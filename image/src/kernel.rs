//! The kernel of the appliance: Debian's source, our configuration, one bzImage that every build of the image shares.
//!
//! ```text
//! linux-source tarball -+
//! fragments ------------+-> key -> in the cache? -> use it
//! compiler, settings ---+           no: unpack, configure, check every option, compile, keep
//! ```
//! The configuration starts from the kernel's own `tinyconfig`, which says no to everything, and answers yes to what the
//! fragments name ([`fragment`]). A wish that the kernel's tools drop fails the build ([`check`]). The same source, fragments
//! and compiler give the same bytes: nothing of this machine, its user, its clock or its environment goes in ([`compile`]).
//! Never loads, boots or installs a kernel.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use boot_manifest::{Digest, Hasher};

use crate::paths::Paths;
use crate::progress::Progress;

pub mod cache;
pub mod check;
pub mod compile;
pub mod fragment;
pub mod source;

use cache::{Cache, Entry, Facts, Lock};
use check::{Config, KnownOptions};
use compile::Make;
use fragment::Wanted;
use source::Source;

/// Raised when this module makes another kernel of the same inputs.
const FORMAT: u32 = 1;

/// What the kernel may weigh: the unified kernel image with everything else has 12 MiB.
pub const BZIMAGE_BYTES_GOAL: u64 = 8 << 20;

/// Where things come from and go to.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder of the fragments.
    pub fragments: PathBuf,
    /// The source.
    pub tarball: PathBuf,
    /// Folder of finished kernels and running builds.
    pub cache: PathBuf,
}

/// A kernel, built now or before.
#[derive(Debug, Clone)]
pub struct BuiltKernel {
    /// The kernel, in the cache.
    pub bzimage: PathBuf,
    /// Its configuration, in the cache.
    pub config: PathBuf,
    /// What it calls itself (`uname -r`).
    pub version: String,
    /// How long compiling took, when it was done.
    pub seconds: f64,
    /// Whether it was there already.
    pub cached: bool,
    /// How many options are built in.
    pub options: usize,
    /// Its size in bytes.
    pub size: u64,
}

impl Options {
    /// The fragments of this checkout, the installed source, the cache of this user.
    ///
    /// # Errors
    /// When neither XDG_CACHE_HOME nor HOME says where the cache is.
    pub fn of(paths: &Paths) -> Result<Self> {
        let cache = cache_folder(
            std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from),
            std::env::var_os("HOME").map(PathBuf::from),
        );
        Ok(Self {
            fragments: paths.kernel_config(),
            tarball: source::TARBALL.into(),
            cache: cache.context("neither XDG_CACHE_HOME nor HOME says where the cache is")?,
        })
    }
}

/// A relative XDG_CACHE_HOME does not count, as its specification says.
fn cache_folder(xdg: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let base = xdg
        .filter(|path| path.is_absolute())
        .or_else(|| home.map(|home| home.join(".cache")))?;
    Some(base.join("phase-appliance"))
}

/// The kernel of this checkout: from the cache, or built now, which takes minutes.
///
/// # Errors
/// Source, compiler or disk space missing, mistakes in the fragments, options that did not survive, and what the compiler
/// says.
pub fn build(paths: &Paths, progress: &Progress) -> Result<BuiltKernel> {
    build_with(&Options::of(paths)?, progress)
}

/// As [`build`], with everything chosen.
///
/// # Errors
/// As [`build`].
pub fn build_with(options: &Options, progress: &Progress) -> Result<BuiltKernel> {
    let wanted = Wanted::read(&options.fragments)?;
    let source = Source::find(&options.tarball)?;
    let tools = compile::tool_versions()?;
    let key = key(&source, &wanted, &tools);
    let cache = Cache::at(&options.cache);
    if let Some(entry) = cache.entry(&key) {
        return Ok(built(entry, true));
    }
    let lock = cache.lock()?;
    // Another build may have made it while this one waited.
    if let Some(entry) = cache.entry(&key) {
        return Ok(built(entry, true));
    }
    let job = Job {
        wanted: &wanted,
        source: &source,
        tools,
        key: &key,
        cache: &cache,
        progress,
    };
    Ok(built(job.run(&lock)?, false))
}

/// The kernel of this checkout when it was built already; never builds.
///
/// # Errors
/// As [`build`], as far as the inputs are concerned.
pub fn cached(options: &Options) -> Result<Option<BuiltKernel>> {
    let wanted = Wanted::read(&options.fragments)?;
    let source = Source::find(&options.tarball)?;
    let key = key(&source, &wanted, &compile::tool_versions()?);
    let entry = Cache::at(&options.cache).entry(&key);
    Ok(entry.map(|entry| built(entry, true)))
}

fn built(entry: Entry, cached: bool) -> BuiltKernel {
    let Entry {
        bzimage,
        config,
        facts,
    } = entry;
    BuiltKernel {
        bzimage,
        config,
        version: facts.version,
        seconds: facts.seconds,
        cached,
        options: facts.options,
        size: facts.size,
    }
}

/// One name for everything that decides the bytes of the kernel. Reasons and order of the fragments do not.
fn key(source: &Source, wanted: &Wanted, tools: &[String]) -> String {
    let settings = compile::SETTINGS.map(|(name, value)| format!("{name}={value}"));
    let mut hasher = Hasher::new();
    let mut part = |text: &str| {
        hasher.update(text.as_bytes());
        hasher.update(&[0]);
    };
    part(&FORMAT.to_string());
    part(&source.digest.to_string());
    part(&wanted.to_config());
    settings.iter().chain(tools).for_each(|text| part(text));
    hasher.finish().hex()[..32].to_owned()
}

/// One build.
struct Job<'a> {
    wanted: &'a Wanted,
    source: &'a Source,
    tools: Vec<String>,
    key: &'a str,
    cache: &'a Cache,
    progress: &'a Progress,
}

impl Job<'_> {
    fn run(self, lock: &Lock) -> Result<Entry> {
        let work = self.cache.work(lock)?;
        let log = self.cache.log(self.key);
        let _ = std::fs::remove_file(&log);
        let tarball = self.source.tarball.display();
        self.progress
            .announce("kernel", &format!("unpacking {tarball}"));
        let tree = self.source.unpack(&work.path().join("linux"))?;
        let make = Make { tree: &tree, log };

        let answers = work.path().join("answers.config");
        std::fs::write(&answers, answers_of(&tree.tiny_config()?, self.wanted))
            .context("cannot write the answers for the kernel's configuration")?;
        make.configure(&answers)?;
        let config_file = tree.path.join(".config");
        let config = read_config(&config_file)?;
        check::survived(
            self.wanted,
            &config,
            Some(&KnownOptions::of_source(&tree.path)?),
        )?;

        let steps = self.cache.steps().unwrap_or(compile::STEPS_ESTIMATE);
        let started = Instant::now();
        self.progress.announce(
            "kernel",
            &format!("compiling with {} options", config.enabled()),
        );
        let steps = make.image(steps)?;
        let seconds = started.elapsed().as_secs_f64();

        // Again: make looks at the configuration once more before it compiles.
        let config_text = std::fs::read(&config_file).context("cannot read the configuration")?;
        let config = read_config(&config_file)?;
        check::survived(self.wanted, &config, None)?;
        let bzimage = read_bzimage(&tree.path.join("arch/x86/boot/bzImage"))?;
        let release = std::fs::read_to_string(tree.path.join("include/config/kernel.release"))
            .context("the build left no kernel.release")?;
        let facts = Facts {
            version: release.trim().to_owned(),
            source: self.source.digest,
            tools: self.tools,
            seconds,
            steps,
            options: config.enabled(),
            size: u64::try_from(bzimage.len())?,
            bzimage: Digest::of(&bzimage),
            config: Digest::of(&config_text),
        };
        self.cache
            .publish(self.key, &bzimage, &config_text, &facts, &work)
    }
}

/// The kernel's own tiny configuration, except where a fragment speaks, and the fragments.
fn answers_of(tiny: &str, wanted: &Wanted) -> String {
    let decided = |line: &&str| {
        let name = line.split_once('=').map_or(*line, |(name, _)| name);
        wanted.get(name).is_none() && !line.is_empty() && !line.starts_with('#')
    };
    let tiny: String = tiny
        .lines()
        .filter(decided)
        .map(|line| format!("{line}\n"))
        .collect();
    tiny + &wanted.to_config()
}

fn read_config(path: &Path) -> Result<Config> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("the kernel's tools left no {}", path.display()))?;
    let config = Config::parse(&text);
    let modules: Vec<&str> = config.modules().collect();
    ensure!(
        modules.is_empty(),
        "the configuration holds modules: {}",
        modules.join(" ")
    );
    Ok(config)
}

fn read_bzimage(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path)
        .with_context(|| format!("make succeeded but left no {}", path.display()))?;
    if bytes.get(0x202..0x206) != Some(b"HdrS") {
        bail!("make succeeded but {} is no kernel", path.display());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;

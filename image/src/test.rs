//! `cargo appliance test`: every check of the house, each in bounded time, one line at the end.
//!
//! Suites run one after the other and all of them run, whatever failed before; only the machines need the build to have
//! worked. The complete output of each is in target/appliance/logs.

use std::collections::BTreeSet;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

use crate::bounded::{self, Ended};
use crate::packages::{self, Purpose};
use crate::paths::{self, Paths};
use crate::progress::Progress;
use crate::tally::{self, Tally};
use crate::{accel, boot_paths, cli, programs};

/// A part of the tests.
struct Suite {
    name: &'static str,
    about: &'static str,
    limit: Duration,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One cargo command that succeeds or not.
    Check(&'static [&'static str]),
    /// `cargo deny`, which not everybody has.
    Dependencies,
    /// `cargo appliance build`.
    Build,
    /// Cargo's tests with these arguments.
    Tests(&'static [&'static str]),
}

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

const SUITES: &[Suite] = &[
    Suite {
        name: "format",
        about: "rustfmt would change nothing",
        limit: minutes(2),
        kind: Kind::Check(&["fmt", "--all", "--check"]),
    },
    Suite {
        name: "build",
        about: "kernel, programs and images are built",
        limit: minutes(40),
        kind: Kind::Build,
    },
    Suite {
        name: "lint",
        about: "clippy has no warnings",
        limit: minutes(15),
        kind: Kind::Check(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "--deny",
            "warnings",
        ]),
    },
    Suite {
        name: "dependencies",
        about: "licences, bans and sources are as .deny.toml wants them",
        limit: minutes(3),
        kind: Kind::Dependencies,
    },
    Suite {
        name: "unit",
        about: "the tests of every crate",
        limit: minutes(20),
        kind: Kind::Tests(&["--workspace", "--exclude", "qemu-tests"]),
    },
    Suite {
        name: "images",
        about: "images read back by other implementations, squashfs-ng among them",
        limit: minutes(10),
        kind: Kind::Tests(&[
            "--package",
            "image",
            "--features",
            "squashfs-ng",
            "--test",
            "it",
        ]),
    },
    Suite {
        name: "machines",
        about: "appliances boot, serve and boot each other in QEMU",
        limit: minutes(45),
        kind: Kind::Tests(&["--package", "qemu-tests"]),
    },
];

/// Runs the command.
///
/// # Errors
/// When packages are missing or a suite's program cannot be started. Failing tests are a failing exit code.
pub fn command(paths: &Paths, arguments: &cli::Test, progress: &Progress) -> Result<ExitCode> {
    let suites = chosen(arguments)?;
    packages::ensure_installed(&[Purpose::Build, Purpose::Run, Purpose::Test], progress)?;
    let started = Instant::now();
    let mut all = Tally::default();
    let mut built = true;
    for suite in suites {
        let run = Run {
            paths,
            arguments,
            suite,
            progress,
            built,
        };
        let tally = run.suite()?;
        built &= suite.kind != Kind::Build || tally.failed.is_empty();
        all.add(suite.name, tally);
    }
    println!();
    for (name, reason) in &all.skipped {
        println!("skipped  {name}: {reason}");
    }
    for name in &all.failed {
        println!("failed   {name}");
    }
    eprintln!("  all of it took {:.0} s", started.elapsed().as_secs_f64());
    println!("{}", all.summary());
    let good = all.failed.is_empty() && all.passed > 0;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The suites asked for; with a filter only those that have tests to filter, and the build they need.
fn chosen(arguments: &cli::Test) -> Result<Vec<&'static Suite>> {
    let wanted: BTreeSet<&str> = arguments.suite.iter().map(String::as_str).collect();
    if let Some(unknown) = wanted
        .iter()
        .find(|name| SUITES.iter().all(|suite| suite.name != **name))
    {
        let names = SUITES
            .iter()
            .map(|suite| format!("  {:<14}{}\n", suite.name, suite.about));
        bail!(
            "there is no suite {unknown:?}; there are\n{}",
            names.collect::<String>()
        );
    }
    let suites = SUITES
        .iter()
        .filter(|suite| wanted.is_empty() || wanted.contains(suite.name));
    let filtered = |suite: &&Suite| {
        arguments.filter.is_none() || matches!(suite.kind, Kind::Tests(_) | Kind::Build)
    };
    Ok(suites.filter(filtered).collect())
}

struct Run<'a> {
    paths: &'a Paths,
    arguments: &'a cli::Test,
    suite: &'a Suite,
    progress: &'a Progress,
    built: bool,
}

impl Run<'_> {
    /// Runs the suite and says how it went.
    fn suite(&self) -> Result<Tally> {
        let started = Instant::now();
        self.progress.begin(self.suite.name);
        let tally = match self.suite.kind {
            Kind::Check(arguments) => {
                let mut cargo = programs::cargo(self.paths);
                cargo.args(arguments);
                self.one(self.run(cargo, false)?)
            }
            Kind::Dependencies => self.dependencies()?,
            Kind::Build => {
                self.progress.announce("build", self.suite.about);
                let mut build = Command::new(std::env::current_exe()?);
                build.arg("build").current_dir(self.paths.root());
                self.one(self.run(build, true)?)
            }
            Kind::Tests(_) if self.suite.name == "machines" && !self.built => {
                Tally::one_skipped("all", "the images were not built")
            }
            Kind::Tests(arguments) => self.tests(arguments)?,
        };
        self.progress
            .end(self.suite.name, &tally.summary(), started.elapsed());
        Ok(tally)
    }

    /// How long the suite may take.
    fn limit(&self) -> Duration {
        if self.arguments.long && self.suite.name == "machines" {
            LONG_LIMIT
        } else {
            self.suite.limit
        }
    }

    fn run(&self, mut command: Command, show: bool) -> Result<Ended> {
        let log = self.paths.logs().join(format!("{}.log", self.suite.name));
        command
            .env("CARGO_TERM_COLOR", "never")
            .env("CARGO_TERM_PROGRESS_WHEN", "never");
        let limit = self.limit();
        let ended = bounded::run(command, limit, &log, show)?;
        if ended.status.is_none() {
            eprintln!(
                "  {} took longer than {} minutes",
                self.suite.name,
                limit.as_secs() / 60
            );
        }
        if !ended.success() {
            if !show {
                eprint!("{}", tail(&ended.output));
            }
            eprintln!("  the complete output is in {}", paths::shown(&log));
        }
        Ok(ended)
    }

    fn one(&self, ended: Ended) -> Tally {
        if ended.success() {
            Tally::one_passed()
        } else {
            Tally::one_failed(self.suite.about)
        }
    }

    fn dependencies(&self) -> Result<Tally> {
        let mut present = programs::cargo(self.paths);
        if !present
            .args(["deny", "--version"])
            .output()
            .is_ok_and(|output| output.status.success())
        {
            return Ok(Tally::one_skipped(
                "cargo deny",
                "cargo-deny is not installed (cargo install cargo-deny)",
            ));
        }
        let mut deny = programs::cargo(self.paths);
        deny.args([
            "deny",
            "--config",
            ".deny.toml",
            "check",
            "licenses",
            "bans",
            "sources",
        ]);
        Ok(self.one(self.run(deny, false)?))
    }

    fn tests(&self, arguments: &[&str]) -> Result<Tally> {
        let mut cargo = programs::cargo(self.paths);
        cargo
            .arg("test")
            .arg("--no-fail-fast")
            .args(arguments)
            .arg("--");
        if let Some(filter) = &self.arguments.filter {
            cargo.arg(filter);
        }
        if self.built && self.paths.output("phase.img").exists() {
            cargo.env("PHASE_APPLIANCE_DIR", self.paths.out());
        }
        if self.suite.name == "machines" {
            let kernel = self.paths.output("vmlinuz");
            let acceleration =
                accel::choose(self.paths, self.arguments.accel, &kernel, self.progress)?;
            cargo.env("PHASE_ACCEL", acceleration.option());
            // A copy: cargo may have put another program in the place of this one since it started.
            let tool = self.paths.output("appliance");
            std::fs::copy("/proc/self/exe", &tool)
                .with_context(|| format!("write {}", paths::shown(&tool)))?;
            cargo.env("PHASE_APPLIANCE_TOOL", tool);
            if self.arguments.long {
                cargo.env(LONG, "1");
            }
            if let Some(seed) = self.arguments.seed {
                cargo.env(SEED, seed.to_string());
            }
        } else {
            // Unpacked, not installed: the package would start a server on port 80.
            let nginx = packages::unpacked("nginx", "nginx", &self.paths.output("nginx"))?;
            cargo.env("PHASE_NGINX", nginx);
            // Tests of this machine's abilities tell their reason for skipping in their captured output.
            cargo.arg("--show-output");
        }
        if self.suite.name == "unit" && std::env::var_os(THREADS).is_none() {
            cargo.env(THREADS, threads().to_string());
        }
        let started = SystemTime::now();
        let ended = self.run(cargo, self.suite.name == "machines")?;
        if self.arguments.readme && self.suite.name == "machines" {
            let table = boot_paths::table(&self.paths.logs().join("qemu"), started)?;
            boot_paths::BLOCK.write(self.paths, &table)?;
        }
        let mut tally = tally::read(&ended.output);
        if !ended.success() && tally.failed.is_empty() {
            let why = if ended.status.is_none() {
                "took too long"
            } else {
                "ended with an error before its tests did"
            };
            tally.failed.push(why.into());
        }
        Ok(tally)
    }
}

/// What tells the tests of power cuts that there shall be a thousand, and where their random choices begin.
const LONG: &str = "PHASE_LONG";
const SEED: &str = "PHASE_SEED";

/// The machines with a thousand power cuts: two at once, some ten seconds each on two busy processors.
const LONG_LIMIT: Duration = minutes(300);

/// What tells the tests' own harness how many run at once.
const THREADS: &str = "RUST_TEST_THREADS";

/// Half as many again as there are processors: many tests wait for the timers of protocols, on a process of their own.
fn threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    processors + processors.div_ceil(2)
}

/// The last lines of a failed suite: enough to see what it was.
fn tail(output: &str) -> String {
    const LINES: usize = 60;
    const NOISE: [&str; 5] = [
        "Compiling ",
        "Checking ",
        "Downloading ",
        "Downloaded ",
        "Blocking ",
    ];
    let worth_reading = |line: &&str| !NOISE.iter().any(|word| line.trim_start().starts_with(word));
    let lines: Vec<&str> = output.lines().filter(worth_reading).collect();
    let from = lines.len().saturating_sub(LINES);
    lines[from..]
        .iter()
        .map(|line| format!("  | {line}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(suite: &[&str], filter: Option<&str>) -> cli::Test {
        cli::Test {
            suite: suite.iter().map(|name| (*name).to_owned()).collect(),
            filter: filter.map(str::to_owned),
            accel: cli::Accel::Auto,
            readme: false,
            long: false,
            seed: None,
        }
    }

    #[test]
    fn suites_are_chosen_by_name_and_filter() {
        let check = |suite: &[&str], filter, expected: &[&str]| {
            let chosen = chosen(&arguments(suite, filter)).unwrap();
            assert_eq!(
                chosen.iter().map(|suite| suite.name).collect::<Vec<_>>(),
                expected
            );
        };
        check(
            &[],
            None,
            &SUITES.iter().map(|suite| suite.name).collect::<Vec<_>>(),
        );
        check(&["unit", "format"], None, &["format", "unit"]);
        check(&[], Some("kexec"), &["build", "unit", "images", "machines"]);
        check(&["machines"], Some("kexec"), &["machines"]);
        let error = chosen(&arguments(&["unti"], None))
            .err()
            .expect("an unknown suite is refused");
        assert!(error.to_string().contains("machines"), "{error}");
    }

    #[test]
    fn a_long_output_is_cut_to_its_end() {
        let output: String = (0..500).map(|n| format!("line {n}\n")).collect();
        let tail = tail(&output);
        assert!(tail.ends_with("  | line 499\n") && tail.lines().count() == 60);
        assert_eq!(super::tail("   Compiling x v1.0.0\n"), "");
    }
}

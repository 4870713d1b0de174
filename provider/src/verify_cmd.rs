//! `phase-verify`: checks manifests on disk, and artifacts or whole directories against them. Uses no network and writes
//! nothing, but the version file it is told to update.
//!
//! This file decides what is checked against what; `artifacts` hashes, `directory` looks through folders, `floor` keeps the
//! version file, `report` prints.

mod artifacts;
mod directory;
mod floor;
mod limits;
mod report;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use artifact_store::MANIFEST_FILE;
use boot_manifest::{
    Arch, ChainedError, Channel, Expect, Expiry, Floor, MANIFEST_SIZE_MAX, Manifest, Verified,
    verify, walk_roots,
};

use crate::exit::{CommandError, Exit};
use crate::progress::Meter;
use crate::trust::{self, Trust};
use artifacts::{Checked, Wanted};
use directory::Tree;
use floor::Accepted;

/// The flags.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// MANIFEST, then the artifacts to check against it: PATH, found by its file name, or NAME=PATH (kernel=./bzImage). Or a
    /// directory: every manifest in DIR and DIR/CHANNEL/ARCH, and every file they name
    #[arg(value_name = "FILE")]
    files: Vec<String>,
    /// The manifest; all other files are artifacts then ("-" reads stdin), or the one directory that holds them
    #[arg(short, long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    #[command(flatten)]
    trust: trust::Args,
    /// Refuse manifests older than what this file says was accepted before
    #[arg(long, value_name = "FILE")]
    check_version: Option<PathBuf>,
    /// After success, note the manifest's numbers in the file of --check-version
    #[arg(long, requires = "check_version")]
    update_version: bool,
    /// Accept an expired manifest, and say so
    #[arg(long)]
    allow_expired: bool,
    /// Judge by --check-version alone, not by the time: for machines whose clock cannot be relied on
    #[arg(long, requires = "check_version", conflicts_with = "allow_expired")]
    no_clock: bool,
    /// Of a directory: files that no manifest names are a failure, too
    #[arg(long)]
    strict: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Print nothing but errors; the exit code tells
    #[arg(short, long)]
    quiet: bool,
}

/// Output formats.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs: one object.
    Json,
}

/// One manifest and what shall be checked against it.
struct Subject {
    manifest: PathBuf,
    purpose: Option<(Channel, Arch)>,
    files: Files,
}

enum Files {
    /// Those a person named.
    Named(Vec<String>),
    /// All that the manifest names, in this folder.
    Folder(PathBuf),
}

/// How one manifest came out.
struct Outcome {
    file: PathBuf,
    result: Result<(Verified<Manifest>, Vec<Checked>), Refusal>,
}

/// Why a manifest, or an argument about it, was refused.
struct Refusal {
    /// What the error is about: the manifest, or one argument.
    about: String,
    code: &'static str,
    error: CommandError,
}

/// Everything that was found out.
struct Results {
    outcomes: Vec<Outcome>,
    /// Files of a directory that no manifest names.
    extra: Vec<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(mut args: Args) -> Result<Exit, CommandError> {
    if args.json {
        args.format = Format::Json;
    }
    let (subjects, mut tree) = subjects(&args)?;
    if args.check_version.is_some() && subjects.len() != 1 {
        return Err(CommandError::usage(format!(
            "--check-version is about one manifest, and here are {}",
            subjects.len()
        )));
    }
    let trust = args.trust.load()?;
    let outcomes: Vec<Outcome> = subjects
        .into_iter()
        .map(|subject| examine(&args, &trust, subject))
        .collect();
    let extra = tree.as_mut().map(|tree| unclaimed(tree, &outcomes));
    let results = Results {
        outcomes,
        extra: extra.unwrap_or_default(),
    };
    if !args.quiet {
        report::print(&args, &trust, &results);
    }
    results.end(args.strict)?;
    if args.update_version
        && let Some(file) = &args.check_version
        && let Some(Ok((manifest, _))) = results.outcomes.first().map(|one| &one.result)
    {
        floor::update(file, manifest)?;
    }
    Ok(Exit::Done)
}

/// What the command line asks for, and what lies in the directories it names.
fn subjects(args: &Args) -> Result<(Vec<Subject>, Option<Tree>), CommandError> {
    let named = |manifest: &Path, files: &[String]| Subject {
        manifest: manifest.to_owned(),
        purpose: None,
        files: Files::Named(files.to_vec()),
    };
    match (&args.manifest, args.files.as_slice()) {
        (Some(manifest), [folder]) if Path::new(folder).is_dir() => {
            let folder = PathBuf::from(folder);
            let tree = Tree::below(&folder)?;
            let subject = Subject {
                manifest: manifest.clone(),
                purpose: None,
                files: Files::Folder(folder),
            };
            Ok((vec![subject], Some(tree)))
        }
        (Some(manifest), files) => Ok((vec![named(manifest, files)], None)),
        (None, [root]) if Path::new(root).is_dir() => below(Path::new(root)),
        (None, [first, ..]) if first.starts_with("http://") || first.starts_with("https://") => {
            Err(CommandError::usage(format!(
                "{first}: only files are verified; fetch and verify with: phase-fetch URL"
            )))
        }
        (None, [first, rest @ ..]) => Ok((vec![named(Path::new(first), rest)], None)),
        (None, []) => Err(CommandError::usage("no manifest was named")
            .hint("phase-verify manifest.json vmlinuz -k KEY.pub")),
    }
}

fn below(root: &Path) -> Result<(Vec<Subject>, Option<Tree>), CommandError> {
    let tree = Tree::below(root)?;
    let subjects: Vec<Subject> = tree
        .folders
        .iter()
        .map(|folder| Subject {
            manifest: folder.join(MANIFEST_FILE),
            purpose: directory::purpose(root, folder),
            files: Files::Folder(folder.clone()),
        })
        .collect();
    if subjects.is_empty() {
        return Err(CommandError::failed(format!(
            "{}: there is no {MANIFEST_FILE} in it, nor in a CHANNEL/ARCH below it",
            root.display()
        ))
        .hint("sign what lies there with: plasmd manifest create --artifacts DIR --key FILE"));
    }
    Ok((subjects, Some(tree)))
}

/// Checks one manifest and its files.
fn examine(args: &Args, trust: &Trust, subject: Subject) -> Outcome {
    let result = check_manifest(args, trust, &subject).and_then(|manifest| {
        let wanted = wanted(&manifest, &subject.files)?;
        let name = subject.purpose.as_ref().map_or_else(
            || "verifying".to_owned(),
            |(channel, arch)| format!("{channel}/{arch}"),
        );
        let shown = !args.quiet && args.format == Format::Text && std::io::stderr().is_terminal();
        Ok((manifest, artifacts::check(wanted, Meter::new(&name, shown))))
    });
    Outcome {
        file: subject.manifest,
        result,
    }
}

fn wanted(manifest: &Manifest, files: &Files) -> Result<Vec<Wanted>, Refusal> {
    match files {
        Files::Named(arguments) => {
            let each = arguments.iter().map(|argument| {
                artifacts::wanted(manifest, argument).map_err(|error| Refusal {
                    about: argument.clone(),
                    code: "not-checked",
                    error,
                })
            });
            each.collect()
        }
        Files::Folder(folder) => {
            let each = manifest.artifacts.iter().map(|artifact| Wanted {
                artifact: artifact.clone(),
                path: folder.join(artifact.filename.as_str()),
                named: false,
            });
            Ok(each.collect())
        }
    }
}

fn check_manifest(
    args: &Args,
    trust: &Trust,
    subject: &Subject,
) -> Result<Verified<Manifest>, Refusal> {
    let file = &subject.manifest;
    let refusal = |code, error| Refusal {
        about: file.display().to_string(),
        code,
        error,
    };
    let older = |error: floor::Older| {
        let message = format!("{}: {error}", file.display());
        refusal(error.code(), CommandError::failed(message))
    };
    let accepted = match &args.check_version {
        Some(version_file) => floor::read(version_file, args.update_version)
            .map_err(|error| refusal("local", error))?,
        None => Accepted::default(),
    };
    let local = |error| refusal("local", error);
    let bytes = trust::read(file, MANIFEST_SIZE_MAX, "manifest").map_err(local)?;
    let root = match trust::roots_beside(file).map_err(local)? {
        Some(roots) => walk_roots(&roots, &trust.root).map_err(|error| {
            let (code, error) = (error.code(), ChainedError::Chain(error));
            refusal(code, trust::refused(file, &error))
        })?,
        None => trust.root.clone(),
    };
    let floor: Floor = accepted.floor(root.generation()).map_err(older)?;
    let expiry = match (args.no_clock, args.allow_expired) {
        (true, _) => Expiry::Report,
        (false, true) => Expiry::Accept,
        (false, false) => Expiry::Refuse,
    };
    let expect = Expect {
        now: trust::now(),
        floor,
        channel: subject.purpose.as_ref().map(|(channel, _)| channel),
        arch: subject.purpose.as_ref().map(|(_, arch)| *arch),
        expiry,
    };
    let manifest = verify(&bytes, &root, &expect).map_err(|error| {
        let (code, error) = (error.code(), ChainedError::Manifest(error));
        refusal(code, trust::refused(file, &error))
    })?;
    accepted.check_jump(&manifest).map_err(older)?;
    if args.allow_expired && manifest.expired() {
        tracing::warn!(expired_at = %manifest.expires_at, now = %expect.now, "an expired manifest is accepted because of --allow-expired");
    }
    Ok(manifest)
}

/// The files of `tree` that none of the manifests names.
fn unclaimed(tree: &mut Tree, outcomes: &[Outcome]) -> Vec<PathBuf> {
    let good = outcomes.iter().filter_map(|one| one.result.as_ref().ok());
    for one in good.flat_map(|(_, checked)| checked) {
        tree.claim(&one.path);
    }
    // Of a manifest that is not believed it is not known which files it is about.
    let doubtful: Vec<&Path> = outcomes
        .iter()
        .filter(|one| one.result.is_err())
        .filter_map(|one| one.file.parent())
        .collect();
    let extra = tree.extra();
    extra
        .filter(|path| {
            !path
                .parent()
                .is_some_and(|folder| doubtful.contains(&folder))
        })
        .map(Path::to_owned)
        .collect()
}

impl Results {
    /// Every problem with its stable name, the first first.
    fn problems(&self, strict: bool) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        for outcome in &self.outcomes {
            match &outcome.result {
                Err(refusal) => all.push((refusal.code, refusal.error.to_string())),
                Ok((_, checked)) => all.extend(
                    checked
                        .iter()
                        .filter_map(|one| Some((one.code()?, one.problem()?))),
                ),
            }
        }
        if strict {
            let extra = self.extra.iter();
            all.extend(extra.map(|path| {
                let path = artifacts::shown(path);
                ("extra-file", format!("{path}: no manifest names this file"))
            }));
        }
        all
    }

    /// The outcome of the command: the only refusal as it is, with its hint, else all problems, one a line.
    fn end(&self, strict: bool) -> Result<(), CommandError> {
        if let [outcome] = self.outcomes.as_slice()
            && let Err(refusal) = &outcome.result
        {
            return Err(refusal.error.clone());
        }
        let problems = self.problems(strict);
        if problems.is_empty() {
            return Ok(());
        }
        let lines: Vec<&str> = problems.iter().map(|(_, line)| line.as_str()).collect();
        let lines = lines.join("\nerror: ");
        if problems.iter().all(|(code, _)| *code == "local") {
            return Err(CommandError::local(lines));
        }
        let failed = CommandError::failed(lines);
        Err(match problems[0].0 {
            "bad-hash" | "missing-file" => failed
                .hint("fetch the file again with phase-fetch, which verifies while it downloads"),
            "extra-file" => failed.hint("take these files away, or leave out --strict"),
            _ => failed,
        })
    }
}
